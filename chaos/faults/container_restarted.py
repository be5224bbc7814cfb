"""Somebody restarts the client's container by hand."""

from __future__ import annotations

import asyncio

from chaos.faults._parts import WhichParams, docker_box, running_containers
from chaos.faults.base import Family, Instant, Need, register
from chaos.scenario.quantities import Duration
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

    async def begin(self) -> None:
        """See the port. Raises FaultError on a bench without an engine."""
        self._again: list[str] = []
        for device in self.ground.chosen(self.use.device):
            docker_box(self, device)
            await asyncio.to_thread(self._restart, device)

    def _restart(self, device: Device) -> None:
        with docker_box(self, device).asked() as docker:
            for one in running_containers(docker, device, self.given.which):
                before = one.attrs["State"]
                one.restart(timeout=-(-self.given.grace // 1000))
                one.reload()
                after = one.attrs["State"]
                if after["StartedAt"] != before["StartedAt"]:
                    self._again.append(
                        f"container {one.short_id} of {device.client_id} was process {before['Pid']}, "
                        f"and started again at {after['StartedAt']} as {after['Pid']}"
                    )

    async def fired(self) -> str:
        """See the port."""
        return "; ".join(self._again)
