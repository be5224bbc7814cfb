"""Processes by /proc: who lives, since when, and what carries a container's marker. Linux only, no rights needed.

A process is known by its pid *and* its start time (clock ticks since boot, field 22 of /proc/PID/stat: proc(5)),
because pids are used again. A zombie is not alive, although it still answers signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
MARKER = "BLACKSTART_CONTAINER"
"""Environment variable that every process of a container inherits; its value is the container's id."""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of one process."""

    pid: int
    start_ticks: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.start_ticks}"

    @property
    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        fields = _stat(self.pid)
        return fields is not None and fields[0] not in "ZX" and int(fields[19]) == self.start_ticks

    @property
    def up_ms(self) -> int:
        """Age in ms, to the 10 ms of a kernel tick."""
        now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return max(0, now_ms - self.start_ticks * 1000 // _TICKS_PER_S)


def descends(pid: int, ancestor: int) -> bool:
    """Whether it is that process or one that it began. One that cannot be seen from here (0) is taken for it."""
    for _ in range(64):
        if pid in (0, ancestor):
            return True
        fields = _stat(pid)
        if fields is None or pid == 1:
            return False
        pid = int(fields[1])
        if pid == 0:
            return False
    return False


def life_of(pid: int) -> Life | None:
    """The present life of `pid`; None if there is none."""
    fields = _stat(pid)
    return None if fields is None else Life(pid, int(fields[19]))


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


class Handle:
    """A pidfd on one life: signals reach this process or nobody, and its end can be awaited."""

    def __init__(self, life: Life) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.pidfd_open(life.pid)
        # The descriptor first, then the comparison: the other way round the pid could be used again in between.
        if not life.alive:
            self.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; the process is not touched."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process is gone."""
        if self._fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    async def ended(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s`."""
        if self._fd < 0:
            return True
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, event.set)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
            return True
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._fd)


def marked(*container_ids: str) -> list[Life]:
    """Every living process that inherited one of the markers: finds what a double fork tried to hide."""
    needles = {f"{MARKER}={container_id}".encode() for container_id in container_ids}
    found = []
    for name in os.listdir(_PROC):  # noqa: PTH208 - part of the downtime, and hardly any has one
        if not name.isdigit() or needles.isdisjoint(_environment(name)):
            continue
        # And once more, of this life: the number may have become another process's.
        life = life_of(int(name))
        if life is not None and not needles.isdisjoint(_environment(name)) and life.alive:
            found.append(life)
    return found


def _environment(pid: str) -> list[bytes]:
    try:
        with open(f"{_PROC}/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read().split(b"\0")
    except OSError:
        return []


def kernel_boot_id() -> str:
    """The kernel's name for this boot: random(4)."""
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
