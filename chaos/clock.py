"""A device's wall clock, which can jump while its agent runs: libfaketime, preloaded into the agent's process alone.

    file        how far the clock is from this machine's; read at every call
    file.pid    the process that has this clock
    file.told   what time that process believes it is: it is asked with SIGUSR2 (`chaos/clockwork`)

Seen with libfaketime 0.9.10 and Python 3.11: time.time, datetime, SQLite's `now` and OpenSSL's look at certificates
jump; time.monotonic, and with it asyncio's timers, timeouts, locks and threads, do not; stamps of files are the
machine's. A call of time.time takes 5 us.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import os
import signal
import time
from pathlib import Path

from chaos.faults.base import FaultError
from reference.support.processes import ROOT

_LIBRARY = "libfaketime.so.1"
_FOLDERS = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
_CLOCKWORK = Path(__file__).with_name("clockwork")
_SHARED_BYTES = 4096
_SHARED = Path("/dev/shm")  # noqa: S108 - where shm_open(3) and sem_open(3) keep what is named
_TOLD_S = 3.0
_POLL_S = 0.002
_CAUGHT = b"SigCgt:"


def library() -> Path | None:
    """libfaketime of this machine; None when it is not installed."""
    found = (path / _LIBRARY for pattern in _FOLDERS for path in sorted(Path("/").glob(pattern[1:])))
    return next((path for path in found if path.is_file()), None)


class FakeClock:
    """One device's. `file`: where it is set, not on the device's own disk."""

    def __init__(self, file: Path) -> None:
        self._file = file
        named = hashlib.blake2b(os.fsencode(file), digest_size=6).hexdigest()
        self.name = f"blackstart-{os.getpid()}-{named}"
        """Of what a process with this clock shares with others, which is nothing: libfaketime wants to have it."""
        self._started = 0
        self.offset_ms = 0
        """How far it was set from this machine's."""

    def environment(self) -> dict[str, str]:
        """What a Python process is started with to have this clock. Raises FaultError where there is no libfaketime."""
        if (found := library()) is None:
            raise FaultError("a clock of its own needs libfaketime", todo="Install the package libfaketime.")
        if not self._file.exists():
            self._write(self.offset_ms)
        self._started += 1
        name = f"{self.name}-{self._started}"
        _share(name)
        path = (str(_CLOCKWORK), str(ROOT), os.environ.get("PYTHONPATH", ""))
        return {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "FAKE_UTIME": "0",
            "FAKETIME_SHARED": f"/{name} /{name}",
            "BLACKSTART_CLOCK": str(self._file),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }

    async def shift(self, by_ms: int) -> None:
        """Let it be so far from this machine's from now on; 0: the same again."""
        await asyncio.to_thread(self._write, by_ms)
        self.offset_ms = by_ms

    async def told_ms(self) -> int:
        """What time the device's agent believes it is, told by that process itself, in ms since 1970.

        Raises FaultError when nothing is told: what another process with this clock would say shows nothing of the agent.
        """
        if (told := await asyncio.to_thread(self._asked)) is None:
            raise FaultError("no agent runs that could say what time it is", where=str(self._file))
        return told

    async def apart_ms(self) -> int:
        """How far it is from this machine's, told as in `told_ms`."""
        before = time.time()
        told = await self.told_ms()
        return round(told - (before + time.time()) * 500)

    def close(self) -> None:
        """Remove what is left of processes that never came up; the others have done it. Again is success."""
        for number in range(self._started):
            _forget(f"{self.name}-{number + 1}")

    def _write(self, by_ms: int) -> None:
        new = self._file.with_name(f"{self._file.name}.set")
        new.write_text(f"{by_ms / 1000:+.3f}\n", "ascii")
        new.replace(self._file)

    def _asked(self) -> int | None:
        """What the process that has this clock says; None when there is none. Raises FaultError when it is silent."""
        told = Path(f"{self._file}.told")
        told.unlink(missing_ok=True)
        try:
            pid = int(Path(f"{self._file}.pid").read_text("ascii"))
            if not self._has_clock(pid):
                return None
            os.kill(pid, signal.SIGUSR2)
        except (OSError, ValueError):
            return None
        end = time.monotonic() + _TOLD_S
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                return int(told.read_text("ascii"))
            time.sleep(_POLL_S)
        raise FaultError(f"the agent (pid {pid}) does not say what time it is", todo="Does it stand still?")

    def _has_clock(self, pid: int) -> bool:
        """Whether this very process has this clock, and hears when it is asked."""
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"BLACKSTART_CLOCK={self._file}".encode() not in variables:
            return False
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
        caught = next((int(line.split()[1], 16) for line in lines if line.startswith(_CAUGHT)), 0)
        return bool(caught >> (signal.SIGUSR2 - 1) & 1)


def _share(name: str) -> None:
    """Make what libfaketime shares among processes: one of its own making stays behind when it is killed.

    Each process gets one of its own: another one that was killed may have held the semaphore. Raises FaultError.
    """
    _forget(name)
    library_c = ctypes.CDLL(None, use_errno=True)
    library_c.sem_open.restype = ctypes.c_void_p
    mode, free = ctypes.c_uint(0o600), ctypes.c_uint(1)
    if not (opened := library_c.sem_open(f"/{name}".encode(), os.O_CREAT, mode, free)):
        raise FaultError(f"no semaphore for a clock: {os.strerror(ctypes.get_errno())}", where=name)
    library_c.sem_close(ctypes.c_void_p(opened))
    with (_SHARED / name).open("ab") as file:
        file.truncate(_SHARED_BYTES)


def _forget(name: str) -> None:
    for found in (name, f"sem.{name}"):
        (_SHARED / found).unlink(missing_ok=True)


__all__ = ["FakeClock", "library"]
