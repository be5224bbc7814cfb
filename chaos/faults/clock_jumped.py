"""The device's clock jumps while the agent runs."""

from __future__ import annotations

import random
import time
from typing import Any, Literal

from chaos.faults.base import Family, Fault, FaultError, Ground, Need, Params, Wants, register
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import Duration
from reference.stack.device import Device

_NEAR_MS = 1_000


class Jump(Params):
    """Where to."""

    by: Duration = 3_600_000
    """How far."""
    direction: Literal["forward", "backward"] = "forward"
    """Which way."""


@register
class ClockJumped(Fault):
    """By `by` at once, and back again when it is healed."""

    name = "clock-jumped"
    family = Family.PARTS
    about = "The wall clock of the device's agent jumps forward or backward while it runs, as a clock that is set does."
    shown_by = "what time the agent says it is, before and after"
    params = Jump
    needs = (Need.FAKETIME,)

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._by_ms: int = given.by if given.direction == "forward" else -given.by
        self._before_ms: dict[str, float] = {}

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:  # noqa: ARG003
        """A clock of its own."""
        wants.faketime = True

    async def begin(self) -> None:
        """It jumps."""
        for device in self.ground.chosen(self.use.device):
            if (apart_ms := await self._apart_ms(device)) is not None:
                self._before_ms[device.client_id] = apart_ms
            await self.ground.clock(device).shift(self._by_ms)

    async def heal(self) -> None:
        """It jumps back."""
        for device in self.ground.chosen(self.use.device):
            await self.ground.clock(device).shift(0)

    async def fired(self) -> str:
        """The agent itself believes in another time."""
        said = []
        for device in self.ground.chosen(self.use.device):
            before_ms, now_ms = self._before_ms.get(device.client_id), await self._apart_ms(device)
            if before_ms is None or now_ms is None or abs(now_ms - self._by_ms) > _NEAR_MS:
                return ""
            said.append(
                f"{device.client_id}'s agent was {before_ms / 1000:+.1f} s from this machine's time, now {now_ms / 1000:+.1f} s"
            )
        return "; ".join(said)

    async def _apart_ms(self, device: Device) -> float | None:
        """By its agent's own word; None without one."""
        before = time.time()
        try:
            told_ms = await self.ground.clock(device).told_ms()
        except FaultError:
            return None
        return told_ms - (before + time.time()) * 500
