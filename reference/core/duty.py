"""Duty: what is done whether there is a job or not. Something trusted runs, and a version on probation proves itself."""

from __future__ import annotations

from dataclasses import replace

from reference.core.errors import Reason
from reference.core.limits import Limits
from reference.core.model import (
    Command,
    Container,
    Health,
    ImageState,
    Installed,
    Outcome,
    Phase,
    SnapshotState,
    World,
)
from reference.core.record import UpdateRecord, cleared
from reference.core.steps import (
    Create,
    Journal,
    Pull,
    Remove,
    RemoveImage,
    RemoveSnapshot,
    RestoreSnapshot,
    SetRestartPolicy,
    Start,
    Step,
    Stop,
    Sync,
    Wait,
)


def idle(record: UpdateRecord, world: World, limits: Limits) -> Step:
    """No job: begin the one that waits, else keep the installed version running."""
    if (job := begin(record, world)) is not None:
        return job
    if (step := _probation(record, world, limits)) is not None:
        return step
    installed = _wanted(record, world, limits)
    container = world.find(installed)
    if (wait := _rest_in_duty(installed, container, world, limits)) is not None:
        return wait
    if (beside := world.running_beside(container)) is not None:
        return Stop(beside.id)
    if installed is None:
        return Wait(limits.watch_ms, "nothing is installed")
    if (end := _given_up(record, installed, container, world, limits)) is not None:
        return end
    if container is None or not container.running:
        step = _volume_back(record, world, limits) or bring_up(installed, container, world, limits)
        return (isinstance(step, Wait) and _meanwhile(record, installed, world, limits)) or step
    if record.duty and container.stable(installed.health):
        return _back(record, installed)
    if record.duty and container.sick(installed.health):
        return Stop(container.id)
    if container.restart_policy != installed.restart_policy:
        return SetRestartPolicy(container.id, installed.restart_policy)
    return _kept_tidy(record, world, limits) or Wait(
        limits.poll_ms if record.duty else limits.watch_ms, "the installed version runs"
    )


def _kept_tidy(record: UpdateRecord, world: World, limits: Limits) -> Step | None:
    """What a cut brought back, or a lost journal left, goes; not while it may still be needed.

    An image or a container that cannot be removed is not tried again and again. A copy of the volume is: an old one must
    never be there to be taken for a newer job's.
    """
    if record.duty or _adopted_on_trial(record):
        return None
    if world.failures >= limits.act_attempts and not world.snapshots:
        return None
    return tidy(record, world)


def _adopted_on_trial(record: UpdateRecord) -> bool:
    """Whether current was on trial when the journal was lost: what was taken of the volume for it is still needed."""
    return record.probation_left_ms > 0 and record.reason is Reason.JOURNAL_CORRUPT


def _rest_in_duty(
    installed: Installed | None, container: Container | None, world: World, limits: Limits
) -> Wait | None:
    """The wait after a failure; a short one while the client is down and its return needs nothing but this device.

    What failed may have been a cleanup, whose wait has grown to minutes: the client does not stay down for that.
    """
    wait, down = rest(world, limits), container is None or not container.running
    if wait is None or installed is None or not down:
        return wait
    if world.images.get(installed.image.digest) is not ImageState.PRESENT:
        return wait
    left_ms = limits.revive_rest_ms - world.since_failure_ms
    return Wait(min(wait.for_ms, left_ms), wait.why) if left_ms > 0 else None


def begin(record: UpdateRecord, world: World) -> Journal | None:
    """The command that waited becomes the job.

    Not while what it commands is on probation already: that is a trial whose journal was lost, and which has a version
    to go back to. Begun again, it would have only itself.
    """
    current, queued = record.current, record.queued
    if queued is None:
        return None
    if current is not None and current.generation == queued.generation and _on_probation(record, world):
        return _learned(record, current, queued)
    return Journal(replace(cleared(record), phase=Phase.ACCEPTED, job=record.queued, queued=None))


def _learned(record: UpdateRecord, current: Installed, queued: Command) -> Journal | None:
    """What was adopted is judged by defaults, until its command comes again and says how."""
    if current.health == queued.health:
        return None
    before = record.previous and replace(record.previous, health=queued.health)
    return Journal(replace(record, current=replace(current, health=queued.health), previous=before))


