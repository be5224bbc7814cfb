"""What a run comes to. `unknown` is what could not be judged, such as a fault that never fired: never a pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Of an expectation, and of a whole run."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNKNOWN = "unknown"


class Ended(StrEnum):
    """How a run ended: with a verdict, or not played at all, for a reason."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One expectation, what was measured, and what that comes to."""

    checker: str
    """Its name, as in `CHECKERS`."""
    expected: str
    measured: str
    verdict: Verdict
    device: str = ""
    """The device that it is about; empty: all, or none."""


def overall(findings: Iterable[Finding]) -> Verdict:
    """`fail` when anything failed, else `unknown` when anything is, or there is nothing; else `pass`."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.UNKNOWN
