"""What the faults on MQTT packets have in common: each device's own way to the broker, and toxics that count."""

from __future__ import annotations

import itertools
import random
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from chaos.faults.base import Family, Fault, Ground, Params
from chaos.proxies.mqtt import MqttWay, Stream, Toxic, ToxicOrder
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import Fraction
from reference.stack import Device

Kind = Literal["command", "cancel", "reply", "birth", "status", "any"]
Which = Literal["publish", "puback", "any"]
_TO_DEVICE = ("command", "cancel", "reply")
_numbers = itertools.count(1)


class PacketParams(Params):
    """Which packets, and how many of them."""

    kind: Kind = "any"
    """What the message is; of a PUBACK, what it acknowledges."""
    packet: Which = "publish"
    """The packet: the message itself, its acknowledgement, or both."""
    count: Annotated[int, Field(ge=0)] = 0
    """At most so many of each device, in each direction; 0: no limit."""
    share: Fraction = 1.0
    """So many of them, drawn for each packet."""


def streams(kind: Kind, packet: Which) -> tuple[Stream, ...]:
    """The directions in which such packets go."""
    if kind == "any" or packet == "any":
        return tuple(Stream)
    down = (kind in _TO_DEVICE) == (packet == "publish")
    return (Stream.DOWNSTREAM,) if down else (Stream.UPSTREAM,)


class MqttFault(Fault):
    """On the way of one device to the broker, or of each."""

    family: ClassVar[Family] = Family.MQTT

    def ways(self) -> list[tuple[Device, MqttWay]]:
        """Those that it is for. Raises FaultError where one leads away from this machine."""
        found = [(device, self.ground.mqtt(device)) for device in self.ground.chosen(self.use.device)]
        for _, way in found:
            self.ground.guard.address(way.upstream.rpartition(":")[0])
        return found


class ToxicMqttFault(MqttFault):
    """One that is nothing but toxics on each way; it fired when those of each device have counted something."""

    sort: ClassVar[str]
    """The toxic's type."""
    done: ClassVar[str]
    """What was done to packets, as a word."""

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self.hurt: list[tuple[Device, MqttWay, Toxic]] = []

    @abstractmethod
    def orders(self) -> list[ToxicOrder]:
        """The toxics for one way."""

    def order(self, stream: Stream, share: float, attributes: Mapping[str, object]) -> ToxicOrder:
        """A toxic of a name of its own, and with a seed of its own."""
        return ToxicOrder(
            type=self.sort, name=f"{self.name}-{next(_numbers)}", stream=stream.value, toxicity=share,
            attributes={**attributes, "seed": self.chance.getrandbits(32)},
        )  # fmt: skip

    async def begin(self) -> None:
        for device, way in self.ways():
            for order in self.orders():
                self.hurt.append((device, way, way.add_toxic(order)))

    async def heal(self) -> None:
        for _, way, toxic in self.hurt:
            if toxic in way.toxics:
                way.remove_toxic(toxic.name)

    async def fired(self) -> str:
        hits: dict[str, int] = {}
        for device, _, toxic in self.hurt:
            hits[device.client_id] = hits.get(device.client_id, 0) + toxic.hits
        if not all(hits.values()):  # Each way is a device's own.
            return ""
        return ", ".join(f"{name}: {several(n)} {self.done}" for name, n in hits.items())


class PacketFault(ToxicMqttFault):
    """One that is done to packets of a kind."""

    params: ClassVar[type[Params]] = PacketParams

    def orders(self) -> list[ToxicOrder]:
        given: PacketParams = self.given
        attributes = {"kind": given.kind, "packet": given.packet, "count": given.count, **self.more()}
        return [self.order(s, given.share, attributes) for s in streams(given.kind, given.packet)]

    def more(self) -> Mapping[str, object]:
        """Further attributes."""
        return {}

    async def fired(self) -> str:
        given: PacketParams = self.given
        told = await super().fired()
        what = {"publish": "PUBLISH", "puback": "PUBACK", "any": "PUBLISH and PUBACK"}[given.packet]
        return told and f"{told} ({what}, {given.kind})"


def several(count: int) -> str:
    """`1 packet`, `2 packets`."""
    return f"{count} packet" if count == 1 else f"{count} packets"
