"""Changes that change nothing that matters: the invariants must let them live."""

from __future__ import annotations

from dataclasses import replace

from reference.core import delivery
from reference.core.delivery import Memory, Verdict
from reference.core.limits import Limits
from reference.core.model import Command, World
from reference.core.steps import Journal, Step, Sync, Wait
from reference.core.update import UpdateRecord, decide


def other_words(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Messages for people say something else."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.message:
        return Journal(replace(step.record, message="in other words"))
    return step


def shorter_waits(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """It looks twice as often."""
    step = decide(record, world, now_ms, limits)
    return Wait(max(1, step.for_ms // 2), step.why) if isinstance(step, Wait) else step


def synced_more(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """It syncs before every transaction that moves a job on."""
    step = decide(record, world, now_ms, limits)
    moves = isinstance(step, Journal) and step.record.phase is not record.phase
    return Sync() if moves and world.dirty and world.error is None and not world.hold else step


def seen_in_another_order(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The engine lists its containers the other way round."""
    return decide(record, replace(world, containers=world.containers[::-1]), now_ms, limits)


def received_twice(
    memory: Memory, command: Command, now_ms: int | None, limits: Limits
) -> tuple[Memory, Verdict]:
    """Every command arrives twice at once."""
    memory, verdict = delivery.receive(memory, command, now_ms, limits)
    again, _ = delivery.receive(memory, command, now_ms, limits)
    return again, verdict
