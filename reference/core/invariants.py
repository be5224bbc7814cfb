"""What must always hold, as named predicates: the same ones in tests, simulator, explorer, demo and chaos.

Each takes what it needs and answers a list of `Violation`s, empty when it holds. Where a stored thing may have one
of several values after a cut, the caller asks once for each value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from reference.core.delivery import Memory
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus
from reference.core.limits import Limits
from reference.core.model import (
    Container,
    Handover,
    HealthState,
    ImageState,
    Outcome,
    Phase,
    SnapshotState,
    World,
)
from reference.core.record import HOLDS, UpdateRecord
from reference.core.steps import (
    Journal,
    Remove,
    RemoveImage,
    RestoreSnapshot,
    Snapshot,
    Start,
    Step,
    Stop,
    Wait,
)


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant by name, and how it was broken."""

    invariant: str
    detail: str


def never_two_active(containers: Iterable[Container]) -> list[Violation]:
    """At most one container of the client works on its volume: it runs, and does not wait for the other one's lease."""
    active = sorted(c.id for c in containers if c.active)
    return [Violation("never_two_active", f"active at once: {', '.join(active)}")] if len(active) > 1 else []


def ready_before_the_stop(record: UpdateRecord, step: Step, world: World) -> list[Violation]:
    """Where both may overlap, current is told to go only when the candidate stands by and would be healthy."""
    job, current = record.job, world.find(record.current)
    if record.phase is not Phase.SWITCHING or job is None or current is None or not isinstance(step, Stop):
        return []
    if job.policy.handover is not Handover.OVERLAP or job.policy.snapshot or step.container_id != current.id:
        return []
    candidate = world.pick(record.candidate_id, job.generation, job.image.digest)
    if candidate is None or not (current.active and current.overlaps and candidate.overlaps):
        return []
    strangers = [c for c in world.containers if c.running and c.id not in (current.id, candidate.id)]
    if strangers or (candidate.running and candidate.health is HealthState.HEALTHY):
        return []
    return [Violation("ready_before_the_stop", f"{current.id} is stopped and {candidate.id} is not ready")]


def same_configuration(containers: Iterable[Container]) -> list[Violation]:
    """Mounts, networks and environment are the same in every container of the client, over any history."""
    configurations = {c.configuration for c in containers if c.configuration}
    detail = f"{len(configurations)} configurations among the containers of one client"
    return [Violation("same_configuration", detail)] if len(configurations) > 1 else []


def current_kept(record: UpdateRecord, step: Step, world: World) -> list[Violation]:
    """No step removes the container of current before the commit, or the image of current or previous at all."""
    if isinstance(step, RemoveImage):
        trusted = [i.image.digest for i in (record.current, record.previous) if i is not None]
        if step.digest in trusted:
            return [Violation("current_kept", f"{record.phase} removes the trusted image {step.digest}")]
    if isinstance(step, Remove) and record.phase is not Phase.COMMITTING:
        current = world.find(record.current)
        if current is not None and step.container_id == current.id:
            return [Violation("current_kept", f"{record.phase} removes the current container {current.id}")]
    return []


def stop_is_journaled(record: UpdateRecord, step: Step, world: World) -> list[Violation]:
    """A candidate starts, and current stops for it, only when `switching` or a later phase is durable."""
    candidate = record.job is not None and world.pick(
        record.candidate_id, record.job.generation, record.job.image.digest
    )
    before = record.phase in (Phase.ACCEPTED, Phase.PULLING, Phase.STAGED)
    current = world.find(record.current)
    # After a lost journal the commanded version may be the adopted one: then it is current that is brought back.
    if candidate and current is not None and candidate.id == current.id:
        candidate = None
    if before and isinstance(step, Start) and candidate and candidate.id == step.container_id:
        return [Violation("stop_is_journaled", f"{record.phase} starts the candidate {step.container_id}")]
    if before and isinstance(step, Stop) and current is not None and current.id == step.container_id:
        return [Violation("stop_is_journaled", f"{record.phase} stops the current container {current.id}")]
    return []


