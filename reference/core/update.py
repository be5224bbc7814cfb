"""The updater, whole: what is remembered, what is seen, and what is to be done next.

    decide(record, world, now_ms, limits) -> Step

`record` is what the journal holds, `world` is what is observed now. There is no recovery path: start, resume after
a power cut, retry and rollback are this one function, called again and again by a loop that observes, decides,
journals, acts. The rules:

1.  A Step is the activity wanted *now*. Repeating it continues it, another one cancels it, finding it already done
    is success. Every step is safe to cut before, in the middle and after.
2.  Journal first, then act: only a `Journal` step changes the record, and what depends on it comes after it.
3.  Engine data is synced before `switching` is journaled and between any stop and any start.
4.  Before `committing` is durable any doubt leads back to the old version; after it the job only goes forward.
5.  The record holds no instants. The world reports durations; wall time (`now_ms`, None when the clock is not
    trusted) serves expiry only. Counters stop every loop.
6.  Never two containers active (one that stands by for a handover is not); the image and the container of current
    stay until the commit is durable, the image of previous until the next one.
7.  An operator's hold stops everything but a trial that runs; the update lock keeps a switch from beginning. A
    snapshot of the volume is taken after the stop, and is back before the old version starts.

    idle -> accepted -> pulling -> staged -> switching -> verifying -> committing -> cleaning_up -> idle
                 \\________\\__________\\   (failed)  \\__________\\-> rolling_back ----^
                                      `---------------------------------------------^
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from reference.core import handover
from reference.core.duty import begin, bring_up, idle, refused, rest, restore_volume, restore_wait_ms, tidy
from reference.core.errors import Reason
from reference.core.limits import DEFAULT_LIMITS, Limits
from reference.core.model import Command, Container, Failure, HealthState, ImageState
from reference.core.model import Installed, Outcome, Phase, SnapshotState, World
from reference.core.record import BEFORE_SWITCH, HOLDS, UpdateRecord, cleared, doubted
from reference.core.steps import Create, Journal, PrepareSnapshot, Pull, Remove, RemoveSnapshot
from reference.core.steps import RestartEngine, SetRestartPolicy, Snapshot, Start, Step, Stop, Sync, Wait

__all__ = ["BEFORE_SWITCH", "UpdateRecord", "decide"]


def decide(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits = DEFAULT_LIMITS) -> Step:
    """The next step. Pure and total: the same arguments always give the same step."""
    if world.hold and record.phase in HOLDS:
        return _held(record, world, limits)
    # Before the switch a refused start is one of current, which a cut has ended: the client is down until it is cured.
    of_client = record.phase not in BEFORE_SWITCH or (world.error is not None and world.error.trusted)
    stuck = refused(world) and of_client and not world.engine_restarted
    if stuck and not handover.would_end_it(record, world):
        return RestartEngine()  # A stuck port refuses every version: nobody is blamed before this was tried.
    match record.phase:
        case Phase.IDLE:
            return idle(record, world, limits)
        case Phase.ACCEPTED | Phase.PULLING | Phase.STAGED:
            return _before_switch(record, world, now_ms, limits)
        case Phase.SWITCHING | Phase.VERIFYING:
            return _on_trial(record, world, limits)
        case Phase.COMMITTING:
            return _committing(record, world, limits)
        case Phase.ROLLING_BACK:
            return _rolling_back(record, world, limits)
        case Phase.CLEANING_UP:
            return _cleaning_up(record, world, limits)
    assert_never(record.phase)


def _held(record: UpdateRecord, world: World, limits: Limits) -> Step:
    """An operator's hold: commands are taken and may be given up, and nothing is touched, not even in duty."""
    if record.phase is Phase.IDLE and (job := begin(record, world)) is not None:
        return job
    if record.phase in BEFORE_SWITCH:
        if (end := _given_up(record)) is not None:
            return end
        if record.reason is not Reason.HELD:
            return Journal(replace(record, reason=Reason.HELD, message="held by the operator"))
    return Wait(limits.watch_ms, "held by the operator")


