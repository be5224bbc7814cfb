"""What a checker is, and what it is given: one run that is over, looked up quickly. Pure.

A checker answers findings. What it cannot see it says so: evidence that is missing is `Missing`, and becomes `unknown`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import NamedTuple, TypeVar, cast

from chaos.history import Event, History
from chaos.plan import Planned
from chaos.result import FaultRow
from chaos.scenario.model import Scenario
from chaos.verdict import Finding, Verdict

_OBSERVED = frozenset(
    {"action", "probe", "processes", "image", "samples", "containers", "journal", "phase", "api", "refusals"}
)


class Missing(Exception):  # noqa: N818 - not an error: what was not seen
    """Evidence that is not there; the text says which."""


@dataclass(frozen=True)
class Case:
    """A run that is over: what was to be done, what was seen, and what is known of each coming of each fault."""

    scenario: Scenario
    history: History
    faults: tuple[FaultRow, ...] = ()
    plan: tuple[Planned, ...] = ()
    """Empty: as the scenario says it."""
    memo: dict[tuple[str, str], object] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was made of the history once, by what and device: `remembered`."""

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """Ids of the devices that anything was seen of, `edge-2` before `edge-10`."""
        seen = {e.device for e in self.history.events if e.device and e.source in _OBSERVED}
        return tuple(sorted(seen, key=natural))

    def of(self, source: str, event: str, device: str = "") -> Sequence[Event]:
        """The events of a kind about one device, in order; the empty device is the run's own."""
        return self._index.get((source, event, device), ())

    def first(self, source: str, event: str, device: str = "") -> Event | None:
        """The first of them."""
        return next(iter(self.of(source, event, device)), None)

    def last(self, source: str, event: str, device: str = "") -> Event | None:
        """The last of them."""
        return next(reversed(self.of(source, event, device)), None)

    def end(self, source: str, device: str) -> Mapping[str, object]:
        """What an observer wrote when it ended. Raises Missing."""
        found = self.last(source, "end", device)
        if found is None:
            raise Missing(f"the observer of {source} has left no end")
        return found.data

    @property
    def method_began(self) -> float:
        """Seconds since the run began. Raises Missing."""
        found = self.first("run", "method-begins")
        if found is None:
            raise Missing("the method was not begun")
        return found.t

    def instant(self, wall_ms: float) -> float:
        """Seconds since the run began, of a wall time of this machine. Raises Missing when nothing was seen at all."""
        if not self.history.events:
            raise Missing("the history is empty")
        known = self.history.events[0]
        return known.t + (wall_ms - known.wall_ms) / 1000

    @cached_property
    def _index(self) -> Mapping[tuple[str, str, str], Sequence[Event]]:
        found: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
        for event in self.history.events:
            found[event.source, event.event, event.device].append(event)
        return dict(found)


Checker = Callable[[Case], list[Finding]]
T = TypeVar("T")


def remembered(look: Callable[[Case, str], T]) -> Callable[[Case, str], T]:
    """A look at a device that is taken once for each case: a soak has a hundred jobs, and asks for each."""

    @wraps(look)
    def once_only(case: Case, device: str) -> T:
        key = (look.__name__, device)
        if key not in case.memo:
            case.memo[key] = look(case, device)
        return cast("T", case.memo[key])

    return once_only


class Told(NamedTuple):
    """What a look at one device came to. `expected`: where it is not the same for all."""

    verdict: Verdict
    measured: str
    expected: str = ""


def held(ok: bool, measured: str, expected: str = "") -> Told:
    """Pass or fail."""
    return Told(Verdict.PASS if ok else Verdict.FAIL, measured, expected)


Expects = Callable[[Case], str] | str
Look = Callable[[Case, str], Told | None]


def each_device(name: str, expected: Expects) -> Callable[[Look], Checker]:
    """A checker that looks at each device. An empty `expected`: not asked. None: it is not about this device."""

    def made(look: Look) -> Checker:
        @wraps(look)
        def check(case: Case) -> list[Finding]:
            asked = _words(expected, case)
            if not asked:
                return []
            if not case.devices:
                return [Finding(name, asked, "no device was observed", Verdict.UNKNOWN)]
            found = []
            for device in case.devices:
                try:
                    told = look(case, device)
                except Missing as missing:
                    told = Told(Verdict.UNKNOWN, str(missing))
                if told is not None:
                    found.append(Finding(name, told.expected or asked, told.measured, told.verdict, device))
            return found

        return check

    return made


def once(name: str, expected: Expects) -> Callable[[Callable[[Case], Told]], Checker]:
    """A checker that looks once at the whole run. An empty `expected`: not asked."""

    def made(look: Callable[[Case], Told]) -> Checker:
        @wraps(look)
        def check(case: Case) -> list[Finding]:
            asked = _words(expected, case)
            if not asked:
                return []
            try:
                told = look(case)
            except Missing as missing:
                told = Told(Verdict.UNKNOWN, str(missing))
            return [Finding(name, told.expected or asked, told.measured, told.verdict)]

        return check

    return made


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key to sort names by, numbers in them by their value."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def many(count: int, word: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def number(value: object) -> int | None:
    """A whole number of the history's data; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _words(expected: Expects, case: Case) -> str:
    return expected(case) if callable(expected) else expected
