"""Two clocks in one: what time it is, and what time has passed."""

from __future__ import annotations

import time
from collections.abc import Callable

from reference.service.ingest import Now


def wall_ms() -> int:
    """Wall time in ms since 1970. It can be set, forwards and back."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Ms since some moment. Nobody sets it."""
    return time.monotonic_ns() // 1_000_000


class Clock:
    """Instants by the wall, durations by what has passed since this object was made.

    Durable instants that durations are measured from are written in steady time, which equals wall time at the start
    of the process. What a wall clock does while the process runs neither pauses nor hastens a deadline or a re-send;
    what it does between two processes is bounded by `reference.core.delivery.heard_silence_ms`.
    """

    def __init__(
        self, now_ms: Callable[[], int] = wall_ms, elapsed_ms: Callable[[], int] = monotonic_ms
    ) -> None:
        self._now_ms = now_ms
        self.elapsed_ms = elapsed_ms
        """Ms since some moment: for durations within this process."""
        self._offset_ms = now_ms() - elapsed_ms()

    def now(self) -> Now:
        """The moment by both."""
        return Now(self._now_ms(), self.steady_ms())

    def steady_ms(self) -> int:
        """Steady time in ms since 1970."""
        return self._offset_ms + self.elapsed_ms()
