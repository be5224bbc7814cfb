"""Toxics on packets, which no proxy of plain TCP can do. Each draws its toxicity for every packet that it is meant for.

What comes of them is legal MQTT, but for the order of what is reordered or held back: nothing is sent after a DISCONNECT,
a second copy is marked as one, and a PUBACK is never there before its PUBLISH.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from chaos.proxies.mqtt.flow import END, Chunk, Stage
from chaos.proxies.mqtt.packets import Kind, PacketType
from chaos.proxies.mqtt.toxics import Attributes, Toxic, known_type

Which = Literal["publish", "puback", "any"]
_TYPES: dict[str, tuple[PacketType, ...]] = {
    "publish": (PacketType.PUBLISH,),
    "puback": (PacketType.PUBACK,),
    "any": (PacketType.PUBLISH, PacketType.PUBACK),
}
Count = Annotated[int, Field(ge=0)]


class PacketAttributes(Attributes):
    """Which packets it is meant for."""

    packet: Which = "publish"
    kind: Kind | Literal["any"] = "any"
    """By the topic; of a PUBACK, of what it acknowledges."""
    count: Count = 0
    """How many at most; 0: no limit."""


class PacketToxic(Toxic):
    """One that works on packets."""

    attributes_type: ClassVar[type[Attributes]] = PacketAttributes
    attributes: PacketAttributes
    on_packets: ClassVar[bool] = True

    def describe(self) -> dict[str, object]:
        """With the number of packets that it has hurt."""
        return {**super().describe(), "hits": self.hits}

    def meant(self, chunk: Chunk) -> bool:
        """Whether a packet is of its sort."""
        packet = chunk.packet
        if packet is None or packet.type not in _TYPES[self.attributes.packet]:
            return False
        return self.attributes.kind in ("any", packet.kind)

    def drawn(self, chunk: Chunk) -> bool:
        """Whether this one is hurt: of its sort, not too many yet, and the draw says so."""
        if not self.meant(chunk) or 0 < self.attributes.count <= self.hits + self.in_hand:
            return False
        return self.chance.random() < self.toxicity

    @property
    def in_hand(self) -> int:
        """Packets that are being hurt, and are not counted yet."""
        return 0

    @abstractmethod
    async def pipe(self, stage: Stage) -> None:
        """See flow.Piping."""


@known_type
class Drop(PacketToxic):
    """The packet is gone; its sender does not know."""

    sort = "mqtt_drop"

    async def pipe(self, stage: Stage) -> None:
        """See flow.Piping."""
        while (chunk := await stage.take()) is not END:
            if self.drawn(chunk):
                self.hits += 1
                stage.drop(chunk)
            else:
                stage.pass_on(chunk)
        stage.close()


@known_type
class Double(PacketToxic):
    """The packet comes twice, the second time marked as a duplicate where QoS knows of that."""

    sort = "mqtt_double"

    async def pipe(self, stage: Stage) -> None:
        """See flow.Piping."""
        while (chunk := await stage.take()) is not END:
            stage.pass_on(chunk)
            if self.drawn(chunk):
                assert chunk.packet is not None, "drawn are packets only"
                self.hits += 1
                again = chunk.packet.again()
                stage.add(Chunk(again.data, again, chunk.at))
        stage.close()


class DelayAttributes(PacketAttributes):
    """Milliseconds."""

    delay: Count = 0


@known_type
class Delay(PacketToxic):
    """The packet comes later. Those of its sort stay in order behind it; all others pass by."""

    sort = "mqtt_delay"
    attributes_type: ClassVar[type[Attributes]] = DelayAttributes
    attributes: DelayAttributes

    async def pipe(self, stage: Stage) -> None:
        """See flow.Piping."""
        clock = asyncio.get_running_loop().time
        held: deque[tuple[float, Chunk]] = deque()
        ended = False

        def let_go() -> None:
            _, chunk = held.popleft()
            chunk.at = clock()
            stage.pass_on(chunk)

        while True:
            while held and held[0][0] <= clock():
                let_go()
            if ended and not held:
                break
            try:
                chunk = await stage.take(held[0][0] - clock() if held else None)
            except TimeoutError:
                continue
            if chunk is END:
                ended = True
            elif self.drawn(chunk):
                self.hits += 1
                due = clock() + self.attributes.delay / 1000
                held.append((max(due, held[-1][0]) if held else due, chunk))
            elif held and self.meant(chunk):
                held.append((held[-1][0], chunk))
            else:
                while held and _says_goodbye(chunk):
                    let_go()
                stage.pass_on(chunk)
        stage.close()


class ReorderAttributes(DelayAttributes):
    """How far, and how long at most in ms (0: no limit)."""

    window: Annotated[int, Field(ge=1)] = 1


@known_type
class Reorder(PacketToxic):
    """The packet is overtaken by the next `window` ones of its sort. Counted once it was overtaken."""

    sort = "mqtt_reorder"
    attributes_type: ClassVar[type[Attributes]] = ReorderAttributes
    attributes: ReorderAttributes
    _held = 0

    @property
    def in_hand(self) -> int:
        """Those that wait to be overtaken."""
        return self._held

    async def pipe(self, stage: Stage) -> None:
        """See flow.Piping."""
        while (chunk := await stage.take()) is not END:
            if not self.drawn(chunk):
                stage.pass_on(chunk)
                continue
            last = await self._held_back(stage)
            chunk.at = asyncio.get_running_loop().time()
            stage.pass_on(chunk)
            if last is END:
                break
            if last is not None:
                stage.pass_on(last)
        stage.close()

    async def _held_back(self, stage: Stage) -> Chunk | None:
        """Let the others pass; answers what came instead when they were too few: END, or a DISCONNECT."""
        left = self.attributes.window
        self._held += 1
        try:
            async with asyncio.timeout(self.attributes.delay / 1000 or None):
                while left:
                    other = await stage.take()
                    if other is END or _says_goodbye(other):
                        return other
                    if self.meant(other):
                        self.hits += left == self.attributes.window
                        left -= 1
                    stage.pass_on(other)
        except TimeoutError:
            pass
        finally:
            self._held -= 1
        return None


@known_type
class HalfOpen(PacketToxic):
    """The connections that are open fall silent both ways and stay open at both ends, until this is taken away: then
    they are cut. Those that come later are not hurt. Counts what was swallowed."""

    sort = "mqtt_half_open"
    silences = True
    for_open_only = True

    async def pipe(self, stage: Stage) -> None:
        """See flow.Piping."""
        while True:
            chunk = await stage.take()
            if chunk is not END:
                self.hits += 1
            stage.drop(chunk)

    def taken_away(self, stage: Stage) -> None:
        """What was swallowed is missing: the connection cannot go on."""
        stage.flow.cut()


def _says_goodbye(chunk: Chunk) -> bool:
    return chunk.packet is not None and chunk.packet.type is PacketType.DISCONNECT
