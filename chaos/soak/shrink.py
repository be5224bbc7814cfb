"""A scenario that fails, made small: what can be left out is left out, what can come sooner comes sooner.

Delta debugging: always from the smallest that was seen to fail. Who asks whether one fails is not known here; each
question takes seconds, so their number and their time are bounded.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from chaos.scenario import Scenario
from chaos.scenario.model import Cancel, FaultUse, Update
from chaos.soak.draw import at, lasting, time_of
from chaos.soak.found import Item, with_method

Fails = Callable[[Scenario], Awaitable[bool]]
FIRST_MS = 300
"""When the first thing is done in a scenario that was drawn together."""
GAP_MS = 1_000
SHORTEST_MS = 100
SETTLED_MS = 500
"""A fault that ended so long before an order counts as over."""


@dataclass(slots=True)
class Budget:
    """How often, and for how long, it may be asked."""

    tries: int = 40
    seconds: float = 300.0
    used: int = 0
    _began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> bool:
        """Whether there is some left."""
        return self.used < self.tries and time.monotonic() - self._began < self.seconds


async def shrink(scenario: Scenario, fails: Fails, budget: Budget) -> Scenario:
    """The smallest scenario that was seen to fail; `scenario` itself, which fails, if nothing smaller does."""
    best, seen = scenario, {_key(scenario)}
    while budget.left:
        smaller = await _next(best, fails, budget, seen)
        if smaller is None:
            return best
        best = smaller
    return best


async def _next(best: Scenario, fails: Fails, budget: Budget, seen: set[str]) -> Scenario | None:
    """The first smaller one that fails; None when there is none, or nothing left to ask with."""
    for candidate in smaller_than(best):
        if (key := _key(candidate)) in seen:
            continue
        if not budget.left:
            return None
        seen.add(key)
        budget.used += 1
        if await fails(candidate):
            return candidate
    return None


def smaller_than(scenario: Scenario) -> Iterator[Scenario]:
    """What to try instead, the boldest first."""
    items = scenario.method
    for method in (*_bold(items), *_without_chunks(items), _sooner(items), *_shorter(items)):
        if method != items and makes_sense(method):
            yield with_method(scenario, method)


def makes_sense(items: Sequence[Item]) -> bool:
    """Something is done, and nothing is canceled that was not ordered."""
    ordered = False
    for item in sorted(items, key=time_of):
        ordered = ordered or isinstance(item, Update)
        if isinstance(item, Cancel) and not ordered:
            return False
    return bool(items)


def _bold(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """The last orders alone, with the faults that were in force from then on, and without any fault."""
    orders = [item for item in items if isinstance(item, Update)]
    for count in (1, 2):
        if len(orders) < count:
            return
        since = time_of(orders[-count])
        kept = [item for item in items if _end_of(item) >= since - SETTLED_MS]
        yield _moved(tuple(item for item in kept if not isinstance(item, FaultUse)))
        yield _moved(tuple(kept))


def _without_chunks(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """Without a half, a quarter ... of what is done, down to one thing."""
    size = len(items) // 2
    while size >= 1:
        for begin in range(0, len(items), size):
            yield (*items[:begin], *items[begin + size :])
        size //= 2


def _sooner(items: Sequence[Item]) -> tuple[Item, ...]:
    """From the beginning, without the times in which nothing is done."""
    found: list[Item] = []
    earlier, busy_until = 0, 0
    for item in sorted(items, key=time_of):
        t = time_of(item) - earlier
        latest = busy_until + GAP_MS if found else FIRST_MS
        if t > latest:
            earlier += t - latest
            t = latest
        found.append(_at(item, t))
        busy_until = max(busy_until, t, _end_of(found[-1]))
    return tuple(found)


def _shorter(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """One fault lasts half as long."""
    for number, item in enumerate(items):
        if isinstance(item, FaultUse) and item.for_ is not None and item.for_.low_ms > SHORTEST_MS:
            half = max(SHORTEST_MS, item.for_.low_ms // 2)
            shorter = item.model_copy(update={"for_": lasting(half)})
            yield (*items[:number], shorter, *items[number + 1 :])


def _moved(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """All sooner by the same, so that the first is done at the beginning."""
    earlier = min((time_of(item) for item in items), default=0) - FIRST_MS
    return tuple(_at(item, time_of(item) - earlier) for item in items) if earlier > 0 else items


def _at(item: Item, ms: int) -> Item:
    return item.model_copy(update={"when": at(ms)})


def _end_of(item: Item) -> int:
    lasts = item.for_.high_ms if isinstance(item, FaultUse) and item.for_ is not None else 0
    return time_of(item) + lasts


def _key(scenario: Scenario) -> str:
    """What makes two of them the same."""
    return repr(scenario.method)
