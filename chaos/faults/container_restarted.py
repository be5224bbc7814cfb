"""Somebody restarts the client's container by hand."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from chaos.faults._each import of_each
from chaos.faults._parts import POLL_S, WhichParams, docker_box, running_containers
from chaos.faults.base import Family, Ground, Instant, Need, register
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import Duration
from reference.engine.leftovers import started
from reference.stack import Device


class RestartParams(WhichParams):
    """Which container, and how gently."""

    grace: Duration = 10_000
    """What it is given to end by itself before SIGKILL, in whole seconds."""


@register
class ContainerRestarted(Instant):
    """`docker restart`, by a stranger. The process runtime knows no such thing."""

    name = "container-restarted"
    family = Family.PARTS
    about = "A stranger restarts the client's container: `docker restart`."
    shown_by = "the engine says that it has started again, as another process"
    params = RestartParams
    needs = (Need.DOCKER,)
    given: RestartParams

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._restarting: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """See the port. Raises FaultError on a bench without an engine."""
        self._again: dict[str, list[str]] = {}
        for device in self.ground.chosen(self.use.device):
            docker_box(self, device)
            pids = await asyncio.to_thread(device.box.processes)
            restarting = asyncio.create_task(asyncio.to_thread(self._restart, device))
            self._restarting.append(restarting)
            # In force as it ends; that the engine starts it again is not waited for here.
            while not restarting.done() and all(started(p) is not None for p in pids):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

    def _restart(self, device: Device) -> None:
        with docker_box(self, device).asked() as docker:
            for one in running_containers(docker, device, self.given.which):
                before = one.attrs["State"]
                one.restart(timeout=-(-self.given.grace // 1000))
                one.reload()
                after = one.attrs["State"]
                if after["StartedAt"] != before["StartedAt"]:
                    self._again.setdefault(device.client_id, []).append(
                        f"container {one.short_id} of {device.client_id} was process {before['Pid']}, "
                        f"and started again at {after['StartedAt']} as {after['Pid']}"
                    )

    async def fired(self) -> str:
        """See the port."""
        await asyncio.gather(*self._restarting)
        return of_each(self.ground.chosen(self.use.device), self._again)
