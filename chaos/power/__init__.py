"""The power of one device: cut for real, killed, switched off, and back.

    cut     everything of the device stops, then its disk is shut down, then everything is killed: what was not
            synced is lost
    kill    SIGKILL for everything of the device: the page cache, and with it all that was written, survives
    off     as an operator switches it off: asked to end, synced, unmounted
    boot    the disk is mounted again, what a boot forgets is forgotten; whoever calls this starts the agent

The order within a cut matters. Shut down first, and a process could be told that something is on the disk that is not.
Killed first, and the last process of a container would take its mount with it, which syncs the disk below.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.faults.base import FaultError
from chaos.guard import Guard
from chaos.history import Recorder
from chaos.power.processes import alive, family, stand_still
from reference.engine import PrivateEngine
from reference.engine.leftovers import end_processes, unmount
from reference.power.disk import Disk
from reference.stack.device import Device
from reference.stack.docker_box import DockerBox
from reference.support.files import syncfs

GONE_S = 10.0
"""How long what was killed may take to be gone."""
GRACE_S = 2.0
"""How long what is asked to end may take, when the device is switched off."""
_POLL_S = 0.005
_WITNESS = ".written-as-the-power-went"
_WORDS = b"this was written, and never synced\n" * 100


def engine_folder(device_root: Path) -> Path:
    """Where a device's own Docker Engine keeps its data, so that it is on the device's disk."""
    return device_root / "engine"


@dataclass(slots=True)
class Outage:
    """One time without power, for whoever has to show that it was."""

    how: str
    """`cut`, `killed` or `off`."""
    processes: int
    """So many were ended."""
    began: float
    """time.monotonic()."""
    ended: float | None = None
    witness: bool = False
    """Whether a file was written as the power went, and not synced."""
    dead_disk: bool = False
    """The disk answered EIO."""
    lost: bool | None = None
    """Whether that file was gone at the boot; None: nobody looked yet, or it could not be written."""

    def told(self) -> str:
        """In words, with numbers."""
        said = [f"{self.processes} processes were ended"]
        if self.dead_disk:
            said.append("the disk answered EIO")
        if self.lost is not None:
            said.append(f"what was written and not synced was {'lost' if self.lost else 'kept'}")
        if self.ended is not None:
            said.append(f"booted after {(self.ended - self.began) * 1000:.0f} ms")
        return f"{self.how}: {', '.join(said)}"


class Power:
    """One device's. `disk`: what is mounted at its folder, where that can lose power."""

    def __init__(
        self, device: Device, guard: Guard, disk: Disk | None = None, recorder: Recorder | None = None
    ) -> None:
        self.device = device
        self.on = True
        self.outages: list[Outage] = []
        """Of this run, in order."""
        self._guard = guard
        self._disk = disk
        self._recorder = recorder
        self._changing = asyncio.Lock()

    # ---- what is done to it

    async def cut(self) -> None:
        """Take the power away, truly; it stays off. Raises FaultError without a disk of its own, or when it is off."""
        async with self._changing:
            disk = self._own_disk()
            self._see_it_is_on()
            outage = await asyncio.to_thread(self._cut, disk)
            await self._gone(outage)
            await asyncio.to_thread(self._put_away)
            self._record("cut", processes=outage.processes, diskDead=outage.dead_disk)

    async def kill(self) -> None:
        """SIGKILL for every process of the device; it stays off. The page cache survives: this is no power cut."""
        async with self._changing:
            self._see_it_is_on()
            outage = Outage("killed", 0, time.monotonic())
            outage.processes = len(await asyncio.to_thread(self._kill_all))
            await self._gone(outage)
            self._record("killed", processes=outage.processes)

    async def switch_off(self) -> None:
        """Let everything end, SIGKILL for what does not, then sync and unmount: nothing is lost."""
        async with self._changing:
            self._see_it_is_on()
            outage = Outage("off", 0, time.monotonic())
            outage.processes = await asyncio.to_thread(self._end_all)
            await self._gone(outage)
            await asyncio.to_thread(syncfs, self.device.root)
            await asyncio.to_thread(self._put_away)
            self._record("off", processes=outage.processes)

    async def boot(self) -> None:
        """Mount the disk, which replays its journal, and boot; the agent is the caller's. On already: nothing."""
        async with self._changing:
            if self.on:
                return
            outage = self.outages[-1]
            if self._disk is not None and not self._disk.mounted:
                await asyncio.to_thread(self._disk.mount)
            outage.lost = await asyncio.to_thread(self._look_for_witness)
            # A folder that nobody has synced may be gone; a boot makes it, as tmpfiles.d does.
            self.device.run_dir.mkdir(parents=True, exist_ok=True)
            await self.device.box.boot()
            outage.ended = time.monotonic()
            self.on = True
            off_ms = round((outage.ended - outage.began) * 1000)
            self._record("boot", afterMs=off_ms, lost=outage.lost)

    async def settle(self) -> None:
        """Sync its disk, as the kernel has done long ago on a device that was set up before today."""
        await asyncio.to_thread(syncfs, self.device.root)

    async def close(self) -> None:
        """The end of the run: a device that is off gets its disk back, so that whoever clears up finds its folders."""
        async with self._changing:
            if not self.on:
                if self._engine is not None:
                    await asyncio.to_thread(self._engine.stop)
                if self._disk is not None and not self._disk.mounted:
                    await asyncio.to_thread(self._disk.mount)
                self.device.run_dir.mkdir(parents=True, exist_ok=True)

    # ---- what it is

    def processes(self) -> set[int]:
        """Every process of the device that lives: agent, shims, client, and its engine with all that is in it.

        Raises FaultError when one of them is not of this run.
        """
        root, agent = self.device.root, self.device.agent
        also = [agent.pid] if agent is not None and agent.alive else []
        # Of its engine: found by the folder of its sockets, which no other engine has; containers descend from these.
        engines = (
            family(os.fsencode(f"{self._engine.places.run}/")) if self._engine is not None else set[int]()
        )
        found = family(os.fsencode(f"{self._guard.path(root)}/"), also) - {os.getpid()}
        for pid in found - engines:
            with contextlib.suppress(ProcessLookupError):
                self._check(pid)
        return found | engines

    def _check(self, pid: int) -> None:
        """Raises FaultError for a process that lives and is not of this run."""
        try:
            self._guard.process(pid)
        except FaultError:
            if alive(pid):
                raise

    @property
    def _engine(self) -> PrivateEngine | None:
        """The device's own engine. Raises FaultError for one that others have a part in."""
        box = self.device.box
        if not isinstance(box, DockerBox):
            return None
        engine = box.own()
        if engine.places.folder != engine_folder(self.device.root.resolve()):
            raise FaultError(
                "the device shares its engine, which would lose its power with it",
                where=str(engine.places.folder),
                todo="Give the device an engine of its own: engine_folder(device.root).",
            )
        return engine

    def _own_disk(self) -> Disk:
        if self._disk is None:
            raise FaultError(
                "a power cut needs a disk of the device's own: on this machine's, nothing that was written is lost",
                where=self.device.client_id,
                todo="Let the fault want one (Wants.disk_bytes), or use the fault `killed`.",
            )
        return self._disk

    def _see_it_is_on(self) -> None:
        if not self.on:
            raise FaultError(f"the power of {self.device.client_id} is off already")

    # ---- in a thread

    def _cut(self, disk: Disk) -> Outage:
        stopped = stand_still(self.processes)
        outage = Outage("cut", len(stopped), time.monotonic())
        try:
            # Nobody syncs any more, so whether it survives says whether this was a cut. A full disk takes none.
            with contextlib.suppress(OSError):
                (disk.at / _WITNESS).write_bytes(_WORDS)
                outage.witness = True
            disk.cut()
        finally:
            self._kill_all(stopped)
        outage.dead_disk = _is_dead(disk.at)
        return outage

    def _kill_all(self, known: set[int] | None = None) -> set[int]:
        """SIGKILL until nothing of the device is left. Raises FaultError."""
        end, told, left = time.monotonic() + GONE_S, set[int](), known or self.processes()
        while left:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            told |= left
            while any(alive(pid) for pid in left):
                if time.monotonic() > end:
                    raise FaultError(
                        f"processes survive SIGKILL: {sorted(left)}", where=self.device.client_id
                    )
                time.sleep(_POLL_S)
            left = self.processes()
        if self._engine is not None:
            end_processes(self._engine.places)
        return told

    def _end_all(self) -> int:
        """SIGTERM, and after a while SIGKILL; how many there were."""
        found = self.processes()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        while self.processes() and time.monotonic() < end:
            time.sleep(_POLL_S)
        return len(found | self._kill_all())

    def _put_away(self) -> None:
        """Let go of the disk: what is mounted on it first. Raises DeviceError."""
        if self._engine is not None:
            unmount(self._engine.places)
        if self._disk is not None:
            self._disk.release()

    def _look_for_witness(self) -> bool | None:
        """Whether what was written as the power went is gone; None when nothing was: no cut, or no room for it."""
        outage, witness = self.outages[-1], self.device.root / _WITNESS
        if outage.how != "cut":
            return None
        lost = True
        with contextlib.suppress(OSError):
            lost = witness.read_bytes() != _WORDS
            witness.unlink()
        return lost if outage.witness else None

    # ---- and besides

    async def _gone(self, outage: Outage) -> None:
        """It is off; the agent's object is to know, and lets go of its log."""
        self.on = False
        self.outages.append(outage)
        if self.device.agent is not None:
            await self.device.agent.kill()

    def _record(self, event: str, **data: object) -> None:
        if self._recorder is not None:
            self._recorder.record("power", event, self.device.client_id, t=None, **data)


def _is_dead(at: Path) -> bool:
    """Whether the disk answers nothing more than that it cannot."""
    try:
        os.close(os.open(at / f"{_WITNESS}-dead", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return error.errno == errno.EIO
    return False


__all__ = ["Outage", "Power", "engine_folder"]