def synced_before_start(step: Step, world: World) -> list[Violation]:
    """Engine data is on the disk before anything is started on it."""
    if isinstance(step, Start) and world.dirty:
        return [Violation("synced_before_start", f"start of {step.container_id} on data that a cut may lose")]
    return []


def hold_honoured(record: UpdateRecord, step: Step, world: World) -> list[Violation]:
    """Under an operator's hold nothing is touched, but for a trial that is brought to its end."""
    if world.hold and record.phase in HOLDS and not isinstance(step, Journal | Wait):
        return [Violation("hold_honoured", f"{record.phase}: {type(step).__name__} under a hold")]
    return []


def lock_honoured(record: UpdateRecord, step: Step, world: World) -> list[Violation]:
    """No switch begins while somebody has taken the update lock."""
    begins = isinstance(step, Journal) and step.record.phase is Phase.SWITCHING is not record.phase
    if begins and world.locked_ms is not None:
        return [Violation("lock_honoured", "a switch is journaled while the update lock is taken")]
    return []


def volume_whole(record: UpdateRecord, step: Step, world: World) -> list[Violation]:
    """Volumes are copied and brought back while nothing runs on them, copied before the candidate ever ran, and what
    was copied is back before the old version starts."""
    found = []
    job, running = record.job, any(c.running for c in world.containers)
    if isinstance(step, Snapshot | RestoreSnapshot) and running:
        found.append(f"{type(step).__name__} while something runs")
    if isinstance(step, Snapshot) and record.phase is not Phase.SWITCHING:
        found.append(f"copied in {record.phase}")
    taken = job is not None and world.snapshots.get(job.generation) is SnapshotState.TAKEN
    wanted = job is not None and job.policy.snapshot and record.current is not None
    if isinstance(step, Start):
        if record.phase is Phase.SWITCHING and wanted and not taken:
            found.append("the candidate starts and no copy was taken")
        if record.phase is Phase.ROLLING_BACK and taken:
            found.append("the old version starts on what the candidate left")
    return [Violation("volume_whole", detail) for detail in found]


def success_proved(before: UpdateRecord, after: UpdateRecord, world: World) -> list[Violation]:
    """`committing` is journaled only for a candidate of the commanded digest that is healthy and has been for long
    enough, and `succeeded` only out of `committing` or because the commanded digest already runs so."""
    job = before.job
    if job is None or after.phase is before.phase:
        return []
    proof = [c for c in world.containers if c.image.digest == job.image.digest and c.stable(job.health)]
    claims = after.phase is Phase.COMMITTING or (
        after.outcome is Outcome.SUCCEEDED and before.phase is not Phase.COMMITTING
    )
    if claims and not proof:
        detail = f"{before.phase} -> {after.phase} without a healthy window"
        return [Violation("success_proved", f"{detail} of {job.image.digest}")]
    return []


def status_not_ahead(memory: Memory) -> list[Violation]:
    """No report claims more than the record in the same transaction holds."""
    record = memory.record
    found = []
    for report in memory.outbox:
        if record.job is None or report.job_id != record.job.job_id:
            continue
        if report.status.terminal and report.status is not JobStatus.REJECTED and record.outcome is None:
            detail = f"{report.status} is reported for job {report.job_id} in phase {record.phase}"
            found.append(Violation("status_not_ahead", detail))
    return found


def generations_rise(before: UpdateRecord, after: UpdateRecord) -> list[Violation]:
    """The floor never falls within an epoch, and no job begins that is not newer than the last one."""
    if before.epoch != after.epoch:
        return []
    found = []
    if before.floor is not None and (after.floor is None or after.floor < before.floor):
        found.append(Violation("generations_rise", f"the floor fell from {before.floor} to {after.floor}"))
    if after.job is not None and (after.floor is None or after.job.generation > after.floor):
        found.append(
            Violation("generations_rise", f"job {after.job.generation} runs above floor {after.floor}")
        )
    if before.job is not None and after.job is not None and after.job.generation < before.job.generation:
        found.append(Violation("generations_rise", "an older generation follows a newer one"))
    return found


