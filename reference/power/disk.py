"""A disk that loses power: an ext4 image on a loop device, cut by the file system's own shutdown call.

SIGKILL alone leaves the page cache, and with it everything that was never synced. The shutdown call (EXT4_IOC_SHUTDOWN
with EXT4_GOING_FLAGS_NOLOGFLUSH: fs/ext4/ext4.h) drops every dirty page and every uncommitted journal entry at once;
the next mount replays what is left, as after a power cut. It models a disk on which writes that were submitted survive
in their order: not one that tears sectors or lies about a flush.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from reference.core.errors import DeviceError, InputError

SIZE_BYTES = 64 << 20
"""Of the disk. Sparse: it takes what is written to it."""
RELEASE_S = 10.0
"""Longest wait for the kernel to let go of a disk."""
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2
_NEW_NAMES, _RECURSIVE, _PRIVATE = 0x20000, 16384, 1 << 18  # CLONE_NEWNS, MS_REC, MS_PRIVATE
_SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_LOOPS = Path("/dev/loop-control")
_FORMAT = ("-q", "-F", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0")
"""Nothing that the kernel would go on formatting in the background, a small journal, and no reserve for root."""


def require(
    user_id: int | None = None, loops: Path = _LOOPS, which: Callable[[str], str | None] | None = None
) -> None:
    """See that power can be cut here. Raises InputError, one sentence, where it cannot."""
    if (os.geteuid() if user_id is None else user_id) != 0:
        raise InputError("cuts of a real disk need root: run it as root, on a machine of your own")
    for name in ("mkfs.ext4", "mount", "umount", "losetup"):
        if (which or _program)(name) is None:
            raise InputError(f"cuts of a real disk need {name}: install the packages e2fsprogs and mount")
    if not loops.exists():
        raise InputError(
            f"cuts of a real disk need a loop device, and {loops} is not there: load the module loop"
        )


def _program(name: str) -> str | None:
    return shutil.which(name, path=_SEARCHED)


def _run(*words: str | Path) -> str:
    """Run a program to its end; what it printed. Raises DeviceError with its own words."""
    program = _program(str(words[0]))
    if program is None:
        raise DeviceError(f"{words[0]} is not installed")
    done = subprocess.run([program, *map(str, words[1:])], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        what = (done.stderr or done.stdout).strip().replace("\n", "; ")
        raise DeviceError(f"{words[0]} failed: {what}", where=str(words[-1]))
    return done.stdout


def call(name: str, *arguments: object) -> None:
    """A call of the C library that answers 0 or fails. Raises OSError."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def private_mounts(*, new_processes: int = 0) -> None:
    """Have mounts of our own: they end with the last process that sees them, however it ends. Raises OSError.

    `new_processes`: CLONE_NEWPID, to have processes forked from now on in a room of their own, too.
    """
    call("unshare", _NEW_NAMES | new_processes)
    call("mount", None, b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None)


def fresh_tmpfs(path: Path) -> None:
    """Mount an empty file system in memory over the folder. Raises OSError."""
    call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", ctypes.c_ulong(0), b"size=16m")


class Disk:
    """One image file, mounted at `at` or not."""

    def __init__(self, image: Path, at: Path, size_bytes: int = SIZE_BYTES) -> None:
        self.image = image
        self.at = at
        self.size_bytes = size_bytes
        self._device = ""

    @property
    def mounted(self) -> bool:
        """Whether this object has mounted it."""
        return bool(self._device)

    def format(self) -> None:
        """Make it new and empty. Raises DeviceError."""
        self.image.unlink(missing_ok=True)
        with self.image.open("xb") as file:
            file.truncate(self.size_bytes)
        _run("mkfs.ext4", *_FORMAT, self.image)

    def copy_of(self, other: Path) -> None:
        """Make it what another image is. Raises DeviceError."""
        self.image.unlink(missing_ok=True)
        _run("cp", "--sparse=always", other, self.image)

    def mount(self) -> None:
        """Mount it; a journal that was left is replayed. Raises DeviceError."""
        self.at.mkdir(parents=True, exist_ok=True)
        _run("mount", "-o", "loop", self.image, self.at)
        self._device = _device_at(self.at)
        if not self._device:
            raise DeviceError("is not mounted", where=str(self.at))

    def cut(self) -> None:
        """Take the power away: what is not on the disk is lost, and the disk answers nothing more until it is mounted
        again. Every process of the device must have been stopped before: what one hears after this may be a lie.

        Raises OSError.
        """
        root = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(root, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(root)

    def release(self) -> None:
        """Unmount it, and wait until the kernel has let go of it: else the same, shut-down disk would come back.

        Raises DeviceError when that takes longer than `RELEASE_S`.
        """
        if not self._device:
            return
        end = time.monotonic() + RELEASE_S
        while _device_at(self.at):  # not so when a release was interrupted at its end
            try:
                _run("umount", self.at)
            except DeviceError:  # a killed process may still be on its way out
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        kernel = Path("/sys/fs/ext4") / self._device
        while kernel.exists() or loops_of(self.image):
            if time.monotonic() > end:
                raise DeviceError(f"the kernel does not let go of {self._device}", where=str(self.image))
            time.sleep(0.001)
        self._device = ""


def loops_of(image: Path) -> str:
    """The loop devices that an image is attached to, one a line; empty: none. Raises DeviceError."""
    return _run("losetup", "-j", image).strip()


def _device_at(at: Path) -> str:
    """The name of the device that is mounted there; empty: nothing is."""
    for line in reversed(Path("/proc/self/mounts").read_text("utf-8").splitlines()):
        device, path = line.split(" ")[:2]
        if path == str(at):
            return Path(device).name
    return ""
