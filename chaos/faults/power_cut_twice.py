"""The power goes again, while the device recovers from the first time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

from pydantic import Field

from chaos.faults.base import register
from chaos.history import Event
from chaos.power.outages import DiskPowerFault, OffFor
from chaos.scenario.quantities import Duration
from reference.stack.device import Device

_PHASE_S = 10.0
"""Longest wait for the next phase. There is no second cut in the quiet: it would not be in the recovery."""


class Twice(OffFor):
    """When it goes again."""

    again: Annotated[Duration | Literal["next-phase"], Field(union_mode="left_to_right")] = "next-phase"
    """So long after the agent was started again, or as the next phase becomes durable."""


@register
class PowerCutTwice(DiskPowerFault):
    """A true cut, a boot, and another true cut."""

    name = "power-cut-twice"
    about = "The power is cut, the device boots, and the power is cut again in the midst of its recovery."
    shown_by = "two cuts, each with processes that were ended and a disk that answered EIO"
    params = Twice
    ends_early = False
    """The two cuts are one fault: `heal` waits until both were."""

    async def story(self) -> None:
        """Boot, recover for a while, cut, boot."""
        await self.pause(self.given.dark)
        since = self.ground.recorder.now()
        await self.back()
        if self.given.again != "next-phase":
            await self.pause(self.given.again)
        elif not await self._next_phase(since):
            return
        await self.take_all()
        await self.pause(self.given.dark)
        await self.back()

    async def _next_phase(self, since: float) -> bool:
        """Wait for whichever device comes to one first; whether one did."""
        names = {device.client_id for device in self.devices}

        def phase(event: Event) -> bool:
            return event.source == "phase" and event.event == "durable" and event.device in names

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PHASE_S):
                await self.ground.recorder.seen(phase, since=since)
                return True
        return False

    def least(self, device: Device) -> int:  # noqa: ARG002
        """Both."""
        return 2
