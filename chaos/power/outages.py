"""What all faults have in common that take a device's power: it goes in `begin`, and comes back by itself or in `heal`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import abstractmethod
from collections.abc import Coroutine, Iterable, Sequence
from typing import ClassVar

from chaos.faults.base import Family, Fault, Ground, Need, Params, Wants
from chaos.power import Outage, Power
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import Duration
from reference.core.errors import BlackstartError
from reference.stack.device import Device

DISK_BYTES = 256 << 20
"""Of a device's disk under the process runtime. Sparse: it takes what is written to it."""


class OffFor(Params):
    """For how long there is no power."""

    dark: Duration = 0
    """Without `for`: it comes back after so long. With `for`, that is how long it is off."""


class PowerFault(Fault):
    """A fault of the power. `_story` is what happens after the power went for the first time."""

    family = Family.POWER
    params = OffFor
    how: ClassVar[str] = "cut"
    """What the outages that it makes are called."""
    ends_early = True
    """Whether `heal` ends the story where it stands; else it waits for the story's end."""

    def __init__(self, ground: Ground, use: FaultUse, given: OffFor, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self.devices: Sequence[Device] = ground.chosen(use.device)
        self._seen = {d.client_id: len(ground.power(d).outages) for d in self.devices}
        self._enough = asyncio.Event()
        self._story: asyncio.Task[None] | None = None

    @abstractmethod
    async def take(self, power: Power) -> None:
        """Take the power of one device."""

    async def begin(self) -> None:
        """Everywhere at once."""
        await self.take_all()
        self._story = asyncio.create_task(self.story())

    async def story(self) -> None:
        """How it goes on: back after a while, unless `heal` is to say when."""
        if self.use.for_ is None:
            await self.pause(self.given.dark)
            await self.back()

    async def heal(self) -> None:
        """What is under way comes to its end, and every device is on again."""
        if self.ends_early:
            self._enough.set()
        if self._story is not None:
            with contextlib.suppress(BlackstartError, OSError):
                await self._story
        await self.back()

    async def pause(self, for_ms: float) -> bool:
        """Wait so long; whether `heal` has come meanwhile, which ends the wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_ms / 1000):
                await self._enough.wait()
        return self._enough.is_set()

    async def take_all(self) -> None:
        """Take the power of every chosen device. Raises what the first one raised that it could not be taken of."""
        await _all(self.take(self.ground.power(device)) for device in self.devices)

    async def back(self) -> None:
        """Boot every chosen device that is off, and start its agent. Again is success."""
        await _all(self._boot(device) for device in self.devices)

    async def _boot(self, device: Device) -> None:
        power = self.ground.power(device)
        await power.boot()
        if self.outages(device) and (device.agent is None or not device.agent.alive):
            await self.ground.start_agent(device)

    def outages(self, device: Device) -> list[Outage]:
        """Of a device, by this coming of the fault."""
        return self.ground.power(device).outages[self._seen[device.client_id] :]

    def hurt(self, outage: Outage) -> bool:
        """Whether it can be shown that this one happened to somebody."""
        return outage.how == self.how and outage.processes > 0

    async def fired(self) -> str:
        """Processes that were ended, and what the disk said."""
        said = []
        for device in self.devices:
            told = [outage.told() for outage in self.outages(device) if self.hurt(outage)]
            if len(told) < self.least(device):
                return ""
            said.append(f"{device.client_id} {'; '.join(told)}")
        return " | ".join(said)

    def least(self, device: Device) -> int:  # noqa: ARG002 - of each the same, mostly
        """So many outages are needed before it has happened."""
        return 1


class DiskPowerFault(PowerFault):
    """One that needs a disk which loses what was not synced."""

    needs = (Need.ROOT, Need.LOOP)

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:  # noqa: ARG003
        """A disk for each device."""
        wants.disk_bytes = max(wants.disk_bytes, DISK_BYTES)

    async def take(self, power: Power) -> None:
        """A true cut."""
        await power.cut()

    def hurt(self, outage: Outage) -> bool:
        """The disk was dead, and what was not synced was lost, as far as anybody has looked."""
        return super().hurt(outage) and outage.dead_disk and outage.lost is not False


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    """All of them to their end. Raises the first one's error."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


__all__ = ["DISK_BYTES", "DiskPowerFault", "OffFor", "PowerFault"]
