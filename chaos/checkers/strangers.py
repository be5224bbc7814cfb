"""Whether anybody got in who has no business there, and whether a file got out of its image."""

from __future__ import annotations

from chaos.checkers.case import Case
from chaos.verdict import Finding, Verdict

NAME = "nobody-got-in"
OUT = "nothing-got-out"


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


def nothing_got_out(case: Case) -> list[Finding]:
    """Every file that wanted to be written outside of its image was not. Not asked where none did."""
    asked, of = "every file stays in its image", case.history.of
    lured = {str(event.data.get("path")) for event in of("hostile", "lured")}
    out = {str(event.data.get("path")) for event in of("hostile", "got-out")}
    stayed = {str(event.data.get("path")) for event in of("hostile", "stayed-in")}
    if out:
        return [Finding(OUT, asked, f"written outside: {', '.join(sorted(out))}", Verdict.FAIL)]
    if unseen := lured - stayed:
        told = f"not looked for in the end: {', '.join(sorted(unseen))}"
        return [Finding(OUT, asked, told, Verdict.UNKNOWN)]
    return [Finding(OUT, asked, f"{len(lured)} wanted to, none was written", Verdict.PASS)] if lured else []