def _probation(record: UpdateRecord, world: World, limits: Limits) -> Step | None:
    """A new version has to be healthy for a while after its commit, boots included, or the one before comes back.

    Its healthy time is journaled in coarse steps; a cut costs at most one of them. Between two steps it may be started
    `probation_attempts` times by us and live through `boots` boots.
    """
    current = record.current
    if current is None or not _on_probation(record, world):
        return None
    if world.boot_id != record.boot_id:
        boots = 0 if record.boot_id is None else record.boots + 1
        if boots > limits.boots:
            return _fall_back(record, world, f"not healthy for long enough in {boots} boots")
        return Journal(replace(record, boots=boots, boot_id=world.boot_id))
    container = world.find(current)
    if container is not None and container.running:
        if world.survived_ms >= min(record.probation_left_ms, limits.probation_step_ms):
            left_ms = max(0, record.probation_left_ms - world.survived_ms)
            survived = replace(record, probation_left_ms=left_ms, boots=0)
            return Journal(survived if left_ms else replace(cleared(survived), boot_id=None))
        ill = container.sick(current.health) or container.unsteady(current.health)
        if not ill and world.restores <= limits.probation_attempts:  # The last start gets its chance.
            return None
    if world.restores >= limits.probation_attempts or world.failures >= limits.restore_attempts:
        return _fall_back(record, world, f"not healthy after {world.restores} starts")
    return Stop(container.id) if container is not None and container.running else None


def _on_probation(record: UpdateRecord, world: World) -> bool:
    """Whether there is something to fall back to, without a network: else it goes on with what there is."""
    previous = record.previous
    if record.probation_left_ms <= 0 or record.duty or previous is None:
        return False
    return world.images.get(previous.image.digest) is ImageState.PRESENT


def _fall_back(record: UpdateRecord, world: World, why: str) -> Step:
    """A local action: the job of `current` has ended and stays as it was reported.

    Where the journal was lost during a trial, a copy of the volume may have been taken for it: then that has to come back,
    too, which is the duty's, and nothing may run meanwhile.
    """
    current, previous = record.current, record.previous
    assert current is not None and previous is not None, "nothing is on probation without a version before it"
    migrated = _adopted_on_trial(record) and restore_volume(world) is not None
    running = world.running_beside(None)
    if migrated and running is not None:
        return Stop(running.id)
    swapped = replace(
        record, current=previous, previous=current, boots=0, boot_id=None, duty=migrated, attempts=0
    )
    message = f"{current.image.version} on probation: {why}; back to {previous.image.version}"
    return Journal(replace(swapped, probation_left_ms=0, reason=Reason.PROBATION_FAILED, message=message))


def _given_up(
    record: UpdateRecord, installed: Installed, container: Container | None, world: World, limits: Limits
) -> Step | None:
    """Into duty, where current and previous each have their turn: current could not be brought up.

    A version that has passed its trial (and its probation) gets many starts, over half an hour by default: a
    client that exits while something outside is down is not to be downgraded for that. One that came back after a failed
    probation gets few: then neither may be good.
    """
    if record.duty or record.previous is None:
        return None
    dead = container is None or not container.running
    # Whatever copies of the volume are there are older than what runs on it: this duty brings none of them back.
    duty = replace(record, duty=True, attempts=limits.restore_attempts)
    if record.reason is Reason.PROBATION_FAILED:
        worn = world.restores >= limits.restore_attempts if dead else _ill(container, installed)
        return Journal(duty) if worn else None
    if not dead or world.restores < limits.fallback_attempts:
        return None
    message = f"{installed.image.version} ended again after {world.restores} starts"
    return Journal(replace(duty, reason=Reason.CURRENT_FAILED, message=message))


def _ill(container: Container | None, installed: Installed) -> bool:
    """By what is known of its health: an adopted one that was never asked for may be good by another probe."""
    return container is not None and installed.health != Health() and container.sick(installed.health)


def _back(record: UpdateRecord, installed: Installed) -> Journal:
    """The duty is done: whichever is stable is current from now on. That it is another one stays to be told."""
    if installed != record.current:
        back = replace(record, current=installed, previous=record.current, duty=False)
        return Journal(replace(back, probation_left_ms=0, boots=0, boot_id=None, attempts=0))
    done = cleared(record) if record.reason is Reason.CURRENT_FAILED else record
    return Journal(replace(done, duty=False, attempts=0))


