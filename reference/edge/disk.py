"""Room on the device's disk: asked for before anything is begun, and a little of it kept in hand.

The ballast is a file of real blocks. On a disk that is full to the last block nothing can be journaled and some file
systems cannot even remove; letting the ballast go gives the updater the room to end its work and clean up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

from reference.core.errors import DeviceError, Reason
from reference.support.files import fsync_dir

log = logging.getLogger("reference.edge")

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when there is no room."""
WATCH_S = 1.0

FreeBytes = Callable[[Path], int]


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the file system of `path` (statvfs(3)). Raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def disk_full(cause: object) -> DeviceError:
    """The one error for a full disk."""
    return DeviceError(
        f"the disk is full: {cause}", reason=Reason.DISK_FULL, todo="Free space on the device."
    )


def require(
    path: Path, needed_bytes: int, what: str, *, margin_bytes: int = 0, free: FreeBytes = free_bytes
) -> int:
    """See that `needed_bytes` and the margin are free; answers how many bytes are, beyond both.

    Raises DeviceError(DISK_FULL) that says how much is missing.
    """
    found = free(path)
    missing = needed_bytes + margin_bytes - found
    if missing > 0:
        raise disk_full(
            f"{what} needs {needed_bytes} bytes beside a reserve of {margin_bytes}, {found} are free, "
            f"{missing} are missing"
        )
    return -missing


class Ballast:
    """The file, and when it is let go and made again."""

    def __init__(self, path: Path, size_bytes: int, free: FreeBytes = free_bytes) -> None:
        self.path = path
        self._size = size_bytes
        self._free = free
        self._low = size_bytes // 4

    @property
    def held(self) -> bool:
        """Whether the whole of it is on the disk."""
        try:
            return self._size > 0 and self.path.stat().st_size == self._size
        except OSError:
            return False

    def tend(self) -> None:
        """Let it go when the disk is nearly full; make it when there is room for it and as much again. Never raises.

        Between the two nothing happens, so that it does not come and go with every block.
        """
        with contextlib.suppress(OSError):
            room = self._free(self.path.parent)
            if self.held:
                if room < self._low:
                    self.release()
            elif self._size > 0 and room >= 2 * self._size:
                self._make()
            elif self.path.exists() and not self.held:
                self.path.unlink(missing_ok=True)  # half of one, or one of another size

    def release(self) -> None:
        """Give the room back at once. Raises OSError."""
        if self.path.exists():
            self.path.unlink()
            log.warning("ballast released: the disk is nearly full", extra={"bytes": self._size})

    def _make(self) -> None:
        """Whole under its name, or not at all: allocated, not sparse."""
        new = self.path.with_name(self.path.name + ".new")
        new.unlink(missing_ok=True)
        try:
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(handle, 0, self._size)
                os.fsync(handle)
            finally:
                os.close(handle)
            new.replace(self.path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        fsync_dir(self.path.parent)
        log.info("ballast made", extra={"bytes": self._size})

    async def watch(self, every_s: float = WATCH_S) -> None:
        """Tend it for ever; a cancel ends it."""
        while True:
            await asyncio.to_thread(self.tend)
            await asyncio.sleep(every_s)
