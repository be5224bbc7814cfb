"""The device's disk is slow for everybody on the device."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from typing import Any

from chaos.faults.base import Family, Fault, FaultError, Ground, Need, Params, Wants, register
from chaos.power.outages import DISK_BYTES
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import Size
from chaos.throttle import Throttle, written_in_ms
from reference.stack.device import Device

_LOOK_S = 0.1
_LEAST, _MOST = 64 << 10, 1 << 20
_NUMBERS = itertools.count()


class Speed(Params):
    """How slow."""

    rate: Size = 1 << 20
    """So many bytes a second."""


@register
class SlowDisk(Fault):
    """A control group throttles what its processes read from and write to their disk."""

    name = "slow-disk"
    family = Family.PARTS
    about = "Reads and synced writes of the device's processes take so long as if the disk had only `rate` a second."
    shown_by = "a write and fsync on that disk, measured before and during, and bytes that the device wrote meanwhile"
    params = Speed
    needs = (Need.ROOT, Need.LOOP, Need.BLKIO)

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._slow: dict[str, _Slow] = {}
        self._size = min(max(given.rate // 2, _LEAST), _MOST)

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:  # noqa: ARG003
        """A disk of its own: only that one is slowed."""
        wants.disk_bytes = max(wants.disk_bytes, DISK_BYTES)

    async def begin(self) -> None:
        """Measure, then slow it down."""
        for device in self.ground.chosen(self.use.device):
            root = self.ground.guard.path(device.root)
            if not root.is_mount():
                raise FaultError(f"{device.client_id} has no disk of its own", where=str(root))
            before_ms = await written_in_ms(root, self._size)
            self._slow[device.client_id] = _Slow(self.ground, device, self.given.rate, before_ms)

    async def heal(self) -> None:
        """As fast as it was."""
        for slow in self._slow.values():
            await slow.heal()

    async def fired(self) -> str:
        """It takes longer, and somebody wrote."""
        said = [await slow.told(self._size) for slow in self._slow.values()]
        return "; ".join(said) if said and all(said) else ""


class _Slow:
    """One device whose disk is slow."""

    def __init__(self, ground: Ground, device: Device, rate: int, before_ms: float) -> None:
        self._ground = ground
        self._device = device
        self._before_ms = before_ms
        name = f"blackstart-slow-{os.getpid()}-{next(_NUMBERS)}"
        self._throttle = Throttle(name, device.root, rate)
        self._open = True
        self._throttle.take(self._ground.power(device).processes())
        self._following = asyncio.create_task(self._follow())

    async def heal(self) -> None:
        self._open = False
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError, FaultError):
            await self._following
        await asyncio.to_thread(self._throttle.close)

    async def told(self, size: int) -> str:
        """In words; empty when it is no slower, or nobody wrote."""
        if not self._open:
            return ""
        written, during_ms = self._throttle.written(), await self._throttle.measure(size)
        if during_ms < 2 * self._before_ms or not written:
            return ""
        return (
            f"{self._device.client_id}: {size >> 10} KiB were written and synced in {self._before_ms:.0f} ms before and "
            f"{during_ms:.0f} ms during; {len(self._throttle.inside())} processes wrote {written} bytes meanwhile"
        )

    async def _follow(self) -> None:
        """Who is started later is slow, too."""
        while True:
            await asyncio.sleep(_LOOK_S)
            found = await asyncio.to_thread(self._ground.power(self._device).processes)
            await asyncio.to_thread(self._throttle.take, found)
