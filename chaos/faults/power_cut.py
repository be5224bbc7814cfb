"""The device loses its power: what was not synced is gone."""

from __future__ import annotations

from chaos.faults.base import register
from chaos.power.outages import DiskPowerFault


@register
class PowerCut(DiskPowerFault):
    """One true cut. Without `for` the power comes back by itself after `dark`."""

    name = "power-cut"
    about = (
        "Everything of the device ends at once, its disk loses all that was not synced, and then it boots."
    )
    shown_by = (
        "processes that were ended, a disk that answered EIO, and an unsynced file that was gone at the boot"
    )
