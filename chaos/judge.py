"""The judge: runs the checkers that apply over a run that is over. It sees the history, never the live parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from chaos.checkers import CHECKERS, Case, Checker, Missing
from chaos.checkers.case import number
from chaos.checkers.evidence import downtime_ms, last_job, reason_of, rollback_ms
from chaos.result import DeviceRow
from chaos.scenario.model import Invariant
from chaos.verdict import Finding, Verdict

_log = logging.getLogger(__name__)
_GATE = "steady"
_PLAYED = frozenset({"faults-fired", "method-played"})
_EXPECTED = frozenset(
    {
        "outcome",
        "status",
        "reason",
        "runs",
        "refused",
        "downtime",
        "rollback",
        "untouched",
        "delivery",
        "converges-in",
    }
)
"""What a scenario expects of its faults, beside what must hold whatever happens."""
_INVARIANTS = frozenset(invariant.value for invariant in Invariant)
T = TypeVar("T")


def judge(case: Case) -> tuple[list[Finding], list[DeviceRow]]:
    """The findings in the order of `CHECKERS`, and what each device lived through.

    A steady state that did not hold is the only finding: nothing that follows from it says anything of the product.
    """
    gate = run(_GATE, CHECKERS[_GATE], case)
    rows = [device_row(case, device) for device in case.devices]
    if any(finding.verdict is not Verdict.PASS for finding in gate):
        return gate, rows
    asked = {invariant.value for invariant in case.scenario.expect.checked}
    found = [
        finding
        for name, checker in CHECKERS.items()
        if name != _GATE and (name not in _INVARIANTS or name in asked)
        for finding in run(name, checker, case)
    ]
    return [*gate, *_blameless(found)], rows


def _blameless(found: list[Finding]) -> list[Finding]:
    """Where a fault was not shown to have happened, an expectation that does not hold says nothing of the product.

    What must hold whatever happens fails all the same.
    """
    if all(f.verdict is not Verdict.UNKNOWN for f in found if f.checker in _PLAYED):
        return found
    return [
        replace(f, verdict=Verdict.UNKNOWN) if f.checker in _EXPECTED and f.verdict is Verdict.FAIL else f
        for f in found
    ]


def run(name: str, checker: Checker, case: Case) -> list[Finding]:
    """A checker's findings; one that raises is a finding itself, and the verdict is unknown."""
    try:
        return checker(case)
    except Exception as error:
        _log.exception("checker failed", extra={"checker": name})
        return [Finding(name, "the checker judges", f"{type(error).__name__}: {error}", Verdict.UNKNOWN)]


def device_row(case: Case, device: str) -> DeviceRow:
    """What a device lived through; what was not seen is empty."""
    job = _seen(lambda: last_job(case, device)) or {}
    end = _seen(lambda: case.end("probe", device)) or {}
    samples = _seen(lambda: case.end("samples", device)) or {}
    lost, broken = number(samples.get("lost")), number(samples.get("broken_at"))
    return DeviceRow(
        device,
        outcome=str(job.get("outcome") or ""),
        reason=reason_of(job),
        status=str(job.get("status") or ""),
        runs=str(end.get("version")) if end.get("good") is True else "",
        downtime_ms=_seen(lambda: downtime_ms(case, device)),
        rollback_ms=_seen(lambda: rollback_ms(case, device)),
        samples_lost=max(lost or 0, 0 if broken is None else 1) if samples else None,
    )


def _seen(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except Missing:
        return None
    except Exception:  # The checker over the same evidence says so in its finding.
        _log.exception("a device's row could not be filled")
        return None
