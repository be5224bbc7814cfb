"""A room of processes that can be emptied at once, as a power cut empties a device.

    ours -> keeper -> init (pid 1 of the room) -> the device, and all that it starts

Killing init kills every process in the room, whatever session or parent it has given itself. Keeper, init and with
them the whole room are killed by the kernel when the process above them dies, so nothing is left behind even when we
are killed ourselves. The room sees a /proc of its own, which the process runtime reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from reference.core.errors import DeviceError
from reference.power.disk import call, private_mounts

_NEW_PIDS = 0x20000000  # CLONE_NEWPID
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_END_S = 10.0
_STANDING = frozenset("TtZXD")
"""States of a thread that executes nothing, or will stop before it does: proc(5)."""
_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Room:
    """A running room. Made by `enter`; always `empty` it."""

    def __init__(self, keeper: int, init: int) -> None:
        self._keeper = keeper
        self.init = init
        """The pid of the room's init, as seen from outside."""
        self._handle = os.pidfd_open(init)
        self._name = Path(f"/proc/{init}/ns/pid").readlink()

    def empty(self) -> None:
        """Kill everything in it, and return when nothing is left. Again is success. Raises DeviceError."""
        if self._handle < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        ended, _, _ = select.select([self._handle], [], [], _END_S)
        if not ended:
            raise DeviceError("processes survive SIGKILL", where=f"process {self.init}")
        os.close(self._handle)
        self._handle = -1
        os.waitpid(self._keeper, 0)

    def freeze(self) -> None:
        """Stop everything in it, and return when nothing of it runs any more. Raises DeviceError.

        A process that waits for the disk stops when that has answered: nobody hears the answer.
        """
        end, told = time.monotonic() + _END_S, set[int]()
        while True:
            found = self._descendants()
            if found <= told and all(_stands(pid) for pid in found):  # nothing was forked while we looked
                return
            for pid in found - told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            told |= found
            if time.monotonic() > end:
                raise DeviceError("processes survive SIGSTOP", where=f"below process {self.init}")

    def _descendants(self) -> set[int]:
        """Each process below init, those of containers within the room, too."""
        parents = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    stat = Path(entry.path, "stat").read_text("utf-8", "replace")
                    parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        found, new = set[int](), {self.init}
        while new:
            new = {pid for pid, parent in parents.items() if parent in new} - found
            found |= new
        return found

    def processes(self) -> dict[int, list[str]]:
        """The command line of every process in it, by its pid as seen from outside."""
        found = {}
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and Path(entry.path, "ns/pid").readlink() == self._name:
                    words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                    found[int(entry.name)] = [os.fsdecode(word) for word in words if word]
        return found


def _stands(pid: int) -> bool:
    """Whether no thread of a process executes anything of its program any more. One that is gone does not."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return True
    for thread in threads:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (thread / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] not in _STANDING:
                return False
    return True


def enter(main: Callable[[], None], log: Path, keep: int) -> Room:
    """Run `main` in a new room, its output appended to `log`, with `keep` as its only other open file.

    This process must have one thread only. Raises DeviceError.
    """
    reading, writing = os.pipe()
    # A signal that raises in between would leave a room that nobody knows.
    waiting = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    try:
        keeper = os.fork()
        if keeper == 0:
            _keep(main, log, keep, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        if not answer.isdigit():
            os.waitpid(keeper, 0)
            raise DeviceError(f"no room for processes: {answer.decode('utf-8', 'replace') or 'it ended'}")
        return Room(keeper, int(answer))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, waiting)


def _keep(main: Callable[[], None], log: Path, keep: int, writing: int) -> NoReturn:
    """In the keeper: make the room, say who its init is, wait for its end."""
    try:
        _alone({keep, writing}, log)
        private_mounts(new_processes=_NEW_PIDS)
        init = os.fork()
        if init == 0:
            os.close(writing)
            _be_init(main)
        os.write(writing, str(init).encode())
        os.close(writing)
        os.close(keep)
        os.waitpid(init, 0)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(writing, str(error).encode())
    os._exit(0)


def _be_init(main: Callable[[], None]) -> NoReturn:
    """As pid 1: start the device and bury the dead. The room stays when the device ends: its client goes on."""
    try:
        _die_with_parent()
        call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)
        if os.fork() == 0:
            _be_device(main)
        os.closerange(3, 256)  # the device's line ends with the device
        while True:
            try:
                os.wait()
            except ChildProcessError:
                signal.pause()
    except OSError:
        traceback.print_exc()
    os._exit(1)


def _be_device(main: Callable[[], None]) -> NoReturn:
    try:
        os.setsid()
        main()
    except BaseException:  # in a fork nobody above may go on with it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _alone(keep: set[int], log: Path) -> None:
    """Hold nothing of the process that we were forked from: its files, its handlers, its terminal."""
    _die_with_parent()
    for number in _OURS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
    nothing = os.open(os.devnull, os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    last = 2
    for kept in sorted(keep):
        os.closerange(last + 1, kept)
        last = kept
    os.closerange(last + 1, 1024)


def _die_with_parent() -> None:
    call(
        "prctl",
        _DEATH_SIGNAL,
        ctypes.c_ulong(signal.SIGKILL),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
