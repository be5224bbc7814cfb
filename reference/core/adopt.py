"""A journal that was lost or never was: what is remembered is made anew from what is seen."""

from __future__ import annotations

from reference.core.model import Health, ImageState, Installed, World
from reference.core.update import UpdateRecord


def adopted(world: World, epoch: str, health: Health) -> UpdateRecord:
    """A new record in a new epoch, without a floor: no command is accepted until the service has restored it.

    The client that runs is left running and becomes current. When nothing runs (a cut took the processes too) the
    oldest generation does: old containers are removed at the commit, so where two are left the older one is the one
    that had proved itself. The other's image is kept as previous. `health` is how they are judged from now on.
    """
    ranked = sorted(world.containers, key=lambda c: (not c.running, c.generation, c.id))
    installed = [Installed(c.image, health, c.generation, c.id, c.restart_policy) for c in ranked]
    installed = [
        i for i in installed if world.images.get(i.image.digest) is not ImageState.BROKEN
    ] or installed
    others = [i for i in installed[1:] if i.image.digest != installed[0].image.digest]
    current = installed[0] if installed else None
    return UpdateRecord(epoch=epoch, current=current, previous=others[0] if others else None)
