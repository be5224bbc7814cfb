"""What `make bench-downtime` makes of probes and samples: outages, missed samples, percentiles with their confidence. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SLOW_MS = 20.0
"""An answer that takes longer counts as none: whoever asked was kept waiting."""
CONFIDENCE = 0.95
PERCENTILE = 0.95


@dataclass(frozen=True, slots=True)
class Answer:
    """One probe. Times in ms, of one clock; `version` None: it failed."""

    sent_ms: float
    done_ms: float
    version: str | None

    @property
    def good(self) -> bool:
        """Answered well, and at once."""
        return self.version is not None and self.done_ms - self.sent_ms <= SLOW_MS


def outages(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Outages as (from, to): from the sending of the first probe that failed to the first good answer after it.

    Probes overlap: a slow one that is answered well in the end ends the outage when it is answered.
    """
    found, begin, back = [], None, math.inf
    for answer in sorted(answers, key=lambda a: a.sent_ms):
        if answer.good:
            if begin is not None:
                found.append((begin, min(back, answer.done_ms)))
            begin, back = None, math.inf
            continue
        if begin is None:
            begin = answer.sent_ms
        if answer.version is not None:
            back = min(back, answer.done_ms)
    if begin is not None:
        found.append((begin, max(a.done_ms for a in answers)))
    return found


def downtime_ms(answers: Sequence[Answer]) -> float:
    """All outages together."""
    return sum(end - begin for begin, end in outages(answers))


def first_good_after(answers: Sequence[Answer], instant_ms: float, version: str) -> float | None:
    """When `version` first answered well to a probe that was sent after `instant_ms`."""
    done = [a.done_ms for a in answers if a.sent_ms >= instant_ms and a.version == version]
    return min(done, default=None)


def samples_lost(times_ms: Sequence[float], interval_ms: float) -> int:
    """Samples that are missing between the first and the last of `times_ms`. One that came late is not lost."""
    if len(times_ms) < 2:
        return 0
    due = round((times_ms[-1] - times_ms[0]) / interval_ms)
    return max(0, due - (len(times_ms) - 1))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def interval(values: Sequence[float], share: float = PERCENTILE) -> tuple[float, float]:
    """Between which values the true percentile lies, with 95 % confidence: by order statistics, so of any distribution.

    Where there are too few values for an upper bound, it is the largest one.
    """
    ordered, tail = sorted(values), (1 - CONFIDENCE) / 2
    low, high = 0, len(ordered) - 1
    below = 0.0
    for rank in range(len(ordered) + 1):
        chance = math.comb(len(ordered), rank) * share**rank * (1 - share) ** (len(ordered) - rank)
        if below <= tail < below + chance:
            low = max(0, rank - 1)
        if below + chance >= 1 - tail and below < 1 - tail:
            high = min(len(ordered) - 1, rank)
        below += chance
    return ordered[low], ordered[high]


@dataclass(slots=True)
class Series:
    """What was measured of one story. `times_ms` is its downtime, or the way back after the verdict."""

    runtime: str
    network: str
    story: str
    times_ms: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Samples missed, each round."""

    def row(self, same: Series | None, static: Series | None) -> dict[str, object]:
        """The row of the report. The floors are of the same runtime and network, from the same run."""
        found: dict[str, object] = {
            "runtime": self.runtime,
            "network": self.network,
            "story": self.story,
            "n": len(self.times_ms),
            "p50_ms": round(percentile(self.times_ms, 0.5), 1),
            "p95_ms": round(percentile(self.times_ms, PERCENTILE), 1),
            "p95_ci": [round(bound, 1) for bound in interval(self.times_ms)],
            "max_ms": round(max(self.times_ms), 1),
            "same_image_floor_p95_ms": None,
            "static_floor_p95_ms": None,
            "ratio": None,
            "samples_lost": sum(self.lost) if self.lost else None,
            "samples_lost_p95": percentile(self.lost, PERCENTILE) if self.lost else None,
        }
        if same is not None and same.times_ms:
            floor = percentile(same.times_ms, PERCENTILE)
            found["same_image_floor_p95_ms"] = round(floor, 1)
            found["ratio"] = round(percentile(self.times_ms, PERCENTILE) / floor, 2)
        if static is not None and static.times_ms:
            found["static_floor_p95_ms"] = round(percentile(static.times_ms, PERCENTILE), 1)
        return found