def switched(phases: Iterable[tuple[Phase, int | None]]) -> list[int]:
    """Generations in the order in which they were switched to, of a journal's phases with theirs; a boot within a trial is
    not another switch."""
    found: list[int] = []
    before: Phase | None = None
    for phase, generation in phases:
        if phase is Phase.SWITCHING and before is not Phase.SWITCHING and generation is not None:
            found.append(generation)
        before = phase
    return found


def one_install_per_generation(applied: Iterable[int]) -> list[Violation]:
    """`applied`: the generations of the journaled switches, in order; each at most once, and rising."""
    seen = list(applied)
    rising = all(a < b for a, b in pairwise(seen))
    return [] if rising else [Violation("one_install_per_generation", f"switched in the order {seen}")]


def terminal_is_final(before: Job, after: Job) -> list[Violation]:
    """A job's terminal status never changes."""
    if before.status.terminal and (before.status, before.outcome) != (after.status, after.outcome):
        return [Violation("terminal_is_final", f"job {before.id}: {before.status} became {after.status}")]
    return []


def bounded(memory: Memory, step: Step, world: World, limits: Limits) -> list[Violation]:
    """Attempts and boots stay within their limits; so do images, when there is nothing left to remove of them."""
    record = memory.record
    sizes = {
        "attempts": (record.attempts, max(limits.pull_attempts_many, limits.act_attempts)),
        "boots": (record.boots, limits.boots),
    }
    busy = record.duty or record.probation_left_ms > 0 or world.failures >= limits.act_attempts
    if record.phase is Phase.IDLE and isinstance(step, Wait) and not busy and not world.hold:
        sizes["images"] = (len(world.images), limits.images_kept)
    return [Violation("bounded", f"{what}: {n} > {most}") for what, (n, most) in sizes.items() if n > most]


def converged(record: UpdateRecord, world: World) -> list[Violation]:
    """At rest: the job has ended and exactly one container runs, healthy, of a trusted version.

    Not asked when no trusted version can be healthy: then `rollback_failed` stands and the duty goes on.
    """
    found = []
    if record.phase is not Phase.IDLE or record.queued is not None:
        found.append(Violation("converges", f"the job is still {record.phase}"))
    running = [c for c in world.containers if c.running]
    trusted = [c.id for i in (record.current, record.previous) if i and (c := world.find(i)) is not None]
    if record.current is None:
        if running:
            found.append(Violation("converges", "something runs though nothing was ever confirmed"))
    elif len(running) != 1 or running[0].id not in trusted:
        found.append(Violation("converges", f"{[c.id for c in running]} run, of {trusted}"))
    elif running[0].health is not HealthState.HEALTHY:
        found.append(Violation("converges", f"{running[0].id} is {running[0].health}"))
    if record.current is not None and world.images.get(record.current.image.digest) is not ImageState.PRESENT:
        found.append(Violation("converges", "the image of current is not whole on the disk"))
    return found


def every_step(memory: Memory, step: Step, world: World, limits: Limits) -> list[Violation]:
    """All that must hold when `step` is about to be taken from `memory` in `world`."""
    record = memory.record
    found = [
        *never_two_active(world.containers),
        *same_configuration(world.containers),
        *current_kept(record, step, world),
        *stop_is_journaled(record, step, world),
        *ready_before_the_stop(record, step, world),
        *synced_before_start(step, world),
        *hold_honoured(record, step, world),
        *lock_honoured(record, step, world),
        *volume_whole(record, step, world),
        *status_not_ahead(memory),
        *bounded(memory, step, world, limits),
    ]
    if isinstance(step, Journal):
        found += success_proved(record, step.record, world)
        found += generations_rise(record, step.record)
    return found


def agrees(job: Job, outcome: Outcome | None, reason: Reason | None) -> list[Violation]:
    """What the service shows is what the device's journal holds."""
    if (job.outcome, job.reason) == (outcome, reason):
        return []
    detail = f"service: {job.status} {job.outcome} {job.reason}; device: {outcome} {reason}"
    return [Violation("service_agrees", detail)]
