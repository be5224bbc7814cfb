"""A journal that was lost or never was: what is remembered is made anew from what is seen."""

from __future__ import annotations

from reference.core.errors import Reason
from reference.core.model import Health, ImageState, Installed, SnapshotState, World
from reference.core.record import UpdateRecord


def outdated(record: UpdateRecord, world: World) -> bool:
    """Whether the record is older than what the device has done since: a journal that lost its end, or an old copy.

    A generation is journaled before a container of it is made, so one that the record cannot know was made after it.
    A record without a floor has made none, and says nothing.
    """
    if record.floor is None:
        return False
    known = [
        i.generation for i in (record.current, record.previous, record.job, record.queued) if i is not None
    ]
    newest = max([record.floor, *known])
    return any(container.generation > newest for container in world.containers)


def adopted(world: World, epoch: str, health: Health) -> UpdateRecord:
    """A new record in a new epoch, without a floor: no command is accepted until the service has restored it.

    The client that runs is left running and becomes current. When nothing runs (a cut took the processes too) the
    oldest generation does: old containers are removed at the commit, so where two are left the older one is the one
    that had proved itself. The other's image is kept as previous. `health` is how they are judged from now on.

    One that runs beside an older container may have been on trial: it has to be healthy for as long as a trial may
    take, as on probation, or the older one comes back (the reason `journal_corrupt` marks that). When nothing runs and a snapshot of the volume was taken for a
    newer generation, its trial was not over: the record is in duty, which brings the volume back first.
    """
    ranked = sorted(world.containers, key=lambda c: (not c.running, c.generation, c.id))
    installed = [Installed(c.image, health, c.generation, c.id, c.restart_policy) for c in ranked]
    installed = [
        i for i in installed if world.images.get(i.image.digest) is not ImageState.BROKEN
    ] or installed
    if not installed:
        return UpdateRecord(epoch=epoch)
    current = installed[0]
    others = [i for i in installed[1:] if i.image.digest != current.image.digest]
    taken = [g for g, state in world.snapshots.items() if state is SnapshotState.TAKEN]
    interrupted = not ranked[0].running and any(generation > current.generation for generation in taken)
    # What is only half there is nothing to go back to.
    whole = (i for i in others if world.images.get(i.image.digest) is ImageState.PRESENT)
    previous = next(whole, None)
    on_trial = ranked[0].running and previous is not None and previous.generation < current.generation
    return UpdateRecord(
        epoch=epoch, current=current, previous=previous, duty=interrupted,
        probation_left_ms=health.deadline_ms if on_trial else 0,
        reason=Reason.JOURNAL_CORRUPT if on_trial else None,
        message=f"the journal was lost while {current.image.version} may have been on trial" if on_trial else "",
    )  # fmt: skip
