"""Handover `overlap`: the next version stands by before the one that runs is told to go.

Who stands by waits for the lease on the volume: it has read its configuration, reached what it needs and touched
nothing, so until the other one is stopped the client is as it was. The lease passes on with the other one's end.

Nothing of this is remembered. It is done where both containers allow it and all is well; whatever does not fit (a boot in
between, a snapshot to be taken, a start that failed) goes the usual way, where the one is stopped before the other starts.
"""

from __future__ import annotations

from reference.core.duty import restore_volume
from reference.core.errors import Reason
from reference.core.limits import Limits
from reference.core.model import (
    Container,
    Handover,
    Health,
    HealthState,
    ImageState,
    Installed,
    Phase,
    World,
)
from reference.core.record import UpdateRecord, doubted
from reference.core.steps import Journal, Start, Step, Sync, Wait


def overlapping(record: UpdateRecord) -> bool:
    """Whether the job wants it, and nothing of it needs the volume to be at rest."""
    policy = record.job.policy if record.job is not None else None
    return policy is not None and policy.handover is Handover.OVERLAP and not policy.snapshot


def would_end_it(record: UpdateRecord, world: World) -> bool:
    """Whether a restart of the engine might end what runs: nothing has to be, for the sake of one that stands by."""
    turns = record.phase in (Phase.SWITCHING, Phase.ROLLING_BACK)
    return turns and overlapping(record) and world.running_beside(None) is not None


def forward(record: UpdateRecord, world: World, candidate: Container, limits: Limits) -> Step | None:
    """In `switching`, while current still runs: the candidate beside it. None: what runs beside it is to be stopped."""
    job, current = record.job, world.find(record.current)
    if job is None or current is None or record.phase is not Phase.SWITCHING or not overlapping(record):
        return None
    if not _only(world, current, candidate) or not (current.running and _allowed(current, candidate)):
        return None
    if not candidate.running:
        if candidate.started_this_boot:
            return Journal(doubted(record, *_exited(candidate)))
        return Sync() if world.dirty else Start(candidate.id)
    if candidate.health is HealthState.HEALTHY:
        return None
    if (why := trouble(candidate, job.health)) is not None:
        return Journal(doubted(record, *why))
    return Wait(limits.poll_ms, "the candidate has to stand by, ready")


def back(
    record: UpdateRecord, installed: Installed, beside: Container, world: World, limits: Limits
) -> Step | None:
    """In a rollback, while the candidate still runs: current beside it. None: the candidate is to be stopped."""
    current = world.find(installed)
    if current is None or not overlapping(record) or not _allowed(current, beside):
        return None
    if not _only(world, current, beside) or restore_volume(world) is not None:
        return None
    if not current.running:
        whole = world.images.get(installed.image.digest) is ImageState.PRESENT
        calm = all(c.restart_policy == "no" for c in (current, beside))
        if world.restores or world.failures or not whole or not calm:
            return None
        return Sync() if world.dirty else Start(current.id, trusted=True)
    waits = not beside.standby and current.health is HealthState.STARTING
    if waits and current.judged_ms <= limits.standby_ms:
        return Wait(limits.poll_ms, "the old version has to stand by, ready")
    return None


def trouble(candidate: Container, health: Health) -> tuple[Reason, str] | None:
    """Why a candidate is not to be trusted, if it is not."""
    asked = health.probe or "the image's own check"
    if not candidate.running:
        return _exited(candidate)
    if candidate.health is HealthState.UNHEALTHY:
        return Reason.CANDIDATE_UNHEALTHY, f"{asked} was good and turned bad"
    if candidate.sick(health):
        message = f"{asked} was not good within {health.deadline_ms} ms of the start"
        return Reason.CANDIDATE_NEVER_HEALTHY, message
    if candidate.unsteady(health):
        return Reason.CANDIDATE_UNHEALTHY, f"{asked} did not stay good for long enough"
    return None


def _exited(candidate: Container) -> tuple[Reason, str]:
    return Reason.CANDIDATE_EXITED, f"exit code {candidate.exit_code}"


def _allowed(*containers: Container) -> bool:
    return all(c.overlaps for c in containers)


def _only(world: World, *pair: Container) -> bool:
    """Whether nothing else runs."""
    ids = {c.id for c in pair}
    return len(ids) == len(pair) and all(c.id in ids for c in world.containers if c.running)
