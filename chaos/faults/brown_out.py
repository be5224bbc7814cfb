"""The power flickers: several true cuts at random moments."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chaos.faults.base import register
from chaos.power.outages import DiskPowerFault, OffFor
from chaos.scenario.quantities import Duration
from reference.stack.device import Device


class Flicker(OffFor):
    """How often."""

    cuts: Annotated[int, Field(ge=2, le=20)] = 3
    """So many in all, unless it is healed before."""
    within: Duration = 3_000
    """From the first one to the last at most, if the device is quick enough; moments are drawn from the seed."""


@register
class BrownOut(DiskPowerFault):
    """True cuts at seeded moments; the device boots after each."""

    name = "brown-out"
    about = "The power is cut several times at random moments, and the device boots after each."
    shown_by = "at least two cuts, each with processes that were ended and a disk that answered EIO"
    params = Flicker

    @property
    def ends_early(self) -> bool:  # type: ignore[override]
        """`for` says when it is over; without it all cuts come."""
        return self.use.for_ is not None

    async def story(self) -> None:
        """Until all cuts were made, or it is healed."""
        moments = sorted(self.chance.uniform(0, self.given.within) for _ in range(self.given.cuts - 1))
        recorder = self.ground.recorder
        began = recorder.now()
        await self._on_again()
        for moment in moments:
            if await self.pause(max(0.0, moment - (recorder.now() - began) * 1000)):
                return
            await self.take_all()
            await self._on_again()

    async def _on_again(self) -> None:
        await self.pause(self.given.dark)
        await self.back()

    def least(self, device: Device) -> int:  # noqa: ARG002
        """One cut is no flicker."""
        return 2
