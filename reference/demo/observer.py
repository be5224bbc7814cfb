"""The observer: a thread that asks the client every 5 ms how it is, and looks which of its processes live.

It knows nothing of the updater. Downtime is what it saw: from the first failed to the first good answer.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from reference.stack.box import Box
from reference.stack.probe import Answer, ask

PROBE_EVERY_S = 0.005
LOOK_EVERY_S = 0.02


@dataclass(slots=True)
class Seen:
    """What was seen over one story."""

    answers: list[Answer] = field(default_factory=list)
    most_processes: int = 0
    looks: int = 0
    image_missing: int = 0
    """Looks at which the image of the version that has to be kept was not on the disk."""

    def gaps_ms(self) -> list[tuple[float, float]]:
        """Outages as (from, to): from the first failed probe's sending to the first good answer's."""
        gaps: list[tuple[float, float]] = []
        begin: float | None = None
        for answer in self.answers:
            if not answer.good and begin is None:
                begin = answer.sent_ms
            elif answer.good and begin is not None:
                gaps.append((begin, answer.answered_ms))
                begin = None
        if begin is not None:
            gaps.append((begin, self.answers[-1].answered_ms))
        return gaps

    def first_failed_ms(self) -> float | None:
        """When the first probe that failed had come back: the client was down by then."""
        return next((a.answered_ms for a in self.answers if not a.good), None)

    def downtime_ms(self) -> int:
        """All outages together."""
        return round(sum(end - begin for begin, end in self.gaps_ms()))

    def first_good_after(self, instant_ms: float, version: str) -> float | None:
        """When `version` first answered well to a probe sent after `instant_ms`."""
        later = (a for a in self.answers if a.sent_ms >= instant_ms and a.good and a.version == version)
        return next((a.answered_ms for a in later), None)


class Observer:
    """Watches one client from `start` to `stop`."""

    def __init__(self, port: int, box: Box, kept_digest: str | None) -> None:
        """Raises ServiceError when it could not see whether the image that has to be kept is there."""
        self._port = port
        self._box = box
        self._kept = kept_digest
        if kept_digest is not None:
            box.has_image(kept_digest)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"observer-{port}", daemon=True)
        self.seen = Seen()

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> Seen:
        """End, and answer what was seen."""
        self._stop.set()
        self._thread.join()
        return self.seen

    def _run(self) -> None:
        next_look = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            self.seen.answers.append(ask(self._port))
            if began >= next_look:
                alive = len(self._box.processes())
                self.seen.most_processes = max(self.seen.most_processes, alive)
                self.seen.image_missing += self._kept is not None and not self._box.has_image(self._kept)
                self.seen.looks += 1
                next_look = began + LOOK_EVERY_S
            self._stop.wait(max(0.0, PROBE_EVERY_S - (time.monotonic() - began)))
