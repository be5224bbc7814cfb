"""What a soak comes to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Self

from pydantic import TypeAdapter, ValidationError

from chaos.soak.found import Violation
from reference.core.errors import InputError


@dataclass(slots=True)
class SoakResult:
    """One soak."""

    minutes: float
    seed: int
    devices: int
    updates: dict[str, int] = field(default_factory=dict)
    """Jobs that have ended, by outcome; by status where the device said none."""
    faults_fired: dict[str, int] = field(default_factory=dict)
    """Comings that were shown to have happened to somebody, by the fault's name."""
    faults_unshown: dict[str, int] = field(default_factory=dict)
    """Comings that nobody met, or that could not be: they prove nothing."""
    rounds: int = 0
    """Those that were played and judged."""
    findings: int = 0
    """Looks of the checkers at one device in one round."""
    unjudged: int = 0
    """Of these, those that could not be judged."""
    violations: list[Violation] = field(default_factory=list)
    scenarios: list[str] = field(default_factory=list)
    """Files that show a violation again."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Faults that were not drawn, and why."""
    problems: list[str] = field(default_factory=list)
    """What could not be done in a round."""
    broken_off: str = ""
    """Why it ended before its time, where the harness itself could not go on."""
    seconds: float = 0.0
    rest_ms: int = 0
    """The longest that it took until everything was at rest after a round."""
    cpu_share: float = 0.0
    """Of one processor, that the harness itself has used."""

    def exit_code(self) -> int:
        """1 with violations, 3 when nothing was done, no fault fired, or it was broken off, else 0."""
        if self.violations:
            return 1
        done = self.rounds and self.updates and self.faults_fired
        return 0 if done and not self.broken_off else 3

    def to_json(self) -> str:
        """What `--json` prints."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises InputError."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise InputError(f"no result of a soak: {error.errors()[0]['msg']}") from None
