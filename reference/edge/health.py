"""The probe: asks the client over HTTP whether it is well, and remembers the answers of its present process lives."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from reference.core.model import Health, HealthState
from reference.edge.runtimes.procfs import descends

PROBE_TIMEOUT_S = 1.0
FAILURES_TO_UNHEALTHY = 3
"""Docker's default number of bad answers in a row."""
_ANSWER_LIMIT = 256
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


async def ask(address: str, port: int, path: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether `GET path` answers 2xx in time. Every trouble is a no."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port)
            return await _answers_well(reader, writer, path, address)
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        await _closed(writer)


async def ask_standby(name: str, pid: int, path: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool | None:
    """Whether the process `pid`, or one that it began, answers well on the abstract unix socket of that name.

    None: it does not answer there at all, so it does not stand by. `pid` 0: nobody knows it. Somebody else's answer is none: the kernel says whose
    it is, where it is a process that can be seen from here.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(f"\0{name}")
            other = writer.get_extra_info("socket")
            raw = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if pid and not descends(_CREDENTIALS.unpack(raw)[0], pid):
                return None
            return await _answers_well(reader, writer, path or "/healthz", "standby")
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except (OSError, TimeoutError, ValueError):
        return False if writer is not None else None
    finally:
        await _closed(writer)


async def _answers_well(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, host: str
) -> bool:
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    first = await reader.readline()
    parts = first[:_ANSWER_LIMIT].split(b" ", 2)
    return len(parts) >= 2 and parts[0].startswith(b"HTTP/") and parts[1][:1] == b"2"


async def _closed(writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(0.1):
                await writer.wait_closed()


@dataclass(slots=True)
class _Life:
    name: str
    health: Health
    state: HealthState = HealthState.STARTING
    good_since: float | None = None
    heard_first: float = 0.0
    bad_in_a_row: int = 0


class HealthTracker:
    """Turns answers into Docker's words, per process life. Process scope: a new agent starts with an empty one.

    A life that stands by is another one than the same process at work: what it was says nothing of what it is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lives: dict[str, _Life] = {}
        self._present: frozenset[str] = frozenset()
        self._down_since: float | None = None
        self._seamless = False
        self._before_ms = 0
        self.outage_ms: int | None = None
        """The last time without a good answer, from the first sign to the next good one; None if not seen whole."""

    def present(self, lives: Collection[str]) -> None:
        """The lives there are now. Where it is not told, only the last one that was heard is."""
        self._present = frozenset(lives)

    def watched(self, life: str, health: Health) -> None:
        """It is waited for, though it cannot be told yet which answer is its own."""
        if life not in self._lives:
            self._lives = {name: seen for name, seen in self._lives.items() if name in self._present}
            self._lives[life] = _Life(life, health, heard_first=self._clock())

    def forget(self, life: str) -> None:
        """What it was so far says nothing of what it is now."""
        self._lives.pop(life, None)

    def heard(self, life: str, health: Health, good: bool, up_ms: int, *, serves: bool = True) -> None:
        """An answer of the process life `life`, which is `up_ms` old. `serves`: the client is up with it."""
        self.watched(life, health)
        seen, now = self._lives[life], self._clock()
        if serves:
            self.answered(good)
        if good:
            if seen.good_since is None:
                seen.good_since = now
            seen.state, seen.bad_in_a_row = HealthState.HEALTHY, 0
            return
        seen.good_since = None
        if up_ms <= health.start_period_ms or seen.state is HealthState.STARTING:
            return  # Forgiven, and not counted either: that is how Docker does it.
        seen.bad_in_a_row += 1
        if seen.bad_in_a_row >= FAILURES_TO_UNHEALTHY:
            seen.state = HealthState.UNHEALTHY

    def answered(self, good: bool, asked_at: float | None = None) -> None:
        """The client's port has answered, whoever that was. Bad answers are an outage only where none was to be."""
        now = self._clock()
        if good and self._down_since is not None:
            gap_ms = round((now - self._down_since) * 1000)
            self._before_ms = gap_ms + (self._before_ms if self._seamless else 0)
            self.outage_ms, self._down_since = self._before_ms, None
        elif not good and self._seamless and self._down_since is None:
            self._down_since = now if asked_at is None else asked_at
            self.outage_ms = None

    def down(self) -> None:
        """The client was just seen, or made, to be without a process."""
        if self._down_since is None and self._lives:
            self._down_since = self._clock()
            self.outage_ms = None

    def begins(self) -> None:
        """A switch begins: what was before it is none of its outage."""
        self._seamless, self._before_ms = False, 0
        if self._down_since is None and self._lives:
            self.outage_ms = 0

    def seamless(self) -> None:
        """From now on every bad answer is an outage, all of them are summed, and none is 0."""
        self._seamless = True
        if self._down_since is None:
            self.outage_ms = self._before_ms

    def watched_ms(self, life: str) -> int:
        """For how long this life has been asked by this process."""
        seen = self._lives.get(life)
        return 0 if seen is None else round((self._clock() - seen.heard_first) * 1000)

    def of(self, life: str) -> tuple[HealthState, int]:
        """State and, in ms, for how long every answer was good."""
        seen = self._lives.get(life)
        if seen is None:
            return HealthState.STARTING, 0
        healthy_ms = 0 if seen.good_since is None else round((self._clock() - seen.good_since) * 1000)
        return seen.state, healthy_ms
