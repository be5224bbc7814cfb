"""A memory cgroup that has too little: of version 1 or 2. Its kernel counts whom it kills for want of memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from chaos.faults._parts import POLL_S, ended
from chaos.faults.base import FaultError
from reference.support.processes import ends_with_us

ROOT = Path("/sys/fs/cgroup")
ROOM_BYTES = 32 << 20
"""What is left to a group before the kernel has to kill."""
KILL_S = 10.0
NEIGHBOUR = """
import os, sys
with open(sys.argv[1], "w") as group:
    group.write("0")
kept = os.memfd_create("neighbour")
for _ in range(int(sys.argv[2])):
    os.write(kept, b"x" * (1 << 20))
"""
"""Moves itself into the group, and takes memory, a MiB at a time; not for ever, where the group has no bound after all.

In a file that has no disk: that counts for the group, and not for the process when the kernel looks for the largest.
"""
_TAKES_MIB = 256
_LAST_LOOK_S = 0.5


class MemoryGroup:
    """One group. Raises FaultError where there are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.second = (path / "memory.max").exists()
        self._limit = path / ("memory.max" if self.second else "memory.limit_in_bytes")
        if not self._limit.exists():
            raise FaultError("there is no memory cgroup here", where=str(path))

    @classmethod
    def of(cls, pid: int) -> MemoryGroup:
        """The one that a process is in."""
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if "memory" in controllers.split(","):
                return cls(ROOT / "memory" / place.lstrip("/"))
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return cls(ROOT / line.removeprefix("0::").lstrip("/"))
        raise FaultError("there is no memory cgroup here", where=f"/proc/{pid}/cgroup")

    @classmethod
    def make(cls) -> MemoryGroup:
        """A new one, for `remove`."""
        first = ROOT / "memory"
        # By the pid it is known to be nobody's, when we were killed: chaos/leftovers.py.
        name = f"blackstart-chaos-{os.getpid()}-{secrets.token_hex(6)}"
        path = (first if first.is_dir() else ROOT) / name
        try:
            path.mkdir()
        except OSError as error:
            raise FaultError(f"no memory cgroup can be made: {error.strerror}", where=str(path)) from error
        try:
            return cls(path)
        except FaultError:
            path.rmdir()
            raise

    def remove(self) -> None:
        """It has to be empty."""
        self.path.rmdir()

    def take_in(self, pid: int) -> None:
        """Move a process into it; what it has taken before is not counted here, under version 1."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int | None:
        """Whom the kernel has killed in it; None when it is gone."""
        name = "memory.events" if self.second else "memory.oom_control"
        try:
            fields = dict(line.split() for line in (self.path / name).read_text().splitlines())
        except OSError:
            return None
        return int(fields["oom_kill"])

    @contextlib.asynccontextmanager
    async def tight(self) -> AsyncIterator[None]:
        """Leave it `ROOM_BYTES` beyond what it uses, and no swap; as before afterwards, if it is still there."""
        usage = self.path / ("memory.current" if self.second else "memory.usage_in_bytes")
        swap = self.path / ("memory.swap.max" if self.second else "memory.swappiness")
        before = {path: path.read_text().strip() for path in (swap, self._limit) if path.exists()}
        try:
            if swap in before:
                swap.write_text("0")
            self._limit.write_text(str(int(usage.read_text()) + ROOM_BYTES))
            yield
        finally:
            for path, value in before.items():
                with contextlib.suppress(OSError):
                    path.write_text(value)

    async def kill(self, pid: int) -> tuple[int | None, int | None]:
        """Have the kernel kill a process of the group for want of memory: its count before and after.

        A neighbour takes all that is left; the process is the one that the kernel likes best to kill. Raises FaultError
        when it does not. The count after it is None when the group went with the process.
        """
        (Path(f"/proc/{pid}") / "oom_score_adj").write_text("1000")
        before = self.kills()
        neighbour = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", NEIGHBOUR, str(self.path / "cgroup.procs"), str(_TAKES_MIB),
            preexec_fn=ends_with_us(signal.SIGKILL), stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            end = time.monotonic() + KILL_S
            while not (gone := await ended([pid], POLL_S)) and time.monotonic() < end:
                if neighbour.returncode is not None:
                    gone = await ended([pid], _LAST_LOOK_S)
                    break
            after = self.kills()
        finally:
            with contextlib.suppress(ProcessLookupError):
                neighbour.kill()
            await neighbour.wait()
        if not gone:
            raise FaultError(f"the kernel did not kill process {pid}", where=str(self.path))
        return before, after
