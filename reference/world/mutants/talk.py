"""Journal, outbox, delivery and dedupe with one safeguard less: each function stands in a rule's place."""

from __future__ import annotations

from dataclasses import replace

from reference.core import delivery
from reference.core.adopt import adopted
from reference.core.delivery import Memory, Verdict
from reference.core.job import JobStatus
from reference.core.limits import Limits
from reference.core.model import Command, Health, Outcome, Phase, World
from reference.core.record import UpdateRecord
from reference.world import process as processes
from reference.world.process import Process


def success_told_early(memory: Memory, record: UpdateRecord) -> Memory:
    """Success is told while the trial goes on."""
    memory = delivery.advance(memory, record)
    if record.phase is not Phase.VERIFYING:
        return memory
    claimed = (replace(r, status=JobStatus.SUCCEEDED, outcome=Outcome.SUCCEEDED) for r in memory.outbox)
    return replace(memory, outbox=tuple(claimed))


def end_not_told(memory: Memory, record: UpdateRecord) -> Memory:
    """The end of a job is not put into the outbox."""
    after = delivery.advance(memory, record)
    return replace(after, outbox=memory.outbox) if record.outcome is not None else after


def only_the_newest_kept(memory: Memory, record: UpdateRecord) -> Memory:
    """The outbox keeps one report in all, not one of each job."""
    after = delivery.advance(memory, record)
    return replace(after, outbox=after.outbox[-1:])


def end_forgotten(memory: Memory, record: UpdateRecord) -> Memory:
    """What ended is not remembered: the command of it is new when it comes again."""
    return replace(delivery.advance(memory, record), finished=())


def dedupe_off(
    memory: Memory, command: Command, now_ms: int | None, limits: Limits
) -> tuple[Memory, Verdict]:
    """A command that was seen before is taken again."""
    record = memory.record
    if record.floor is None:
        return memory, Verdict.NOT_READY
    lower = replace(record, floor=min(record.floor, command.generation - 1))
    blank = Memory(lower, memory.sequence, (), (), memory.early_cancel)
    after, verdict = delivery.receive(blank, command, now_ms, limits)
    return replace(after, finished=memory.finished), verdict


def floor_ignored(
    memory: Memory, command: Command, now_ms: int | None, limits: Limits
) -> tuple[Memory, Verdict]:
    """An older command is taken when it was never seen."""
    record = memory.record
    known = any((r.job_id, r.generation) == (command.job_id, command.generation) for r in memory.finished)
    if record.floor is None or known or command.generation > record.floor:
        return delivery.receive(memory, command, now_ms, limits)
    lower = replace(memory, record=replace(record, floor=command.generation - 1))
    return delivery.receive(lower, command, now_ms, limits)


def floor_not_raised(
    memory: Memory, command: Command, now_ms: int | None, limits: Limits
) -> tuple[Memory, Verdict]:
    """A command that was taken does not raise the floor."""
    after, verdict = delivery.receive(memory, command, now_ms, limits)
    return replace(after, record=replace(after.record, floor=memory.record.floor)), verdict


def canceled_after_the_switch(memory: Memory, job_id: str, generation: int) -> Memory:
    """A cancel takes the job away from an updater that has switched already."""
    record = memory.record
    job = record.job
    late = record.phase in (Phase.SWITCHING, Phase.VERIFYING)
    if late and job is not None and (job.job_id, job.generation) == (job_id, generation):
        return replace(memory, record=UpdateRecord(record.epoch, floor=record.floor, current=record.current))
    return delivery.receive_cancel(memory, job_id, generation)


def acknowledged_unheard(memory: Memory, record: UpdateRecord) -> Memory:
    """A report leaves the outbox as soon as the next one is made, heard or not."""
    after = delivery.advance(memory, record)
    fresh = tuple(r for r in after.outbox if r not in memory.outbox)
    return replace(after, outbox=fresh)


def clean_at_the_start(process: Process, *, boot: bool) -> Process:
    """A process that begins takes for synced what the one before it has left."""
    return processes.fresh(process, boot=boot)._replace(dirty=False)


def newest_adopted(world: World, epoch: str, health: Health) -> UpdateRecord:
    """Of two containers that do not run, the newer one is believed after the journal was lost."""
    if any(c.running for c in world.containers):
        return adopted(world, epoch, health)
    newest = max(world.containers, key=lambda c: c.generation, default=None)
    only = () if newest is None else (newest,)
    return adopted(replace(world, containers=only), epoch, health)


def adopted_with_a_floor(world: World, epoch: str, health: Health) -> UpdateRecord:
    """A journal that was made anew does not wait for the service's answer."""
    return replace(adopted(world, epoch, health), floor=0)


def adopted_without_a_trial(world: World, epoch: str, health: Health) -> UpdateRecord:
    """What was on trial when the journal was lost is believed to be good."""
    return replace(adopted(world, epoch, health), probation_left_ms=0)
