"""One connection through a listener: both directions, their end, and what its client is told of the other side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Literal, Protocol

from chaos.proxies.mqtt.flow import Chunk, Flow, Stage, close
from chaos.proxies.mqtt.packets import V311, Dialogue, Packet, PacketType, Stream, publish, whole

CLOSE_S = 1.0
"""How long an end may take to be taken by the other side, before the connection is thrown away."""
HIGHEST_ID = 0xFFFF
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Cut = Literal["end", "reset", "silent"]


class Onlooker(Protocol):
    """The listener, as its connections see it."""

    async def came(self, packet: Packet | None, data: bytes) -> None:
        """Something was read. It stands still until this returns."""

    def goes(
        self, session: Session, packet: Packet | None, data: bytes, stream: Stream, *, ours: bool
    ) -> None:
        """Something is about to be written; `ours`: it was injected."""

    def ended(self, session: Session) -> None:
        """It is over."""


@dataclass(slots=True)
class Injected:
    """Packets of ours: how many were put on the wire, and how many PUBACKs came for them."""

    sent: int = 0
    acknowledged: int = 0


class _Silence:
    """Swallows all, the end too, for good."""

    on_packets = True
    silences = True

    async def pipe(self, stage: Stage) -> None:
        while True:
            stage.drop(await stage.take())


class Session:
    """A client's connection and ours to the broker. `run` it."""

    def __init__(self, client: Streams, upstream: Streams, onlooker: Onlooker) -> None:
        self.dialogue = Dialogue()
        self.flows = {
            Stream.UPSTREAM: Flow(Stream.UPSTREAM, client[0], upstream[1], self),
            Stream.DOWNSTREAM: Flow(Stream.DOWNSTREAM, upstream[0], client[1], self),
        }
        self.how = ""
        """Who ended it: `device`, `broker`, or `cut` and `reset` when we did; empty while it is open."""
        self.accepted = False
        """The broker has said yes to the client's CONNECT."""
        self.over = asyncio.Event()
        self._onlooker = onlooker
        self._tasks: list[asyncio.Task[None]] = []
        self._next_id = HIGHEST_ID
        self._ours: dict[tuple[Stream, int], Injected] = {}

    async def run(self) -> None:
        """Until both directions have ended."""
        self._tasks = [asyncio.create_task(self._pass_on(flow)) for flow in self.flows.values()]
        try:
            await asyncio.wait(self._tasks)
        finally:
            self.how = self.how or "cut"
            self.over.set()
            self._onlooker.ended(self)
            await self._close()

    async def _pass_on(self, flow: Flow) -> None:
        await flow.run()
        self.flows[flow.stream.back].source_gone()

    async def _close(self) -> None:
        """What is still to be sent gets a while."""
        writers = [flow.writer for flow in self.flows.values()]
        for task in self._tasks:
            task.cancel()
        for writer in writers:
            close(writer)
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True)
        finally:
            for writer in writers:
                writer.transport.abort()

    def cut(self, how: Cut = "end") -> None:
        """End it for both ends in order, or with a reset; `silent`: nothing passes any more, and both stay connected."""
        if how == "silent":
            for flow in self.flows.values():
                flow.insert(_Silence())
            return
        self.how = self.how or ("reset" if how == "reset" else "cut")
        for flow in self.flows.values():
            if how == "reset":
                reset(flow.writer)
        for task in self._tasks:
            task.cancel()

    # ---- packets of ours

    def inject(self, stream: Stream, data: bytes, told: Injected) -> None:
        """Put a packet on the wire, past all toxics; nothing where the client is not connected, or all is silent.

        What acknowledges it is kept from the other side, which knows nothing of it. Raises ValueError for what is no
        packet.
        """
        packet = whole(stream, data, self.dialogue.version or V311)
        if self.over.is_set() or not self.accepted or self.flows[stream].silenced:
            return
        if packet.type is PacketType.PUBLISH and packet.packet_id is not None:
            self._ours[stream, packet.packet_id] = told
        told.sent += 1
        self.flows[stream].put_last(Chunk(data, packet))

    def inject_publish(
        self, stream: Stream, topic: str, payload: bytes, told: Injected, *, retain: bool = False
    ) -> None:
        """A PUBLISH at QoS 1, with a packet id that nobody is likely to use: they count from 1."""
        packet_id, self._next_id = self._next_id, self._next_id - 1 or HIGHEST_ID
        version = self.dialogue.version or V311
        data = publish(topic, payload, version=version, packet_id=packet_id, retain=retain)
        self.inject(stream, data, told)

    # ---- FlowOwner

    async def reads(self, chunk: Chunk, stream: Stream) -> bool:
        """See FlowOwner."""
        packet = chunk.packet
        if packet is not None and packet.type is PacketType.PUBACK and packet.packet_id is not None:
            told = self._ours.pop((stream.back, packet.packet_id), None)
            if told is not None:
                told.acknowledged += 1
                return False
        await self._onlooker.came(packet, chunk.data)
        return True

    def writes(self, chunk: Chunk, stream: Stream) -> None:
        """See FlowOwner."""
        packet, ours = chunk.packet, False
        if packet is not None and packet.type is PacketType.CONNACK:
            self.accepted = packet.code == 0
        if packet is not None and packet.type is PacketType.PUBLISH and packet.packet_id is not None:
            ours = (stream, packet.packet_id) in self._ours
        self._onlooker.goes(self, packet, chunk.data, stream, ours=ours)

    def source_ended(self, stream: Stream) -> None:
        """See FlowOwner."""
        self.how = self.how or ("device" if stream is Stream.UPSTREAM else "broker")


def reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other end sees a reset."""
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
