"""The link is down, up, down again ..."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import ClassVar

from chaos.faults._network import CutOff, several
from chaos.faults.base import Ground, Params, register
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import DurationRange
from reference.core.errors import BlackstartError

LEAST_MS = 10
"""Shorter than this nothing could be told from the toggling itself."""

log = logging.getLogger(__name__)


class FlappingParams(Params):
    """How long each time, drawn anew each time from the run's seed."""

    down: DurationRange = DurationRange(500, 1_500)
    """How long it is down."""
    up: DurationRange = DurationRange(500, 1_500)
    """How long it is up in between."""


@register
class Flapping(CutOff):
    """Toxiproxy's proxy is disabled and enabled in turn, beginning with down."""

    name: ClassVar[str] = "flapping"
    about: ClassVar[str] = "The link goes down and up in turn; each time every open connection is cut."
    shown_by: ClassVar[str] = "connections that were cut or refused"
    params: ClassVar[type[Params]] = FlappingParams
    given: FlappingParams

    def __init__(self, ground: Ground, use: FaultUse, given: Params, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self.times = 0
        """How often it was down."""
        self._task: asyncio.Task[None] | None = None
        self._stopped: BlackstartError | None = None

    async def begin(self) -> None:
        await super().begin()
        self.times = 1
        self._task = asyncio.create_task(self._flap())

    async def heal(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await super().heal()
        if self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            raise stopped

    async def fired(self) -> str:
        told = await super().fired()
        return f"{told}; down {several(self.times, 'time')}" if told else ""

    async def _flap(self) -> None:
        try:
            while True:
                await self._wait(self.given.down)
                for way in self.ways:
                    await self.let_go(way)
                await self._wait(self.given.up)
                for way in self.ways:
                    await self.hurt(way)
                self.times += 1
        except BlackstartError as error:
            log.error("flapping has stopped: %s", error)
            self._stopped = error

    async def _wait(self, wanted: DurationRange) -> None:
        await asyncio.sleep(max(wanted.draw(self.chance.random()), LEAST_MS) / 1000)
