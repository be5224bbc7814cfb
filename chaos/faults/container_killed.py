"""The client's process is killed."""

from __future__ import annotations

from chaos.faults._each import of_each
from chaos.faults._parts import WhichParams, client_processes, kill
from chaos.faults.base import Family, Instant, register


@register
class ContainerKilled(Instant):
    """SIGKILL for the first process of a container."""

    name = "container-killed"
    family = Family.PARTS
    about = "The client's process gets SIGKILL; whoever looks after it has to bring it back."
    shown_by = "the process is gone"
    params = WhichParams
    given: WhichParams

    async def begin(self) -> None:
        """See the port."""
        self._gone: dict[str, list[str]] = {}
        for device in self.ground.chosen(self.use.device):
            for pid in client_processes(device, self.given.which):
                if (took_ms := await kill(self.ground, pid)) is not None:
                    told = f"process {pid} of {device.client_id} was gone after {took_ms:.0f} ms"
                    self._gone.setdefault(device.client_id, []).append(told)

    async def fired(self) -> str:
        """See the port."""
        told = of_each(self.ground.chosen(self.use.device), self._gone)
        return f"SIGKILL: {told}" if told else ""
