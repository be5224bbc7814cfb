"""Whether anybody got in who has no business there."""

from __future__ import annotations

from chaos.checkers.case import Case
from chaos.verdict import Finding, Verdict

NAME = "nobody-got-in"


def nobody_got_in(case: Case) -> list[Finding]:
    """Every stranger who knocked at the broker was refused. Not asked where nobody knocked."""
    knocked = list(case.history.of("hostile", "knocked"))
    inside = list(case.history.of("hostile", "got-in"))
    if not knocked and not inside:
        return []
    if inside:
        who = ", ".join(dict.fromkeys(str(event.data.get("who")) for event in inside))
        return [Finding(NAME, "every stranger is refused", f"got in: {who}", Verdict.FAIL)]
    if unheard := [event for event in knocked if not event.data.get("ended")]:
        return [
            Finding(
                NAME, "every stranger is refused", f"{len(unheard)} of {len(knocked)} knocks had no end", Verdict.UNKNOWN
            )
        ]  # fmt: skip
    return [Finding(NAME, "every stranger is refused", f"{len(knocked)} knocked, none got in", Verdict.PASS)]
