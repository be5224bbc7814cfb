"""What faults of parts share: which process of the client, its end, its state; a part of the stack that is gone for a while."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from abc import abstractmethod
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from chaos.faults.base import Family, Fault, FaultError, Ground, Params
from reference.engine.leftovers import alive, started
from reference.stack import HOST, Device
from reference.stack.docker_box import CLIENT_LABEL, DockerBox

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

GONE_S = 5.0
"""How long what was killed may take to be gone."""
POLL_S = 0.002


class Which(StrEnum):
    """Which container of a device, where an update has two of them running."""

    NEWEST = "newest"
    OLDEST = "oldest"
    ALL = "all"

    def of(self, found: list[int]) -> list[int]:
        """Those of a list that begins with the oldest."""
        return {"newest": found[-1:], "oldest": found[:1], "all": found}[self.value]


class WhichParams(Params):
    """Which container."""

    which: Which = Which.NEWEST
    """`newest` is the candidate, while both are there."""


def client_processes(device: Device, which: Which) -> list[int]:
    """The first processes of the client's containers that run, the oldest first."""
    begun = {pid: began for pid in device.box.processes() if (began := started(pid)) is not None}
    return which.of(sorted(begun, key=lambda pid: (begun[pid], pid)))


async def ended(pids: Iterable[int], within_s: float = GONE_S) -> bool:
    """Whether these processes have ended in time; what is left of one that nobody has waited for counts as ended."""
    lives = {pid: began for pid in pids if (began := started(pid)) is not None}
    end = time.monotonic() + within_s
    while any(alive(pid, began) for pid, began in lives.items()):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def kill(ground: Ground, pid: int) -> float | None:
    """SIGKILL for a process of this run; after how many ms it was gone, None when it had ended before.

    Raises FaultError when it stays.
    """
    began = time.monotonic()
    try:
        ground.guard.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    if not await ended([pid]):
        raise FaultError(f"process {pid} survives SIGKILL", todo="See what it waits for: a disk?")
    return (time.monotonic() - began) * 1000


def state_of(pid: int) -> str:
    """The letter of /proc/PID/stat, as `T` for one that is stopped; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


async def listens(port: int) -> bool:
    """Whether somebody takes connections at a port of loopback."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


# ---- under Docker


def docker_box(fault: Fault, device: Device) -> DockerBox:
    """The device's, where it is on an engine. Raises FaultError on another runtime."""
    if not isinstance(device.box, DockerBox):
        raise FaultError(
            f"{fault.name} needs an engine, and the runtime here is {device.box.runtime}",
            where=device.client_id,
            todo="bench: {runtime: docker}",
        )
    return device.box


def running_containers(docker: DockerClient, device: Device, which: Which) -> list[Container]:
    """The client's containers that run, the oldest first."""
    named = f"{CLIENT_LABEL}={device.tenant}.{device.client_id}"
    found = docker.containers.list(filters={"label": named}, ignore_removed=True)
    by_pid = {int(one.attrs["State"]["Pid"]): one for one in found}
    begun = {pid: began for pid in by_pid if pid > 0 and (began := started(pid)) is not None}
    return [by_pid[pid] for pid in which.of(sorted(begun, key=lambda pid: (begun[pid], pid)))]


# ---- a part of the stack


class StackPartKilled(Fault):
    """SIGKILL for a part of the stack; it is started again on the same port when it is healed."""

    family = Family.PARTS
    part: ClassVar[str]
    """As the stack calls it."""
    _killed: int = 0
    _noticing: asyncio.Task[None] | None = None
    _refused: bool = False
    _since: float = 0.0
    _away_ms: float | None = None

    @abstractmethod
    def port(self) -> int:
        """Where it listens."""

    @abstractmethod
    async def start(self) -> None:
        """Start it again."""

    async def begin(self) -> None:
        """See the port. Nothing happens to a part that is down already."""
        if (pid := self.pid()) is None:
            return
        self._since = time.monotonic()
        if await kill(self.ground, pid) is not None:
            self._killed = pid
            self._noticing = asyncio.create_task(self._notice())

    async def _notice(self) -> None:
        """Let the stack know, and see that nobody listens any more: Mosquitto is a child of its part, and ends after it."""
        await self.ground.stack.kill_part(self.part)
        end = time.monotonic() + GONE_S
        while not self._refused and time.monotonic() < end:
            self._refused = not await listens(self.port())

    async def heal(self) -> None:
        """See the port."""
        if self._noticing is None or self._away_ms is not None:
            return
        await self._noticing
        if self.pid() is None:
            await self.start()
        self._away_ms = (time.monotonic() - self._since) * 1000

    async def fired(self) -> str:
        """See the port."""
        if self._noticing is None:
            return ""
        await self._noticing
        if not self._refused:
            return ""
        away = self._away_ms if self._away_ms is not None else (time.monotonic() - self._since) * 1000
        return (
            f"the {self.part} (process {self._killed}) ended by SIGKILL, and its port {self.port()} refused "
            f"connections; away for {away:.0f} ms"
        )

    def pid(self) -> int | None:
        """The part's process; None while it is down."""
        try:
            pid = self.ground.stack.pid_of(self.part)
        except KeyError:
            return None
        return pid if started(pid) is not None else None
