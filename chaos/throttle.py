"""A slow disk: a control group that may write only so many bytes a second to one device, and those who are in it.

The kernel throttles what a process of the group hands to the disk itself: write-through, direct and sync(2)-like calls.
What it writes back later on its own belongs to nobody in version 1 and is not slowed; an fsync is, and that is what an
updater waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from chaos.faults.base import FaultError

_V1_WRITE = "blkio.throttle.write_bps_device"
_TRIES = 200
_PROBE = """
import os, sys, time
group, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
if group:
    open(group, "w").write(str(os.getpid()))
content = os.urandom(size)
began = time.monotonic()
handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
os.write(handle, content)
os.fsync(handle)
print((time.monotonic() - began) * 1000)
os.close(handle)
os.unlink(path)
"""


class Throttle:
    """One group for the disk that `folder` is on. Make it, let processes in, and always `close` it."""

    def __init__(self, name: str, folder: Path, bytes_per_s: int) -> None:
        """Raises FaultError where there is no such control group, or the kernel does not take it."""
        from chaos.needs import blkio_folder  # not at the top: it knows all faults, ours too

        if (root := blkio_folder()) is None:
            raise FaultError(
                "no disk can be slowed here: no control group that throttles disks can be written"
            )
        self._root = root
        number = os.stat(folder).st_dev  # noqa: PTH116 - asked of the path as it is
        self._device = f"{os.major(number)}:{os.minor(number)}"
        self._folder = folder
        self._old = (root / _V1_WRITE).exists()
        """Version 1."""
        self._group = root / name
        self._came_from: dict[int, Path] = {}
        self._probed = 0
        try:
            if not self._old:
                (root / "cgroup.subtree_control").write_text("+io")
            self._group.mkdir()
            self._limit(bytes_per_s)
        except OSError as error:
            self.close()
            raise FaultError(
                f"the kernel slows no disk {self._device}: {error.strerror}", where=str(self._group)
            ) from error

    def _limit(self, bytes_per_s: int) -> None:
        for way in ("read", "write") if self._old else ():
            file = self._group / f"blkio.throttle.{way}_bps_device"
            file.write_text(f"{self._device} {bytes_per_s}")
        if not self._old:
            (self._group / "io.max").write_text(f"{self._device} rbps={bytes_per_s} wbps={bytes_per_s}")

    def take(self, pids: Iterable[int]) -> None:
        """Let these processes in, those that are in it already aside; one that is gone is no error."""
        inside = self.inside()
        for pid in set(pids) - inside:
            with contextlib.suppress(OSError):
                came_from = self._group_of(pid)
                (self._group / "cgroup.procs").write_text(str(pid))
                self._came_from[pid] = came_from

    def inside(self) -> set[int]:
        """Who is in it."""
        with contextlib.suppress(OSError):
            return {int(line) for line in (self._group / "cgroup.procs").read_text("ascii").split()}
        return set()

    def written(self) -> int:
        """Bytes that the disk took from those inside, but for what `measure` wrote."""
        name = "blkio.throttle.io_service_bytes" if self._old else "io.stat"
        with contextlib.suppress(OSError):
            for line in (self._group / name).read_text("ascii").splitlines():
                words = line.replace("wbytes=", "Write ").split()
                if words[:1] == [self._device] and "Write" in words:
                    return max(0, int(words[words.index("Write") + 1]) - self._probed)
        return 0

    async def measure(self, size: int) -> float:
        """How long it takes somebody inside to write so many bytes there and sync them, in ms. Raises FaultError."""
        self._probed += size
        return await written_in_ms(self._folder, size, self._group / "cgroup.procs")

    def close(self) -> None:
        """Let everybody go back to where they came from, and remove it. Again is success. Raises FaultError."""
        for _ in range(_TRIES):
            for pid in self.inside():
                with contextlib.suppress(OSError):
                    home = self._came_from.get(pid) or self._group_of(os.getpid())
                    (home / "cgroup.procs").write_text(str(pid))
            with contextlib.suppress(FileNotFoundError, OSError):
                self._group.rmdir()
            if not self._group.exists():
                return
        raise FaultError("the control group stays in use", where=str(self._group))

    def _group_of(self, pid: int) -> Path:
        """The group that a process is in, in the hierarchy that counts. Raises OSError when it is gone."""
        for line in Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if (self._old and "blkio" in controllers.split(",")) or (not self._old and not controllers):
                return self._root / path.lstrip("/")
        return self._root


async def written_in_ms(folder: Path, size: int, group: Path | None = None) -> float:
    """How long it takes a process to write a file in the folder and sync it, in ms. Raises FaultError."""
    arguments = (str(group or ""), str(folder / ".slow"), str(size))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _PROBE, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, wrong = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise FaultError(
            f"the disk was not measured: {wrong.decode('utf-8', 'replace')[-200:]}", where=str(folder)
        )
    return float(said)


__all__ = ["Throttle", "written_in_ms"]
