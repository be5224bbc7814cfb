"""The updater with one safeguard less: each function stands in `decide`'s place."""

from __future__ import annotations

from dataclasses import replace

from reference.core.limits import Limits
from reference.core.model import (
    Container,
    ContainerState,
    Failure,
    HealthState,
    ImageState,
    Outcome,
    Phase,
    World,
)
from reference.core.steps import (
    Journal,
    PrepareSnapshot,
    Pull,
    Remove,
    RemoveImage,
    RestartEngine,
    RestoreSnapshot,
    SetRestartPolicy,
    Snapshot,
    Start,
    Step,
    Stop,
    Sync,
    Wait,
)
from reference.core.update import BEFORE_SWITCH, UpdateRecord, decide

TRIAL = (Phase.SWITCHING, Phase.VERIFYING)


def window_skipped(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """One good probe is enough."""

    def proved(c: Container) -> Container:
        return replace(c, healthy_ms=10**6) if c.health is HealthState.HEALTHY else c

    return decide(record, replace(world, containers=tuple(map(proved, world.containers))), now_ms, limits)


def switch_not_journaled(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The switch is made from `staged`: nothing on the disk says so."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.phase is Phase.SWITCHING:
        return decide(step.record, world, now_ms, limits)
    return step


def old_image_removed_early(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Room is made as soon as the old version has stopped."""
    current = record.current
    if record.phase is Phase.VERIFYING and current is not None and current.image.digest in world.images:
        return RemoveImage(current.image.digest)
    return decide(record, world, now_ms, limits)


def old_container_removed_early(
    record: UpdateRecord, world: World, now_ms: int | None, limits: Limits
) -> Step:
    """The old container goes before the new one has proved itself."""
    current = world.find(record.current)
    if record.phase is Phase.VERIFYING and current is not None and not current.running:
        return Remove(current.id)
    return decide(record, world, now_ms, limits)


def old_image_not_kept(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The cleanup after a commit takes the image of previous, too."""
    if record.phase is Phase.CLEANING_UP and record.outcome is Outcome.SUCCEEDED and record.previous:
        digest = record.previous.image.digest
        if digest in world.images and all(c.image.digest != digest for c in world.containers):
            return RemoveImage(digest)
    return decide(record, world, now_ms, limits)


def no_sync_before_a_start(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """What is to be started may not be on the disk."""
    step = decide(record, world, now_ms, limits)
    after = decide(record, replace(world, dirty=False), now_ms, limits)
    return after if isinstance(step, Sync) and isinstance(after, Start) else step


def no_sync_before_the_switch(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Neither the image nor the candidate is synced before the switch is journaled."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Sync) and record.phase in (Phase.PULLING, Phase.STAGED):
        return decide(record, replace(world, dirty=False), now_ms, limits)
    return step


def boots_not_counted(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A trial that takes the device down goes on for ever."""
    if record.phase in TRIAL and world.boot_id != record.boot_id:
        return Journal(replace(record, boot_id=world.boot_id))
    return decide(record, world, now_ms, limits)


def boots_counted_early(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Boots before the stop count, too: they say nothing of the new version."""
    if record.phase in BEFORE_SWITCH and world.boot_id != record.boot_id:
        boots = record.boots + (record.boot_id is not None)
        return Journal(replace(record, boots=boots, boot_id=world.boot_id))
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.phase is Phase.SWITCHING is not record.phase:
        return Journal(replace(step.record, boots=record.boots))
    return step


def boots_of_the_last_job(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """What one trial has lived through is held against the next."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.phase in (Phase.IDLE, Phase.SWITCHING) and record.boots:
        return Journal(replace(step.record, boots=record.boots))
    return step


def success_without_a_trial(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The trial is over once the candidate has started."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.phase is Phase.VERIFYING:
        return Journal(replace(step.record, phase=Phase.CLEANING_UP, outcome=Outcome.SUCCEEDED))
    return step


def volume_not_restored(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The old version is started on what the candidate has made of the volume."""
    step = decide(record, world, now_ms, limits)
    blind = replace(world, snapshots={})
    return decide(record, blind, now_ms, limits) if isinstance(step, RestoreSnapshot) else step


def copied_too_early(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The copy is made while the old version still writes."""
    step = decide(record, world, now_ms, limits)
    return Snapshot(step.generation) if isinstance(step, PrepareSnapshot) else step


def never_copied(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The candidate is started without a copy."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Snapshot) and record.job is not None:
        plain = replace(record.job, policy=replace(record.job.policy, snapshot=False))
        return decide(replace(record, job=plain), world, now_ms, limits)
    return step


def hold_ignored(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """An operator's hold is nobody's business."""
    return decide(record, replace(world, hold=False), now_ms, limits)


def lock_ignored(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The switch begins whoever has taken the lock."""
    return decide(record, replace(world, locked_ms=None), now_ms, limits)


def lock_for_ever(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A lock that is never given back is waited for without a bound."""
    locked = None if world.locked_ms is None else min(world.locked_ms, 1)
    return decide(record, replace(world, locked_ms=locked), now_ms, limits)


def probation_without_end(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """What was survived is never written down."""
    return decide(record, replace(world, survived_ms=0), now_ms, limits)


def policies_left(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The restart policies stay as they are over the switch: a boot revives the old version beside the new one."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, SetRestartPolicy) and record.phase in TRIAL:
        still = tuple(replace(c, restart_policy="no") for c in world.containers)
        return decide(record, replace(world, containers=still), now_ms, limits)
    return step


def both_run(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The new version is started while the old one runs."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Stop) and record.phase is Phase.SWITCHING:
        alone = tuple(
            replace(c, state=ContainerState.EXITED) if c.id == step.container_id else c
            for c in world.containers
        )
        return decide(record, replace(world, containers=alone), now_ms, limits)
    return step


def back_beside_the_new(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The rollback starts the old version before it has stopped the new one."""
    step, current = decide(record, world, now_ms, limits), world.find(record.current)
    if record.phase is Phase.ROLLING_BACK and isinstance(step, Stop) and current is not None:
        return Sync() if world.dirty else Start(current.id, trusted=True)
    return step


def blamed_for_a_stuck_port(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A start that the engine refuses is the candidate's fault at once."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, RestartEngine):
        return decide(record, replace(world, engine_restarted=True), now_ms, limits)
    return step


def broken_image_believed(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """An image that is listed is taken for whole."""
    images = dict.fromkeys(world.images, ImageState.PRESENT)
    return decide(record, replace(world, images=images), now_ms, limits)


def blamed_for_a_cut(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A candidate that a cut has ended counts as one that exited."""

    def exited(c: Container) -> Container:
        return replace(c, started_this_boot=c.started_this_boot or c.state is ContainerState.EXITED)

    return decide(record, replace(world, containers=tuple(map(exited, world.containers))), now_ms, limits)


def exit_not_seen(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A candidate that exited is started again, and again."""

    def never(c: Container) -> Container:
        return c if c.running else replace(c, started_this_boot=False)

    trial = record.phase in TRIAL
    containers = tuple(map(never, world.containers)) if trial else world.containers
    return decide(record, replace(world, containers=containers), now_ms, limits)


def failures_not_counted(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """What failed is tried for ever."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.attempts > record.attempts:
        return Journal(replace(step.record, attempts=record.attempts))
    return step


def one_failure_is_enough(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A failure that passes by itself ends the job."""
    return decide(record, world, now_ms, replace(limits, pull_attempts_many=1))


def commit_taken_back(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A commit that is durable may still roll back: the old container may be gone by then."""
    step = decide(record, world, now_ms, limits)
    if record.phase is Phase.COMMITTING and isinstance(step, Start):
        return Journal(replace(record, phase=Phase.ROLLING_BACK, attempts=0))
    return step


def duty_forgotten(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A rollback that failed is the end of it."""
    step = decide(record, world, now_ms, limits)
    return Journal(replace(step.record, duty=False)) if isinstance(step, Journal) else step


def rollback_without_end(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A rollback never says that it has failed."""
    if record.phase is Phase.ROLLING_BACK:
        world = replace(world, restores=min(world.restores, 1), failures=min(world.failures, 1))
    return decide(record, world, now_ms, limits)


def no_fall_back(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A version on probation is never given up."""
    return decide(
        replace(record, probation_left_ms=0), world, now_ms, replace(limits, fallback_attempts=10**6)
    )


def nothing_revived(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Without a job nobody starts the client again."""
    step = decide(record, world, now_ms, limits)
    idle = record.phase is Phase.IDLE and isinstance(step, Start)
    return Wait(limits.watch_ms, "nothing is to be done") if idle else step


def pulled_for_the_rollback(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The rollback fetches the old image anew: without the network it does not come back."""
    step = decide(record, world, now_ms, limits)
    if record.phase is Phase.ROLLING_BACK and record.current and isinstance(step, Start):
        digest = record.current.image.digest
        in_use = any(c.image.digest == digest for c in world.containers)
        return Remove(step.container_id) if in_use else Pull(record.current.image)
    return step


def error_forgotten(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A failed act of a trial is not heard of."""
    failure: Failure | None = None if record.phase in TRIAL else world.error
    return decide(record, replace(world, error=failure), now_ms, limits)


def stopped_before_it_is_ready(
    record: UpdateRecord, world: World, now_ms: int | None, limits: Limits
) -> Step:
    """The old version is told to go as soon as the next one has started beside it."""

    def ready(c: Container) -> Container:
        return replace(c, health=HealthState.HEALTHY) if c.running and c.standby else c

    return decide(record, replace(world, containers=tuple(map(ready, world.containers))), now_ms, limits)


def overlap_not_asked_for(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A version that knows of no lease is started beside another one all the same."""
    willing = tuple(replace(c, overlaps=True) for c in world.containers)
    return decide(record, replace(world, containers=willing), now_ms, limits)


def standby_time_counted(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A candidate that stood by, ready, has passed its trial when it takes over."""

    def proved(c: Container) -> Container:
        trial = record.phase is Phase.VERIFYING and c.overlaps and c.running
        return replace(c, health=HealthState.HEALTHY, healthy_ms=10**6) if trial else c

    return decide(record, replace(world, containers=tuple(map(proved, world.containers))), now_ms, limits)


def both_kept(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Once the candidate stands by nobody is stopped any more."""
    step = decide(record, world, now_ms, limits)
    two = sum(c.running for c in world.containers) > 1
    return Wait(limits.watch_ms, "the other one still runs") if two and isinstance(step, Stop) else step


# ---- safeguards that are not needed alone: see the table


def no_sync_before_the_commit(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Nothing is synced between the candidate's start and the commit."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Sync) and record.phase is Phase.VERIFYING:
        return decide(record, replace(world, dirty=False), now_ms, limits)
    return step


def no_sync_after_the_commit(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Nothing is synced before success is journaled."""
    step = decide(record, world, now_ms, limits)
    after = decide(record, replace(world, dirty=False), now_ms, limits)
    ends = isinstance(step, Sync) and isinstance(after, Journal)
    return after if ends and record.phase is Phase.COMMITTING else step


def policy_left_at_the_commit(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The commit does not give the new container its restart policy."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, SetRestartPolicy) and record.phase is Phase.COMMITTING:
        done = tuple(replace(c, restart_policy=step.policy) for c in world.containers)
        return decide(record, replace(world, containers=done), now_ms, limits)
    return step


def old_left_at_the_commit(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The commit leaves the old container."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Remove) and record.phase is Phase.COMMITTING:
        left = tuple(c for c in world.containers if c.id != step.container_id)
        return decide(record, replace(world, containers=left), now_ms, limits)
    return step


def image_not_looked_at_again(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """An image that was pulled is not looked at again before the switch."""
    if record.phase is Phase.STAGED and record.job is not None:
        images = world.images | {record.job.image.digest: ImageState.PRESENT}
        return decide(record, replace(world, images=images), now_ms, limits)
    return decide(record, world, now_ms, limits)
