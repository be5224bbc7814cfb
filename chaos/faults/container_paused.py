"""The client stands still for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass

from chaos.faults._each import of_each
from chaos.faults._parts import GONE_S, POLL_S, WhichParams, client_processes, running_containers, state_of
from chaos.faults.base import Family, Fault, register
from reference.core.errors import EngineError
from reference.engine.leftovers import alive, started
from reference.stack import Device
from reference.stack.docker_box import DockerBox


@dataclass(slots=True)
class _Still:
    device: Device
    name: str
    """The container's id under Docker, else empty."""
    pid: int
    began: int
    """Clock ticks: with the pid it is one life of one process."""


@register
class ContainerPaused(Fault):
    """SIGSTOP, or `docker pause`; then it goes on."""

    name = "container-paused"
    family = Family.PARTS
    about = (
        "The client's process stands still, as one that hangs: `docker pause`, or SIGSTOP without an engine."
    )
    shown_by = "the kernel says that the process is stopped, or the engine that the container is paused"
    params = WhichParams
    given: WhichParams

    async def begin(self) -> None:
        """See the port."""
        self._still: list[_Still] = []
        self._shown: dict[str, list[str]] = {}
        self._since = time.monotonic()
        for device in self.ground.chosen(self.use.device):
            if isinstance(device.box, DockerBox):
                await asyncio.to_thread(self._pause, device, device.box)
            else:
                await self._stop(device)

    async def _stop(self, device: Device) -> None:
        for pid in client_processes(device, self.given.which):
            began = started(pid) or 0
            with contextlib.suppress(ProcessLookupError):
                self.ground.guard.kill(pid, signal.SIGSTOP)
                self._still.append(_Still(device, "", pid, began))
            end = time.monotonic() + GONE_S
            while state_of(pid) not in ("T", "") and time.monotonic() < end:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            if state_of(pid) == "T":
                self._show(device, f"process {pid} of {device.client_id} is stopped (state T)")

    def _pause(self, device: Device, box: DockerBox) -> None:
        with box.asked() as docker:
            for one in running_containers(docker, device, self.given.which):
                pid = int(one.attrs["State"]["Pid"])
                self._still.append(_Still(device, str(one.id), pid, started(pid) or 0))
                one.pause()
                one.reload()
                if one.attrs["State"]["Paused"]:
                    self._show(device, f"container {one.short_id} of {device.client_id} is paused")

    def _show(self, device: Device, told: str) -> None:
        self._shown.setdefault(device.client_id, []).append(told)

    async def heal(self) -> None:
        """See the port. What was killed meanwhile has nothing to go on with."""
        for still in getattr(self, "_still", []):
            if still.name:
                with contextlib.suppress(EngineError):  # Gone, or not paused any more.
                    await asyncio.to_thread(self._unpause, still)
            elif alive(still.pid, still.began):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.ground.guard.process(still.pid), signal.SIGCONT)
        self._still = []

    def _unpause(self, still: _Still) -> None:
        assert isinstance(still.device.box, DockerBox)
        with still.device.box.asked() as docker:
            docker.api.unpause(still.name)

    async def fired(self) -> str:
        """See the port."""
        lasted = time.monotonic() - self._since
        told = of_each(self.ground.chosen(self.use.device), self._shown)
        return f"{told}; for {lasted:.2f} s so far" if told else ""
