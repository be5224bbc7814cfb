"""What a state of the world is, what is decided in one, and the rules that are driven: production's, or a mutant's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from reference.core import delivery
from reference.core.adopt import adopted, outdated
from reference.core.delivery import Memory
from reference.core.invariants import Violation
from reference.core.job import Report
from reference.core.limits import Limits
from reference.core.model import ImageState, Phase, SnapshotState, World
from reference.core.record import UpdateRecord
from reference.core.steps import Step, Wait
from reference.core.update import decide
from reference.world import process as processes
from reference.world.atoms import Atom
from reference.world.process import Process

BOOTS = ("boot-a", "boot-b")
EPOCHS = ("epoch-1", "epoch-2", "epoch-3")


class State(NamedTuple):
    """Numbers into the machine's tables. Two states with the same numbers have the same future."""

    journal: int
    """All values that the journal may have after a cut, the one that is read now last."""
    engine: int
    process: int
    boot: int
    """Which of two names this boot has."""
    service: int
    watch: int


class Watch(NamedTuple):
    """What a judge remembers, and which events have happened."""

    switched: tuple[int, ...] = ()
    """Generations whose switch became durable."""
    fired: int = 0
    """Events of the story that happened, one bit each."""
    cuts: int = 0
    """Boots since the present trial began, counted up to one more than it may live through."""
    worn: tuple[int, ...] = ()
    """Generations whose trial saw more boots than it may live through."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What `decide` wants in a state, what is wrong with that, and whether nothing more happens by itself."""

    step: Step
    number: int
    found: tuple[Violation, ...]
    resting: bool


Way = list[tuple[Atom, State]]
Said = tuple[int, int | None, tuple[Violation, ...]]
"""What a message leaves: the service's number, the memory's (None: nothing came back), and what is wrong with that."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The functions that are driven: production's, or a mutant's."""

    decide: Callable[[UpdateRecord, World, int | None, Limits], Step] = decide
    advance: Callable[[Memory, UpdateRecord], Memory] = delivery.advance
    receive: Callable[..., tuple[Memory, delivery.Verdict]] = delivery.receive
    receive_cancel: Callable[[Memory, str, int], Memory] = delivery.receive_cancel
    receive_birth_answer: Callable[[Memory, str | None, str, str, int], Memory] = (
        delivery.receive_birth_answer
    )
    receive_acknowledgement: Callable[[Memory, str, str, int], Memory] = delivery.receive_acknowledgement
    fresh: Callable[..., Process] = processes.fresh
    adopted: Callable[..., UpdateRecord] = adopted
    outdated: Callable[[UpdateRecord, World], bool] = outdated
    opens_synced: bool = True
    """The journal is synced when it is opened, before it is believed."""
    journal_synced: bool = True
    """A transaction is synced before anything depends on it."""


def resting(record: UpdateRecord, step: Step, world: World) -> bool:
    """Whether nothing more will happen by itself."""
    if record.phase is not Phase.IDLE or record.queued is not None or not isinstance(step, Wait):
        return False
    previous = record.previous.image.digest if record.previous is not None else ""
    if record.probation_left_ms > 0 and world.images.get(previous) is ImageState.PRESENT:
        return record.current is None
    if any(state is SnapshotState.TAKEN for state in world.snapshots.values()) and record.duty:
        return False
    current = world.find(record.current)
    return record.current is None or (current is not None and current.stable(record.current.health))


def ranked(memory: Memory) -> Memory:
    """The same memory with the lowest sequences that keep its reports in order, and outages of any length as one."""
    numbers = sorted({r.sequence for r in (*memory.outbox, *memory.finished)})
    rank = {sequence: n for n, sequence in enumerate(numbers, 1)}

    def told(r: Report) -> Report:
        return replace(r, sequence=rank[r.sequence], downtime_ms=r.downtime_ms and 1)

    record = memory.record
    if record.downtime_ms:
        record = replace(record, downtime_ms=1)
    return Memory(
        record, len(numbers), tuple(map(told, memory.outbox)), tuple(map(told, memory.finished)),
        memory.early_cancel,
    )  # fmt: skip
