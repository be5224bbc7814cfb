"""What a soak draws faults from: how often, with what, for how long, and what keeps two of them apart.

Every fault there is stands either in `WILD` or, with the reason, in `LEFT_OUT`; a test asks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from chaos.faults import fault_named
from chaos.needs import missing, needs_of
from chaos.scenario import Scenario
from chaos.scenario.model import FaultUse, Link, Update

Given = dict[str, object]
Draws = Callable[[random.Random], Given]
BODY, WAY = "body", "way"
"""Slots of one device: itself, and its way to the broker. The others are of what all devices share."""
API, BROKER, SERVICE, SERVICE_WAY, REGISTRY, REGISTRY_WAY = (
    "api", "broker", "service", "service-way", "registry", "registry-way",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wild:
    """A fault as it is drawn. Two that want the same slot of the same device never overlap."""

    fault: str
    slot: str
    weight: int = 2
    lasts_ms: tuple[int, int] | None = None
    """None: it is done when it is done."""
    draws: Draws = lambda _: {}
    """What it takes under `with`."""
    link: Link | None = None
    takes_ms: int = 500
    """Kept free after it, until what it did is over."""

    @property
    def of_one(self) -> bool:
        """Whether it is done to one device; else to what all share."""
        return self.slot in (BODY, WAY)


def _one_of(name: str, *values: object) -> Draws:
    return lambda chance: {name: chance.choice(values)}


def _packets(*kinds: str, **more: tuple[object, ...]) -> Draws:
    def draw(chance: random.Random) -> Given:
        return {
            "kind": chance.choice(kinds),
            **{name: chance.choice(values) for name, values in more.items()},
        }

    return draw


def _network(link: Link, slot: str, weight: int) -> list[Wild]:
    """The faults of one link."""
    return [
        Wild("latency", slot, weight, (1_000, 6_000), _one_of("latency", "100ms", "300ms", "800ms"), link),
        Wild("jitter", slot, weight, (1_000, 6_000), _one_of("jitter", "50ms", "200ms"), link),
        Wild("bandwidth", slot, weight, (1_000, 6_000), _one_of("rate", "16KiB", "64KiB"), link),
        Wild("slow-close", slot, 1, (1_000, 4_000), _one_of("delay", "500ms", "1500ms"), link),
        Wild("slicer", slot, 1, (1_000, 5_000), _one_of("size", "16B", "64B"), link),
        Wild("limit-data", slot, 1, (1_000, 4_000), _one_of("bytes", "512B", "4KiB"), link),
        Wild("black-hole", slot, weight, (500, 5_000), link=link),
        Wild("reset", slot, weight, (500, 3_000), link=link),
        Wild("down", slot, weight, (500, 5_000), link=link),
        Wild("flapping", slot, weight, (2_000, 6_000), link=link),
    ]


def _registry() -> list[Wild]:
    answers = (
        "registry-unauthorized", "registry-forbidden", "registry-not-found", "registry-throttled",
        "registry-error", "registry-unavailable",
    )  # fmt: skip
    layers = ("registry-truncated", "registry-corrupted", "registry-wrong-length", "registry-stalled")
    return [
        *(Wild(name, REGISTRY, 2, (500, 4_000), _one_of("count", 1, 2, 4)) for name in answers),
        *(Wild(name, REGISTRY, 2, (500, 4_000), _one_of("count", 1, 2)) for name in layers),
        Wild("registry-slow-layer", REGISTRY, 2, (1_000, 5_000), _one_of("rate", "64KiB", "256KiB")),
    ]


def _mqtt() -> list[Wild]:
    kinds = ("command", "command", "status", "status", "any", "any", "cancel", "reply", "birth")
    drop = _packets(*kinds, packet=("publish", "puback"), share=(0.3, 0.7, 1.0))
    return [
        Wild("mqtt-drop", WAY, 6, (1_000, 6_000), drop),
        Wild("mqtt-double", WAY, 4, (1_000, 6_000), _packets(*kinds)),
        Wild("mqtt-delay", WAY, 4, (1_000, 6_000), _packets(*kinds, delay=("300ms", "1500ms"))),
        Wild("mqtt-reorder", WAY, 4, (1_000, 6_000), _packets("status", "command", "any", longest=("1s",))),
        Wild("mqtt-half-open", WAY, 4, (1_000, 6_000)),
        Wild("mqtt-takeover", WAY, 4),
        Wild("mqtt-stale-retained", WAY, 3, (1_000, 4_000), _one_of("at", "now", "subscribe")),
    ]


def _parts() -> list[Wild]:
    return [
        Wild("agent-killed", BODY, 10, (100, 3_000)),
        Wild("killed", BODY, 8, (100, 3_000), takes_ms=1_500),
        Wild("power-cut", BODY, 12, (200, 3_000), takes_ms=1_500),
        Wild("power-cut-twice", BODY, 4, (2_000, 4_000), _one_of("again", "200ms", "600ms"), takes_ms=2_500),
        Wild("brown-out", BODY, 4, (4_000, 6_000), _one_of("cuts", 2, 3), takes_ms=2_500),
        Wild("container-killed", BODY, 5),
        Wild("container-oom-killed", BODY, 3, takes_ms=2_000),
        Wild("container-paused", BODY, 5, (500, 5_000)),
        Wild("disk-full", BODY, 4, (1_000, 5_000), _one_of("leave", "0B", "64KiB", "1MiB")),
        Wild("descriptors-gone", BODY, 3, (1_000, 4_000), _one_of("leave", 0, 2)),
        Wild("device-certificate-expired", BODY, 2, (1_000, 4_000), takes_ms=2_000),
        Wild("registry-killed", REGISTRY, 2, (200, 3_000), takes_ms=2_000),
        Wild("broker-killed", BROKER, 4, (200, 3_000), takes_ms=2_000),
        Wild("service-killed", SERVICE, 4, (200, 3_000), takes_ms=3_000),
        Wild("database-down", SERVICE, 3, (500, 4_000)),
    ]


def _hostile() -> list[Wild]:
    named = _one_of("to", "2.0.0", "3.0.0")
    return [
        Wild("command-forged", WAY, 2, draws=named),
        Wild("command-for-another", WAY, 2, draws=named),
        Wild("command-expired", WAY, 2, draws=named),
        Wild("command-downgraded", WAY, 2, draws=named),
        Wild("command-replayed", WAY, 2, draws=_one_of("job", "last", "first")),
        Wild("foreign-certificate", WAY, 1),
        Wild("flood", WAY, 2, (1_000, 3_000), lambda c: {"of": c.choice(("commands", "births", "requests")), "rate": 50}),
    ]  # fmt: skip


WILD: tuple[Wild, ...] = (
    *_network(Link.DEVICE_BROKER, WAY, 3),
    *_network(Link.DEVICE_REGISTRY, REGISTRY_WAY, 2),
    *_network(Link.SERVICE_BROKER, SERVICE_WAY, 1),
    *_network(Link.API_CLIENT, API, 1),
    *_registry(),
    *_mqtt(),
    *_parts(),
    *_hostile(),
)
"""All that is drawn from, where its needs are met."""

LEFT_OUT: Mapping[str, str] = {
    "container-restarted": "it needs Docker, and the devices of a soak run processes",
    "engine-restarted": "it needs Docker, and the devices of a soak run processes",
    "journal-corrupted": "what a device did before its journal was lost cannot be judged over many updates",
    "clock-jumped": "every agent would run under another clock, and its journal could not be laid beside the others",
    "device-off": "every agent would run under another clock, and its journal could not be laid beside the others",
    "slow-disk": "it throttles loop devices, of which a soak has one for each device, on one disk",
    "registry-certificate-expired": "the registry of a soak speaks plain HTTP: its faults need to see what passes",
    "registry-layer-bomb": "it publishes a version of its own, each time under the same name",
    "registry-path-escape": "it publishes a version of its own, each time under the same name",
    "registry-tag-moved": "it moves a tag for good, and the rounds after it would meet another image",
}
"""Faults that no soak draws, and why."""


def slot_of(use: FaultUse) -> str:
    """What it keeps busy."""
    return next(one.slot for one in WILD if (one.fault, one.link) == (use.fault, use.link))


def use_of(wild: Wild, given: Given, device: int | None = None) -> FaultUse:
    """As it stands in a scenario, without its moment."""
    return FaultUse.model_validate({"fault": wild.fault, "link": wild.link, "device": device, "with": given})


def one_each(wild: Iterable[Wild]) -> tuple[FaultUse, ...]:
    """A use of each, to ask what the bench has to have."""
    chance = random.Random(0)  # noqa: S311 - no secret
    return tuple(
        use.model_copy(update={"name": f"{use.fault}-{number}"})
        for number, w in enumerate(wild)
        for use in [use_of(w, w.draws(chance), 1 if w.of_one else None)]
    )


def why_not(wild: Wild) -> str:
    """What this machine lacks for it; empty: nothing."""
    fault_named(wild.fault)
    asked = needs_of(Scenario(title="asked", method=(Update(action="update"), *one_each([wild]))))
    return "; ".join(said for need in asked if (said := missing(need)))


def available() -> tuple[list[Wild], dict[str, str]]:
    """What can be drawn on this machine; and what cannot, by the fault's name, with the reason."""
    found, absent = [], dict(LEFT_OUT)
    for wild in WILD:
        if reason := why_not(wild):
            absent.setdefault(wild.fault, reason)
        else:
            found.append(wild)
    return found, absent
