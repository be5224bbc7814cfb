"""A broker of a few lines, without TLS, that writes down every packet: what the link really says on the wire."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 12, 14


@dataclass
class Packet:
    kind: int
    flags: int
    body: bytes


@dataclass
class Connection:
    writer: asyncio.StreamWriter
    packets: list[Packet] = field(default_factory=list)

    def kinds(self) -> list[int]:
        return [packet.kind for packet in self.packets]

    five: bool = False

    def send(self, topic: str, payload: bytes, mid: int, properties: bytes = b"") -> None:
        said = bytes([len(properties)]) + properties if self.five else b""
        body = struct.pack("!H", len(topic)) + topic.encode() + struct.pack("!H", mid) + said + payload
        assert len(body) < 128
        self.writer.write(bytes([0x32, len(body)]) + body)


class Peer:
    def __init__(
        self, *, connack: int = 0, suback: int = 1, puback: bool = True, five: bool = False, reason: int = 0
    ) -> None:
        self.connack, self.suback, self.puback = connack, suback, puback
        self.five, self.reason = five, reason
        """MQTT 5 instead of 3.1.1; and the reason code of its PUBACKs then."""
        self.connections: list[Connection] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Peer:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.writer.transport.abort()

    async def until(self, what: str, count: int = 1, connection: int = -1) -> Connection:
        """The connection, once it has had `count` packets of the kind named `what`."""
        kind = globals()[what]

        def there() -> bool:
            return bool(self.connections) and self.connections[connection].kinds().count(kind) >= count

        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(there)
        return self.connections[connection]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer, five=self.five)
        self.connections.append(connection)
        try:
            while True:
                packet = await _read(reader)
                connection.packets.append(packet)
                self._answer(packet, writer)
                async with self._changed:
                    self._changed.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, packet: Packet, writer: asyncio.StreamWriter) -> None:
        if packet.kind == CONNECT:
            none = b"\0" if self.five else b""
            writer.write(bytes([0x20, 2 + len(none), 0, self.connack]) + none)
        elif packet.kind == SUBSCRIBE:
            none = b"\0" if self.five else b""
            writer.write(bytes([0x90, 3 + len(none)]) + packet.body[:2] + none + bytes([self.suback]))
        elif packet.kind == PUBLISH and packet.flags & 6 and self.puback:
            size = struct.unpack("!H", packet.body[:2])[0]
            reason = bytes([self.reason]) if self.reason else b""
            writer.write(bytes([0x40, 2 + len(reason)]) + packet.body[2 + size : 4 + size] + reason)
        elif packet.kind == PINGREQ:
            writer.write(b"\xd0\x00")


async def _read(reader: asyncio.StreamReader) -> Packet:
    first = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return Packet(first >> 4, first & 15, await reader.readexactly(length))
