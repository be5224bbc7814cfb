"""What a soak does, drawn from its seed alone: rounds, each a scenario in which everything has a time. Pure.

    a round:  orders and faults for a while | all is healed, and everything has to come to rest | judgement

The same seed, devices and faults to draw from give the same rounds, however fast the machine is and whatever happens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.plan import seed_of
from chaos.scenario import Scenario
from chaos.scenario.model import (
    Action,
    Bench,
    Cancel,
    Expect,
    FaultUse,
    Update,
    VersionSpec,
    When,
)
from chaos.scenario.quantities import DurationRange, duration_text
from chaos.soak.table import Wild, use_of

BEGINS = "1.0.0"
START_MS, WINDOW_MS = 4_000, 6_000
"""Longer than a bench of one device gives a client: many of them share the processors."""
GOOD = (BEGINS, "2.0.0", "3.0.0", "4.0.0", "5.0.0", "6.0.0")
BAD = ("2.0.1", "2.0.2", "2.0.3")


def _version(name: str, defect: str = "", **more: object) -> VersionSpec:
    bounds = {"start-period": duration_text(START_MS), "window": duration_text(WINDOW_MS)}
    return VersionSpec.model_validate({"version": name, "defect": defect, **bounds, **more})


VERSIONS = (
    *(_version(name) for name in GOOD[:4]),
    _version("5.0.0", layer=1),
    _version("6.0.0", "slow-start:1500"),
    _version("2.0.1", "crash-on-start"),
    _version("2.0.2", "never-healthy", **{"start-period": "1500ms", "window": "2s"}),
    _version("2.0.3", "dies-in-window:700", **{"stable-for": "2s"}),
)
"""All that is ever ordered; those with a defect have to be rolled back."""
NEAR_MS = (-3_000, 1_000)
"""A device whose order comes so long before or after a fault is being updated."""
NEAR_SHARE = 0.8
_SEEDS = 1 << 62


@dataclass(frozen=True, slots=True)
class Guards:
    """The bounds within which a soak may do harm."""

    devices: int = 20
    active_ms: int = 45_000
    """How long orders and faults come, before all is healed."""
    at_once: int = 5
    """Faults in force at the same time, at most."""
    longest_ms: int = 8_000
    """No fault is in force for longer."""
    faults_every_ms: int = 900
    """From one fault to the next, on average."""
    orders_every_ms: tuple[int, int] = (7_000, 18_000)
    """From one order for a device to its next."""
    rest_ms: int = 60_000
    """Everything has to be at rest so long after all is healed."""
    bad_share: float = 0.25
    """Of orders that are for a version with a defect."""
    supersede_share: float = 0.1
    cancel_share: float = 0.1


@dataclass(frozen=True, slots=True)
class _Busy:
    """A slot that is taken."""

    begin: int
    end: int
    slot: str
    device: int | None


def draw_round(seed: int, number: int, guards: Guards, wild: Sequence[Wild]) -> Scenario:
    """The `number`-th round of a soak, from 1."""
    orders = [one for device in range(1, guards.devices + 1) for one in _orders(seed, number, device, guards)]
    method = sorted([*orders, *_faults(seed, number, guards, wild, orders)], key=time_of)
    return Scenario(
        title=f"Soak of seed {seed}, round {number}",
        seed=seed_of(seed, "round", number) % _SEEDS,
        bench=Bench(devices=guards.devices, begins=BEGINS, versions=VERSIONS),
        method=tuple(method),
        expect=Expect.model_validate({"converges": duration_text(guards.rest_ms)}),
    ).model_copy(update={"time_limit": 2 * guards.active_ms + 60_000})


def time_of(item: Action | FaultUse) -> int:
    """When it is done, in ms since the round began."""
    when = getattr(item, "when", None)
    return when.time.low_ms if when is not None and when.time is not None else 0


def at(ms: int) -> When:
    """At that time since the round began."""
    return When(time=DurationRange(ms, ms))


def lasting(ms: int) -> DurationRange:
    """For so long."""
    return DurationRange(ms, ms)


def _orders(seed: int, number: int, device: int, guards: Guards) -> list[Action]:
    """Of one device: what it is asked for depends on no other."""
    chance = random.Random(seed_of(seed, number, "orders", device))  # noqa: S311 - repeatable, no secret
    found: list[Action] = []
    low, high = guards.orders_every_ms
    t, before = chance.randint(200, max(201, min(low, guards.active_ms // 3))), ""
    while t < guards.active_ms:
        before = _wanted(chance, guards, before)
        found.append(Update(action="update", to=before, device=device, when=at(t)))
        roll = chance.random()
        if roll < guards.supersede_share:
            later, before = t + chance.randint(200, 2_500), _wanted(chance, guards, before)
            found.append(Update(action="update", to=before, device=device, when=at(later)))
        elif roll < guards.supersede_share + guards.cancel_share:
            found.append(Cancel(action="cancel", device=device, when=at(t + chance.randint(100, 2_500))))
        t += chance.randint(low, high)
    return found


def _wanted(chance: random.Random, guards: Guards, before: str) -> str:
    """Another version than the one before."""
    pool = BAD if chance.random() < guards.bad_share else GOOD
    return chance.choice([version for version in pool if version != before])


def _faults(
    seed: int, number: int, guards: Guards, wild: Sequence[Wild], orders: Sequence[Action]
) -> list[FaultUse]:
    if not wild:
        return []
    chance = random.Random(seed_of(seed, number, "faults"))  # noqa: S311 - repeatable, no secret
    found: list[FaultUse] = []
    busy: list[_Busy] = []
    t = chance.randint(300, 1_500)
    while t < guards.active_ms:
        picked = chance.choices(wild, [one.weight for one in wild])[0]
        device = _device(t, chance, guards, orders)
        length = _length(picked, chance, guards)
        given = picked.draws(chance)
        gap = round(chance.expovariate(1 / guards.faults_every_ms))
        wanted = _Busy(t, t + length, picked.slot, device if picked.of_one else None)
        if wanted.end <= guards.active_ms and _fits(wanted, busy, guards):
            busy.append(_Busy(t, wanted.end + picked.takes_ms, wanted.slot, wanted.device))
            found.append(_placed(picked, given, wanted, len(found) + 1))
        t += max(gap, 50)
    return found


def _device(t: int, chance: random.Random, guards: Guards, orders: Sequence[Action]) -> int:
    """Mostly one that is being updated: on one at rest most faults meet nobody."""
    low, high = NEAR_MS
    near = [d for o in orders if t + low <= time_of(o) <= t + high and (d := getattr(o, "device", None))]
    anybody = not near or chance.random() > NEAR_SHARE
    return chance.randint(1, guards.devices) if anybody else chance.choice(near)


def _length(wild: Wild, chance: random.Random, guards: Guards) -> int:
    low, high = wild.lasts_ms or (0, 0)
    return min(chance.randint(low, high), guards.longest_ms)


def _fits(wanted: _Busy, busy: Sequence[_Busy], guards: Guards) -> bool:
    """Whether there is room: not too many at once, and nothing else in its place."""
    met = [one for one in busy if one.begin <= wanted.end and wanted.begin <= one.end]
    if any(one.slot == wanted.slot and one.device == wanted.device for one in met):
        return False
    moments = [wanted.begin, *(one.begin for one in met if one.begin > wanted.begin)]
    most = max(sum(one.begin <= moment <= one.end for one in met) for moment in moments)
    return most < guards.at_once


def _placed(wild: Wild, given: dict[str, object], where: _Busy, number: int) -> FaultUse:
    length = where.end - where.begin
    return use_of(wild, given, where.device).model_copy(
        update={
            "name": f"{wild.fault}-{number}",
            "when": at(where.begin),
            "for_": lasting(length) if wild.lasts_ms is not None else None,
        }
    )
