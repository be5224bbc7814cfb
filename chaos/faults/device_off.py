"""The device is switched off, and everything on it believes that it was off for an hour."""

from __future__ import annotations

import time

from chaos.faults.base import FaultError, Need, Wants, register
from chaos.power import Power
from chaos.power.outages import OffFor, PowerFault
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import Duration

_NEAR_MS = 2_000


class LongOff(OffFor):
    """How long it was, by its own clock."""

    clock: Duration = 3_600_000
    """The device's clock goes on by so much while it is off, and stays there: the others did not wait an hour."""


@register
class DeviceOff(PowerFault):
    """A clean shutdown, a short real time, a clock that has moved on, a boot."""

    name = "device-off"
    about = "The device is switched off in order, and boots when its clock has moved on by an hour (`clock`)."
    shown_by = "processes that ended, and what time it is for the device afterwards"
    params = LongOff
    needs = (Need.FAKETIME,)
    how = "off"

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:  # noqa: ARG003
        """A clock of its own."""
        wants.faketime = True

    async def take(self, power: Power) -> None:
        """Nothing is lost; meanwhile time passes."""
        await power.switch_off()
        await self.ground.clock(power.device).shift(self.given.clock)

    async def fired(self) -> str:
        """It was off, and for the device it is later now."""
        said = await super().fired()
        for device in self.devices if said else ():
            try:
                ahead_ms = await self.ground.clock(device).told_ms() - time.time() * 1000
            except FaultError:  # It is off, or its agent is: asked again at the end.
                return ""
            if abs(ahead_ms - self.given.clock) > _NEAR_MS:
                return ""
            said += f"; for {device.client_id} it is {ahead_ms / 60_000:.1f} minutes later"
        return said
