"""The kernel kills the client for want of memory."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from chaos.faults._each import of_each
from chaos.faults._memory import MemoryGroup
from chaos.faults._parts import GONE_S, POLL_S, WhichParams, client_processes
from chaos.faults.base import Family, FaultError, Instant, Need, register
from reference.stack import Device
from reference.stack.docker_box import DockerBox


@register
class ContainerOomKilled(Instant):
    """A real one: its group's bound is lowered, a neighbour in the group takes what is left, the kernel kills.

    Under Docker in the container's own group, so that the engine knows, too; elsewhere in a group that is made for it.
    """

    name = "container-oom-killed"
    family = Family.PARTS
    about = "The kernel kills the client's process for want of memory, as when its bound is too low."
    shown_by = "the kernel's count of such kills in the client's memory cgroup"
    params = WhichParams
    needs = (Need.ROOT,)
    given: WhichParams

    async def begin(self) -> None:
        """See the port. Raises FaultError where there is no memory cgroup, or the kernel does not kill."""
        self._killed: dict[str, list[str]] = {}
        for device in self.ground.chosen(self.use.device):
            for pid in client_processes(device, self.given.which):
                self.ground.guard.process(pid)
                docker = isinstance(device.box, DockerBox)
                try:
                    await (self._in_its_own(device, pid) if docker else self._in_ours(device, pid))
                except OSError as error:
                    raise FaultError(f"process {pid} could not be starved: {error}") from error

    async def _in_its_own(self, device: Device, pid: int) -> None:
        group = MemoryGroup.of(pid)
        async with group.tight():
            self._note(device, pid, *await group.kill(pid))

    async def _in_ours(self, device: Device, pid: int) -> None:
        home, group = MemoryGroup.of(pid), MemoryGroup.make()
        try:
            async with group.tight():
                group.take_in(pid)
                self._note(device, pid, *await group.kill(pid))
        finally:
            for left in (group.path / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    home.take_in(int(left))
            await _removed(group)

    def _note(self, device: Device, pid: int, before: int | None, after: int | None) -> None:
        if before is not None and after is not None and after > before:
            self._killed.setdefault(device.client_id, []).append(
                f"the kernel killed process {pid} of {device.client_id} for want of memory (oom_kill of its "
                f"group went from {before} to {after})"
            )

    async def fired(self) -> str:
        """See the port."""
        return of_each(self.ground.chosen(self.use.device), self._killed)


async def _removed(group: MemoryGroup) -> None:
    """What has just ended may be in it for a moment."""
    for _ in range(round(GONE_S / POLL_S)):
        try:
            group.remove()
        except OSError:
            await asyncio.sleep(POLL_S)
        else:
            return
    raise FaultError("the memory cgroup could not be removed", where=str(Path(group.path)))
