"""Far more than anybody needs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from chaos.faults._flood import Flow, JunkCommands, OwnBirths, Requests
from chaos.faults.base import Family, Fault, Params, register

MOST_S = 10.0
"""No flood lasts longer, whatever was asked for."""
TICK_S = 0.02


class Of(StrEnum):
    """What comes in such numbers."""

    COMMANDS = "commands"
    BIRTHS = "births"
    REQUESTS = "requests"


KINDS: dict[Of, type[Flow]] = {Of.COMMANDS: JunkCommands, Of.BIRTHS: OwnBirths, Of.REQUESTS: Requests}


class FloodParams(Params):
    """What, and how fast. It ends with the fault's `for`, and after 10 s at the latest."""

    of: Of = Of.COMMANDS
    """`commands`: junk, to the device. `births`: the device's own, again and again, to the service. `requests`: to the API."""
    rate: Annotated[int, Field(ge=1, le=500)] = 100
    """A second, to or from each device."""


@register
class Flood(Fault):
    """At a rate that is bounded, for a time that is bounded."""

    name = "flood"
    family = Family.HOSTILE
    about = "Junk commands come to the device, its births to the service, or requests to the API: up to 500 a second."
    shown_by = "how many were sent, and how many the device's log, the broker or the API says it has handled"
    params = FloodParams
    given: FloodParams
    _task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """See the port."""
        chosen = self.ground.chosen(self.use.device)
        self._streams = [KINDS[self.given.of](self.ground, device, self.chance) for device in chosen]
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        began, due = time.monotonic(), 0.0
        while (now := time.monotonic()) - began < MOST_S:
            wanted = (now - began) * self.given.rate
            while due < wanted:
                due += 1
                for stream in self._streams:
                    await stream.send()
            await asyncio.sleep(TICK_S)

    async def heal(self) -> None:
        """See the port."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for stream in getattr(self, "_streams", []):
            await stream.end()

    async def fired(self) -> str:
        """See the port."""
        said = [await stream.shown() for stream in self._streams]
        return "; ".join(said) if all(said) else ""
