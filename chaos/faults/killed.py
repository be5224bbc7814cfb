"""Everything of the device is killed: no power cut, because what was written survives in the page cache."""

from __future__ import annotations

from chaos.faults.base import register
from chaos.power import Power
from chaos.power.outages import PowerFault


@register
class Killed(PowerFault):
    """SIGKILL for all, then a boot. Without `for` it comes back by itself after `dark`."""

    name = "killed"
    about = "Every process of the device gets SIGKILL, and then it boots; nothing that was written is lost."
    shown_by = "processes that were ended, and how long the device was off"
    how = "killed"

    async def take(self, power: Power) -> None:
        """SIGKILL for all."""
        await power.kill()
