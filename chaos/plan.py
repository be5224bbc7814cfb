"""What a run will do, and when, as far as that can be said before: drawn from the seed alone.

The same scenario and seed give the same plan: every range is drawn here, and every item gets a seed of its own, so that
an item that is added at the end changes nothing before it. Pure.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chaos.scenario.model import FaultUse, Scenario, Wait, When
from chaos.scenario.quantities import DurationRange


@dataclass(frozen=True, slots=True)
class Moment:
    """A `when`, with its ranges drawn. Exactly one of `phase`, `event`, `time_ms` and `pulled` is given."""

    phase: str | None = None
    event: str | None = None
    time_ms: int | None = None
    pulled: float | None = None
    of: str | None = None
    nth: int = 1
    then_ms: int = 0
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """One item of the method."""

    index: int
    """Its place in the method, from 0."""
    label: str
    what: str
    """The fault's name, or the action's."""
    is_fault: bool
    when: Moment | None
    for_ms: int | None
    """None: until the method's end."""
    times: int
    every_ms: tuple[int, ...]
    """From each coming to the next, one less than `times`."""
    seed: int
    """Of all chance within this item."""


def plan(scenario: Scenario, seed: int) -> tuple[Planned, ...]:
    """The method's items in order."""
    return tuple(_planned(scenario, seed, index) for index in range(len(scenario.method)))


def seed_of(seed: int, *names: object) -> int:
    """A seed for a part of a run, from the run's own."""
    text = ":".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _planned(scenario: Scenario, seed: int, index: int) -> Planned:
    item = scenario.method[index]
    own = seed_of(seed, index)
    chance = random.Random(own)  # noqa: S311 - a schedule, no secret
    when = item.until if isinstance(item, Wait) else item.when
    moment = _moment(when, chance) if when is not None else None
    for_ = item.for_ if isinstance(item, FaultUse | Wait) else None
    for_ms = _draw(for_, chance)
    repeat = item.repeat if isinstance(item, FaultUse) else None
    every = tuple(_draw(repeat.every, chance) or 0 for _ in range(repeat.times - 1)) if repeat else ()
    fault = isinstance(item, FaultUse)
    label = item.label if isinstance(item, FaultUse) else f"{item.action}-{index + 1}"
    what = item.fault if isinstance(item, FaultUse) else item.action
    own_device = getattr(item, "device", None)
    if moment is not None and moment.device is None:
        moment = replace(moment, device=own_device)
    return Planned(index, label, what, fault, moment, for_ms, len(every) + 1, every, seed_of(own, "chance"))


def _moment(when: When, chance: random.Random) -> Moment:
    return Moment(
        phase=when.phase.value if when.phase is not None else None,
        event=when.event.value if when.event is not None else None,
        time_ms=_draw(when.time, chance),
        pulled=round(when.pulled.draw(chance.random()), 4) if when.pulled is not None else None,
        of=when.of,
        nth=when.nth,
        then_ms=_draw(when.then, chance) or 0,
        device=when.device,
    )


def _draw(wanted: DurationRange | None, chance: random.Random) -> int | None:
    return wanted.draw(chance.random()) if wanted is not None else None


def as_table(items: Sequence[Planned]) -> list[dict[str, object]]:
    """The plan as JSON: what `faults planned` of a report shows."""
    return [
        {
            "label": i.label, "what": i.what, "fault": i.is_fault, "for_ms": i.for_ms, "times": i.times,
            "every_ms": list(i.every_ms), "seed": i.seed,
            "when": None if i.when is None else {k: getattr(i.when, k) for k in Moment.__slots__},
        }
        for i in items
    ]  # fmt: skip
