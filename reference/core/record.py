"""What the updater remembers over a power cut: one record, replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reference.core.errors import Reason
from reference.core.model import Command, Installed, Outcome, Phase

BEFORE_SWITCH = frozenset({Phase.ACCEPTED, Phase.PULLING, Phase.STAGED})
"""Phases in which nothing was touched: cancel and a newer generation end the job here."""
HOLDS = BEFORE_SWITCH | {Phase.IDLE, Phase.CLEANING_UP}
"""Phases in which an operator's hold is honoured. A trial that runs is brought to its end: half of one helps nobody."""


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """All that the updater remembers over a power cut."""

    epoch: str
    """Names this journal: random, new whenever a journal is made or rebuilt."""
    phase: Phase = Phase.IDLE
    floor: int | None = None
    """Highest generation accepted. None: not known (a new journal), and no command is accepted until it is."""
    current: Installed | None = None
    previous: Installed | None = None
    job: Command | None = None
    queued: Command | None = None
    """A newer generation that runs next."""
    cancel: bool = False
    candidate_id: str | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None
    message: str = ""
    attempts: int = 0
    """Failed acts: all those before the switch together, after it those in this phase."""
    boots: int = 0
    boot_id: str | None = None
    """The boot in which the trial was last seen, and how many boots it has lived through."""
    duty: bool = False
    """A rollback failed: nothing trusted was healthy, and bringing something back goes on."""
    downtime_ms: int | None = None
    probation_left_ms: int = 0
    """For so long current has still to be healthy before it is trusted for good; else it falls back to previous."""

    def __post_init__(self) -> None:
        if (self.phase is Phase.IDLE) is not (self.job is None):
            raise ValueError(f"a record in phase {self.phase} with job {self.job!r}")
        if (self.phase is Phase.CLEANING_UP) is not (self.outcome is not None):
            raise ValueError(f"a record in phase {self.phase} with outcome {self.outcome}")


def doubted(record: UpdateRecord, reason: Reason, message: str) -> UpdateRecord:
    """The record of a trial that goes back, and why."""
    return replace(record, phase=Phase.ROLLING_BACK, attempts=0, reason=reason, message=message)


def cleared(record: UpdateRecord) -> UpdateRecord:
    """The record without what its last step left: failed acts and their reason."""
    return replace(record, attempts=0, reason=None, message="")