def _wanted(record: UpdateRecord, world: World, limits: Limits) -> Installed | None:
    """Current; in duty whichever of current and previous lives and is not sick, else each in its turn."""
    current, previous = record.current, record.previous
    if current is None or previous is None or not record.duty:
        return current
    for installed in (current, previous):
        container = world.find(installed)
        if container is not None and container.running and not container.sick(installed.health):
            return installed
    # One that cannot even be started now must not take the other's turns: it is made ready between them.
    ready = [i for i in (current, previous) if _ready(i, world)]
    if len(ready) == 1:
        return ready[0]
    return previous if ready and (world.restores // limits.restore_attempts) % 2 else current


def _ready(installed: Installed, world: World) -> bool:
    whole = world.images.get(installed.image.digest) is ImageState.PRESENT
    return whole and world.find(installed) is not None


def _meanwhile(record: UpdateRecord, installed: Installed, world: World, limits: Limits) -> Step | None:
    """Between two starts in duty: make the other one ready, soon after a start only, so that nobody is hammered."""
    other = record.previous if installed == record.current else record.current
    if not record.duty or other is None or _ready(other, world) or world.error is not None:
        return None
    if world.since_restore_ms >= limits.revive_rest_ms:
        return None
    whole = world.images.get(other.image.digest) is ImageState.PRESENT
    return Create(other.image, other.generation) if whole else Pull(other.image)


def tidy(record: UpdateRecord, world: World) -> Step | None:
    """The next thing to remove that no installed version needs: a cut may bring back what was removed and not synced.

    While a rollback has failed, a copy that was taken stays: the duty still has to bring it back.
    """
    installed = [i for i in (record.current, record.previous) if i is not None]
    kept = {c.id for i in installed if (c := world.find(i)) is not None}
    for container in world.containers:
        if container.id not in kept:
            return Remove(container.id)
    kept_aside = record.outcome is Outcome.ROLLBACK_FAILED
    for generation, state in sorted(world.snapshots.items()):
        if not kept_aside or state is not SnapshotState.TAKEN:
            return RemoveSnapshot(generation)
    wanted = {i.image.digest for i in (*installed, record.queued) if i is not None}
    unwanted = (digest for digest in sorted(world.images) if digest not in wanted)
    digest = next(unwanted, None)
    return RemoveImage(digest) if digest is not None else None


def bring_up(installed: Installed, container: Container | None, world: World, limits: Limits) -> Step:
    """The next step towards a running container of it, with a wait between two starts."""
    image = world.images.get(installed.image.digest)
    if image is ImageState.BROKEN or (image is None and (container is None or refused(world))):
        return Pull(installed.image)
    if container is None:
        # Its label would be there twice: whatever has it and is not of its image is nobody's.
        stray = next((c.id for c in world.containers if c.generation == installed.generation), None)
        return Remove(stray) if stray is not None else Create(installed.image, installed.generation)
    # One that was trusted until now may be revived beside it by the next boot. Not for ever: the client is down.
    alive = (c for c in world.containers if c.id != container.id and c.restart_policy != "no")
    other = next(alive, None) if world.failures < limits.restore_attempts else None
    if other is not None:
        return SetRestartPolicy(other.id, "no")
    if world.dirty:
        return Sync()
    wait_ms = restore_wait_ms(world, limits)
    return Wait(wait_ms, "between two starts") if wait_ms > 0 else Start(container.id, trusted=True)


def restore_volume(world: World) -> Step | None:
    """A snapshot that was taken for a trial, and not brought back yet, comes back before anything runs on the volume."""
    taken = (g for g, state in sorted(world.snapshots.items()) if state is SnapshotState.TAKEN)
    generation = next(taken, None)
    return RestoreSnapshot(generation) if generation is not None else None


def _volume_back(record: UpdateRecord, world: World, limits: Limits) -> Step | None:
    """In duty, what the rollback could not do; a copy that cannot be brought back does not keep the client down."""
    step = restore_volume(world) if record.duty and record.attempts < limits.restore_attempts else None
    if step is not None and world.error is not None and not world.error.trusted:
        return Journal(replace(record, attempts=record.attempts + 1))
    return step


def refused(world: World) -> bool:
    """Whether the last act was a start that the engine refused."""
    return world.error is not None and world.error.reason is Reason.START_REFUSED


def rest(world: World, limits: Limits, reason: Reason | None = None) -> Wait | None:
    """The wait that is left after a failure, if any."""
    wait_ms = limits.backoff_ms(world.failures, world.jitter_permille, reason) - world.since_failure_ms
    return Wait(wait_ms, "after a failure") if world.failures > 0 and wait_ms > 0 else None


def restore_wait_ms(world: World, limits: Limits) -> int:
    """The wait that is left between two starts of a trusted version."""
    wait_ms = limits.backoff_ms(world.restores, world.jitter_permille) - world.since_restore_ms
    return wait_ms if world.restores > 0 else 0
