"""The probe: asks the client over HTTP whether it is well, and remembers the answers of its present process life."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from reference.core.model import Health, HealthState

PROBE_TIMEOUT_S = 1.0
FAILURES_TO_UNHEALTHY = 3
"""Docker's default number of bad answers in a row."""
_ANSWER_LIMIT = 256


async def ask(address: str, port: int, path: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether `GET path` answers 2xx in time. Every trouble is a no."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            first = await reader.readline()
            parts = first[:_ANSWER_LIMIT].split(b" ", 2)
            return len(parts) >= 2 and parts[0].startswith(b"HTTP/") and parts[1][:1] == b"2"
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
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
    """Turns answers into Docker's words, per process life. Process scope: a new agent starts with an empty one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._life: _Life | None = None
        self._down_since: float | None = None
        self.outage_ms: int | None = None
        """The last time without a good answer, from the first sign to the next good one; None if not seen whole."""

    def heard(self, life: str, health: Health, good: bool, up_ms: int) -> None:
        """An answer of the process life `life`, which is `up_ms` old."""
        if self._life is None or self._life.name != life:
            self._life = _Life(life, health, heard_first=self._clock())
        seen, now = self._life, self._clock()
        if good:
            if seen.good_since is None:
                seen.good_since = now
            seen.state, seen.bad_in_a_row = HealthState.HEALTHY, 0
            if self._down_since is not None:
                self.outage_ms = round((now - self._down_since) * 1000)
                self._down_since = None
            return
        seen.good_since = None
        if up_ms <= health.start_period_ms or seen.state is HealthState.STARTING:
            return  # Forgiven, and not counted either: that is how Docker does it.
        seen.bad_in_a_row += 1
        if seen.bad_in_a_row >= FAILURES_TO_UNHEALTHY:
            seen.state = HealthState.UNHEALTHY

    def down(self) -> None:
        """The client was just seen, or made, to be without a process."""
        if self._down_since is None and self._life is not None:
            self._down_since = self._clock()
            self.outage_ms = None

    def watched_ms(self, life: str) -> int:
        """For how long this life has been asked by this process."""
        seen = self._life
        return 0 if seen is None or seen.name != life else round((self._clock() - seen.heard_first) * 1000)

    def of(self, life: str) -> tuple[HealthState, int]:
        """State and, in ms, for how long every answer was good."""
        seen = self._life
        if seen is None or seen.name != life:
            return HealthState.STARTING, 0
        healthy_ms = 0 if seen.good_since is None else round((self._clock() - seen.good_since) * 1000)
        return seen.state, healthy_ms
