"""What a run leaves: its row in the report, and the report of several."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from pydantic import TypeAdapter, ValidationError

from chaos.verdict import Ended, Finding
from reference.core.errors import InputError


@dataclass(slots=True)
class FaultRow:
    """One coming of one fault. Times: seconds since the run began."""

    label: str
    fault: str
    nth: int = 1
    """Which of its comings, from 1."""
    device: str = ""
    link: str = ""
    triggered_t: float | None = None
    in_force_t: float | None = None
    healed_t: float | None = None
    lag_ms: float | None = None
    """From what triggered it to its being in force."""
    fired: str = ""
    """What shows that it happened; empty: nothing does."""
    failed: str = ""
    """Why it could not be put in force, or not be healed."""


@dataclass(slots=True)
class DeviceRow:
    """What one device lived through."""

    device: str
    outcome: str = ""
    reason: str = ""
    status: str = ""
    runs: str = ""
    downtime_ms: int | None = None
    rollback_ms: int | None = None
    samples_lost: int | None = None


@dataclass(slots=True)
class RunResult:
    """One scenario, played once."""

    name: str
    """The file's name without its end."""
    file: str
    title: str
    seed: int
    ended: Ended
    reason: str = ""
    """Why it was skipped, or could not be judged; empty for pass and fail."""
    proves: str = ""
    description: str = ""
    tags: list[str] = field(default_factory=list)
    runtime: str = "process"
    findings: list[Finding] = field(default_factory=list)
    plan: list[dict[str, object]] = field(default_factory=list)
    faults: list[FaultRow] = field(default_factory=list)
    devices: list[DeviceRow] = field(default_factory=list)
    began_wall_ms: float = 0.0
    seconds: float = 0.0
    setup_ms: int | None = None
    teardown_ms: int | None = None
    folder: str = ""
    """Where history, logs and journals are; empty when they were not kept."""
    played: int = 1
    """How often, until it could be judged."""
    machine: str = ""
    version: str = ""
    """Of Blackstart."""

    def to_json(self) -> str:
        """As `result.json` has it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises InputError."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"no result of a run: {first['msg']}", where=place) from None


@dataclass(slots=True)
class Report:
    """Several runs."""

    runs: list[RunResult] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, ended: Ended) -> int:
        """How many ended so."""
        return sum(run.ended is ended for run in self.runs)

    def exit_code(self) -> int:
        """1 when one failed, else 3 when one is unknown or nothing was played, else 0. Skips do not fail."""
        if self.count(Ended.FAIL):
            return 1
        return 3 if self.count(Ended.UNKNOWN) or not self.count(Ended.PASS) else 0

    def faults_fired(self) -> dict[str, int]:
        """How many comings of each fault were shown to have happened."""
        return dict(sorted(Counter(f.fault for run in self.runs for f in run.faults if f.fired).items()))

    def to_json(self) -> str:
        """What `--json` prints and `report.json` holds."""
        body = {
            "passed": self.count(Ended.PASS),
            "failed": self.count(Ended.FAIL),
            "unknown": self.count(Ended.UNKNOWN),
            "skipped": [{"name": r.name, "reason": r.reason} for r in self.runs if r.ended is Ended.SKIPPED],
            "faults_fired": self.faults_fired(),
            "seconds": round(self.seconds, 1),
            "runs": [asdict(run) for run in self.runs],
        }
        return json.dumps(body, indent=1)

    @classmethod
    def of(cls, runs: Sequence[RunResult], seconds: float) -> Self:
        """In the order of their names."""
        return cls(sorted(runs, key=lambda run: run.name), seconds)