# ---- before the switch: nothing has been touched, so any end is harmless


def _before_switch(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    if (end := _given_up(record)) is not None:
        return end
    if record.reason is Reason.HELD:  # And is no more: that is news, too.
        return Journal(replace(record, reason=None, message=""))
    if (error := world.error) is not None and not error.trusted:
        if record.attempts + 1 >= limits.attempts(error.reason):
            return _end(record, Outcome.FAILED, error.reason, error.message)
        return _count(record, error)
    if (revival := _revive(record, world, limits)) is not None:
        return revival
    if (wait := rest(world, limits, record.reason)) is not None:
        return wait
    match record.phase:
        case Phase.ACCEPTED:
            return _accepted(record, world, now_ms, limits)
        case Phase.PULLING:
            return _pulling(record, world)
        case _:
            return _staged(record, world, limits)


def _given_up(record: UpdateRecord) -> Step | None:
    if record.cancel:
        return _end(record, Outcome.FAILED, Reason.CANCELED)
    if record.queued is not None:
        return _end(record, Outcome.FAILED, Reason.SUPERSEDED, f"by generation {record.queued.generation}")
    return None


def _revive(record: UpdateRecord, world: World, limits: Limits) -> Step | None:
    """A dead current is started again beside the job, but only so often: the update may be its cure."""
    current = world.find(record.current)
    if current is None or current.running or world.restores >= limits.revive_attempts_in_job:
        return None
    if any(c.running for c in world.containers) or restore_wait_ms(world, limits) > 0:
        return None
    return Sync() if world.dirty else Start(current.id, trusted=True)


def _accepted(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    job = _job(record)
    if now_ms is not None and now_ms > job.expires_at_ms + limits.clock_skew_ms:
        return _end(record, Outcome.FAILED, Reason.EXPIRED, "the command expired before it could be started")
    current = world.find(record.current)
    if current is not None and current.running and current.image.digest == job.image.digest:
        if current.stable(job.health):
            return _end(record, Outcome.SUCCEEDED, Reason.ALREADY_RUNNING)
        if not current.sick(job.health) and not current.unsteady(job.health):
            return Wait(limits.poll_ms, "the commanded version already runs and has to be healthy")
    return Journal(replace(record, phase=Phase.PULLING))


def _pulling(record: UpdateRecord, world: World) -> Step:
    image = _job(record).image
    if world.images.get(image.digest) is not ImageState.PRESENT:
        return Pull(image)
    return Sync() if world.dirty else Journal(replace(record, phase=Phase.STAGED))


def _staged(record: UpdateRecord, world: World, limits: Limits) -> Step:
    job, current = _job(record), world.find(record.current)
    if world.images.get(job.image.digest) is not ImageState.PRESENT:
        gone = Failure(Reason.IMAGE_INVALID, "the image was removed or damaged after it had been pulled")
        if record.attempts + 1 >= limits.act_attempts:
            return _end(record, Outcome.FAILED, gone.reason, gone.message)
        return _count(replace(record, phase=Phase.PULLING), gone)
    candidate = _candidate(record, world)
    if candidate is None:
        return Create(job.image, job.generation)
    if _snapshots(record) and (step := _room_for_a_copy(job.generation, world)) is not None:
        return step
    if world.dirty:
        return Sync()
    if world.locked_ms is not None:
        return _locked(record, world, world.locked_ms, limits)
    installed = record.current
    if installed is not None and current is not None and current.restart_policy != "no":
        installed = replace(installed, restart_policy=current.restart_policy)
    trial = replace(cleared(record), phase=Phase.SWITCHING, current=installed, candidate_id=candidate.id)
    return Journal(replace(trial, boot_id=world.boot_id, boots=0))


def _room_for_a_copy(generation: int, world: World) -> Step | None:
    state = world.snapshots.get(generation)
    if (
        state is SnapshotState.RESTORED
    ):  # By a trial that went with the journal: another one needs a new copy.
        return RemoveSnapshot(generation)
    return PrepareSnapshot(generation) if state is None else None


def _locked(record: UpdateRecord, world: World, locked_ms: int, limits: Limits) -> Step:
    """All is ready, and somebody has taken the update lock: wait for it, but not for ever."""
    most_ms = _job(record).policy.lock_wait_ms or limits.lock_wait_ms
    message = f"the update lock is taken by {world.locked_by or 'somebody'}"
    if locked_ms >= most_ms:
        return _end(record, Outcome.FAILED, Reason.UPDATE_LOCKED, f"{message}; waited {most_ms} ms for it")
    if record.reason is not Reason.UPDATE_LOCKED:
        return Journal(replace(record, reason=Reason.UPDATE_LOCKED, message=message))
    return Wait(limits.poll_ms, message)


# ---- on trial: the old one stops, the new one proves itself; any doubt rolls back


def _on_trial(record: UpdateRecord, world: World, limits: Limits) -> Step:
    if world.boot_id != record.boot_id:
        if record.boots + 1 > limits.boots:
            return _roll_back(record, Reason.TOO_MANY_BOOTS, f"no end of the trial in {record.boots} boots")
        return Journal(replace(record, boots=record.boots + 1, boot_id=world.boot_id))
    if world.error is not None:
        if record.attempts + 1 >= limits.acts(world.error.reason):
            return _roll_back(record, world.error.reason, world.error.message)
        return _count(record, world.error)
    if (wait := rest(world, limits)) is not None:
        return wait
    candidate = _candidate(record, world)
    if candidate is None:
        return _roll_back(record, Reason.CANDIDATE_EXITED, "its container was removed by somebody else")
    for container in (world.find(record.current), candidate):
        if container is not None and container.restart_policy != "no":
            return SetRestartPolicy(container.id, "no")
    if (other := world.running_beside(candidate)) is not None:
        return handover.forward(record, world, candidate, limits) or Stop(other.id)
    if record.phase is Phase.SWITCHING and (candidate.running or candidate.started_this_boot):
        return Journal(replace(cleared(record), phase=Phase.VERIFYING))
    if not candidate.running and not candidate.started_this_boot:
        return _start(record, world, candidate)
    return _verifying(record, world, candidate, limits)


def _start(record: UpdateRecord, world: World, candidate: Container) -> Step:
    generation = _job(record).generation
    taken = world.snapshots.get(generation) is SnapshotState.TAKEN
    if record.phase is Phase.SWITCHING and _snapshots(record) and not taken:
        return Snapshot(generation)  # Later it would hold what the candidate has made of the volume.
    return Sync() if world.dirty else Start(candidate.id)


def _verifying(record: UpdateRecord, world: World, candidate: Container, limits: Limits) -> Step:
    health = _job(record).health
    if (why := handover.trouble(candidate, health)) is not None:
        return Journal(doubted(record, *why))
    if not candidate.stable(health):
        return Wait(limits.poll_ms, "the candidate has to stay healthy for its whole window")
    if world.dirty:
        return Sync()
    return Journal(replace(cleared(record), phase=Phase.COMMITTING, downtime_ms=world.outage_ms))


# ---- the commit is durable: this job only goes forward


def _committing(record: UpdateRecord, world: World, limits: Limits) -> Step:
    if world.error is not None and record.attempts + 1 < limits.act_attempts:
        return _count(record, world.error)
    if world.error is None:
        if (wait := rest(world, limits)) is not None:
            return wait
        if (step := _finish_commit(record, world)) is not None:
            return step
    job, old, candidate = _job(record), record.current, _candidate(record, world)
    container_id = candidate.id if candidate is not None else None
    new = Installed(job.image, job.health, job.generation, container_id, _policy(record))
    previous = record.previous if old is None or old.image.digest == job.image.digest else old
    probation_ms = job.policy.probation_ms if previous is not None else 0
    ended = replace(record, current=new, previous=previous, duty=False, probation_left_ms=probation_ms)
    return _end(ended, Outcome.SUCCEEDED)


def _finish_commit(record: UpdateRecord, world: World) -> Step | None:
    candidate = _candidate(record, world)
    if (other := world.running_beside(candidate)) is not None:
        return Stop(other.id)
    if candidate is not None and not candidate.running and not candidate.started_this_boot:
        return Sync() if world.dirty else Start(candidate.id, trusted=True)
    if candidate is not None and candidate.restart_policy != _policy(record):
        return SetRestartPolicy(candidate.id, _policy(record))
    for container in world.containers:
        if candidate is None or container.id != candidate.id:
            return Remove(container.id)
    return Sync() if world.dirty else None


# ---- back to the old one; needs no network while its container is there


def _rolling_back(record: UpdateRecord, world: World, limits: Limits) -> Step:
    if record.current is not None:
        return _restore(record, record.current, world, limits)
    beside = world.running_beside(None)  # A first install: there is nothing to go back to.
    if beside is None or world.failures >= limits.restore_attempts:
        return _end(record, Outcome.FAILED, record.reason, record.message)
    return rest(world, limits) or Stop(beside.id)


def _restore(record: UpdateRecord, installed: Installed, world: World, limits: Limits) -> Step:
    current = world.find(installed)
    beside = world.running_beside(current)
    alive = current is not None and current.running and not current.sick(installed.health)
    good = current is not None and current.active and current.health is HealthState.HEALTHY
    healthy = good and alive and beside is None
    failed = world.failures >= limits.restore_attempts
    if current is not None and healthy and (failed or current.restart_policy == installed.restart_policy):
        back = replace(record, downtime_ms=world.outage_ms)
        return _end(back, Outcome.ROLLED_BACK, record.reason, record.message)
    if failed or (world.restores >= limits.restore_attempts and not alive):
        return _end(replace(record, duty=True), Outcome.ROLLBACK_FAILED, record.reason, record.message)
    if (wait := rest(world, limits)) is not None:
        return wait
    if beside is not None:
        return handover.back(record, installed, beside, world, limits) or Stop(beside.id)
    if current is None or not current.running:
        return restore_volume(world) or bring_up(installed, current, world, limits)
    if healthy:
        return SetRestartPolicy(current.id, installed.restart_policy)
    return Wait(limits.poll_ms, "the old version has to be healthy") if alive else Stop(current.id)


# ---- the end of a job; the duty that never ends is in duty.py


def _cleaning_up(record: UpdateRecord, world: World, limits: Limits) -> Step:
    if world.error is not None and record.attempts + 1 < limits.act_attempts:
        return Journal(replace(record, attempts=record.attempts + 1))
    if world.error is None:
        if (wait := rest(world, limits)) is not None:
            return wait
        if (step := tidy(record, world)) is not None:
            return step
    idle = replace(cleared(record), phase=Phase.IDLE, job=None, cancel=False, outcome=None, boots=0)
    return Journal(replace(idle, candidate_id=None, boot_id=None, downtime_ms=None))


# ---- small words


def _job(record: UpdateRecord) -> Command:
    assert record.job is not None, "UpdateRecord refuses a phase without its job"
    return record.job


def _policy(record: UpdateRecord) -> str:
    return record.current.restart_policy if record.current is not None else "unless-stopped"


def _candidate(record: UpdateRecord, world: World) -> Container | None:
    return world.pick(record.candidate_id, _job(record).generation, _job(record).image.digest)


def _snapshots(record: UpdateRecord) -> bool:
    return _job(record).policy.snapshot and record.current is not None


def _count(record: UpdateRecord, error: Failure) -> Journal:
    return Journal(replace(record, attempts=record.attempts + 1, reason=error.reason, message=error.message))


def _roll_back(record: UpdateRecord, reason: Reason, message: str) -> Journal:
    return Journal(doubted(record, reason, message))


def _end(record: UpdateRecord, outcome: Outcome, reason: Reason | None = None, message: str = "") -> Journal:
    ended = replace(record, phase=Phase.CLEANING_UP, outcome=outcome, reason=reason, message=message)
    return Journal(replace(ended, attempts=0))
