"""Which parts the service stands on are there, and since when: for /readyz, the log, and whoever has to wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

log = logging.getLogger(__name__)
DATABASE, BROKER = "database", "broker"


@dataclass(frozen=True, slots=True)
class PartState:
    """A part and how it is. `since_ms`: wall time in ms since 1970 at which that began."""

    name: str
    ok: bool
    since_ms: int
    detail: str
    """What is wrong; `ok` when nothing is."""


class Readiness:
    """Told by those who use the parts, asked by those who want to know. All on the event loop.

    An outage is logged when it begins (critical), again every `remind_ms`, and when it is over.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        remind_ms: int,
        elapsed_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._now_ms = now_ms
        self._elapsed_ms = elapsed_ms
        self._remind_ms = remind_ms
        self._parts = {
            DATABASE: PartState(DATABASE, True, now_ms(), "ok"),
            BROKER: PartState(BROKER, False, now_ms(), "not connected"),
        }
        self._began = dict.fromkeys(self._parts, elapsed_ms())
        self._said = dict(self._began)
        self._awaited = {BROKER}
        """Not there yet since the start: that is no outage before it is time for a reminder."""

    @property
    def ready(self) -> bool:
        """Whether orders can be taken and carried out."""
        return all(part.ok for part in self._parts.values())

    def parts(self) -> tuple[PartState, ...]:
        """Each part, always in the same order."""
        return tuple(self._parts.values())

    def part(self, name: str) -> PartState:
        """One of them."""
        return self._parts[name]

    def for_ms(self, name: str) -> int:
        """How long a part has been as it is, by a clock that nobody sets."""
        return self._elapsed_ms() - self._began[name]

    def tell(self, name: str, trouble: str | None) -> None:
        """How a part is: what is wrong with it, or None."""
        before = self._parts[name]
        detail = trouble or "ok"
        if before.ok is (trouble is None):
            if before.detail != detail:
                self._parts[name] = replace(before, detail=detail)
            return
        lasted_ms, never = self.for_ms(name), name in self._awaited
        self._awaited.discard(name)
        self._parts[name] = PartState(name, trouble is None, self._now_ms(), detail)
        self._began[name] = self._said[name] = self._elapsed_ms()
        if never:
            log.info("the %s is there", name, extra={"part": name})
        elif trouble is None:
            log.warning("the %s is back", name, extra={"part": name, "downMs": lasted_ms})
        else:
            log.critical("the %s is down", name, extra={"part": name, "why": detail})

    def remind(self) -> None:
        """Log again what has been down for long."""
        for name, part in self._parts.items():
            if not part.ok and self._elapsed_ms() - self._said[name] >= self._remind_ms:
                self._said[name] = self._elapsed_ms()
                log.critical(
                    "the %s is still down",
                    name,
                    extra={"part": name, "why": part.detail, "downMs": self.for_ms(name)},
                )
