"""The updater is killed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from chaos.faults._each import of_each
from chaos.faults._parts import kill
from chaos.faults.base import Family, Fault, register
from reference.stack import Device


@dataclass(slots=True)
class _Away:
    device: Device
    pid: int
    since: float
    back: float | None = None

    def told(self) -> str:
        away_ms = ((self.back or time.monotonic()) - self.since) * 1000
        return f"the agent of {self.device.client_id} (process {self.pid}) ended by SIGKILL, away for {away_ms:.0f} ms"


@register
class AgentKilled(Fault):
    """SIGKILL for the agent; the client runs on. It comes back when it is healed, and at once without `for`."""

    name = "agent-killed"
    family = Family.PARTS
    about = "The updater gets SIGKILL, and is started again after `for`; at once without it."
    shown_by = "its process is gone"
    _coming: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """See the port."""
        self._away: list[_Away] = []
        for device in self.ground.chosen(self.use.device):
            agent = device.agent
            if agent is None or not agent.alive:
                continue
            pid, since = agent.pid, time.monotonic()
            self.ground.guard.process(pid)
            if await kill(self.ground, pid) is not None:
                self._away.append(_Away(device, pid, since))
            await agent.kill()  # It is gone; this lets go of what we hold of it.
        if self.use.for_ is None:  # It is in force already: its end is not waited for here.
            self._coming = asyncio.create_task(self._bring_back())

    async def heal(self) -> None:
        """See the port."""
        await (self._coming if self._coming is not None else self._bring_back())

    async def _bring_back(self) -> None:
        for away in getattr(self, "_away", []):
            if away.back is None:
                if away.device.agent is None or not away.device.agent.alive:
                    await self.ground.start_agent(away.device)
                away.back = time.monotonic()

    async def fired(self) -> str:
        """See the port."""
        told = {away.device.client_id: [away.told()] for away in self._away}
        return of_each(self.ground.chosen(self.use.device), told)
