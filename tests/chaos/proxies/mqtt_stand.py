"""What stands around an MQTT-aware proxy in tests: a client and a broker's end that speak packets, and a real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.proxies.mqtt import MqttProxy, MqttWay, Packet, PacketType, Seen, Stream
from chaos.proxies.mqtt.packets import V311, packet_end, parse, publish
from reference.broker.capabilities import Kind
from reference.broker.mosquitto_files import add_device
from reference.pki import CertificateFiles
from reference.pki.names import SERVICE_NAME
from reference.protocol import topics
from reference.support.mqtt import Connected, Message, MqttLink
from tests.broker.conftest import Stand, serving

HOST = "127.0.0.1"
PATIENCE_S = 30.0
"""Longest that anything may take: no proof, only an end to waiting."""
TENANT, CLIENT = "acme", "d1"
COMMAND = topics.update(TENANT, CLIENT)
CANCEL = topics.cancel(TENANT, CLIENT)
REPLY = topics.replies(TENANT, CLIENT)
STATUS = topics.status(TENANT, CLIENT)
BIRTH = topics.birth(TENANT, CLIENT)
CONNECT = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x14\x00\x08blacksta"
CONNACK = b"\x20\x02\x00\x00"
SUBACK = b"\x90\x03\x00\x01\x01"
PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"


def command(number: int, *, topic: str = COMMAND) -> bytes:
    """A PUBLISH at QoS 1 with that packet id, which is its payload too."""
    return publish(topic, b"%d" % number, packet_id=number)


def puback(number: int) -> bytes:
    return b"\x40\x02" + number.to_bytes(2, "big")


class End:
    """One end of a connection; what it has received is cut into packets."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Stream, version: int = V311
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._stream = stream
        self._version = version
        self._waiting = bytearray()

    async def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))
        await self.writer.drain()

    async def next(self) -> Packet | None:
        """The next packet; None at the connection's end, or its reset."""
        async with asyncio.timeout(PATIENCE_S):
            while (end := packet_end(self._waiting)) is None or end > len(self._waiting):
                try:
                    data = await self.reader.read(4096)
                except ConnectionResetError:
                    return None
                if not data:
                    return None
                self._waiting += data
        data, self._waiting = bytes(self._waiting[:end]), self._waiting[end:]
        return parse(self._stream, data, self._version)

    async def take(self, count: int) -> list[Packet]:
        """So many packets."""
        found = [await self.next() for _ in range(count)]
        assert all(one is not None for one in found), "the connection has ended"
        return [one for one in found if one is not None]

    async def ids(self, count: int) -> list[int]:
        """The packet ids of so many."""
        return [one.packet_id or 0 for one in await self.take(count)]

    async def until_ping(self) -> list[int]:
        """The packet ids of what comes before a PINGREQ."""
        found = []
        while (packet := await self.next()) is not None and packet.type is not PacketType.PINGREQ:
            found.append(packet.packet_id or 0)
        assert packet is not None, "the connection has ended"
        return found

    async def ended(self) -> str:
        """How it ends, once it does: `end` or `reset`. Nothing else may come."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                assert await self.reader.read(1) == b""
            except ConnectionResetError:
                return "reset"
        return "end"


@dataclass
class Wire:
    """A proxy's listener, a client at its one end, and what it is led to at the other."""

    way: MqttWay
    seen: list[Seen]
    client: End
    broker: End
    _accepted: asyncio.Queue[End]
    _ends: list[End]

    async def another(self, *, greet: bool = True) -> tuple[End, End]:
        """One more connection: its client's end and the broker's."""
        reader, writer = await asyncio.open_connection(HOST, self.way.port)
        client = End(reader, writer, Stream.DOWNSTREAM)
        self._ends.append(client)
        async with asyncio.timeout(PATIENCE_S):
            broker = await self._accepted.get()
        if greet:
            await client.send(CONNECT)
            await broker.take(1)
            await broker.send(CONNACK)
            await client.take(1)
        return client, broker


@contextlib.asynccontextmanager
async def wire(*, seed: int = 0, greet: bool = True) -> AsyncIterator[Wire]:
    """Plain TCP, with a CONNECT and its CONNACK behind it, unless not so wanted."""
    accepted: asyncio.Queue[End] = asyncio.Queue()
    ends: list[End] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(End(reader, writer, Stream.UPSTREAM))
        accepted.put_nowait(ends[-1])

    server = await asyncio.start_server(accept, HOST, 0)
    proxy = MqttProxy(seed=seed)
    try:
        way = await proxy.way("d1", upstream_host=HOST, upstream_port=server.sockets[0].getsockname()[1])
        seen: list[Seen] = []
        way.tap = seen.append
        made = Wire(way, seen, None, None, accepted, ends)  # type: ignore[arg-type]
        made.client, made.broker = await made.another(greet=greet)
        yield made
    finally:
        await proxy.stop()
        server.close()
        for end in ends:
            end.writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds. Fails when it does not come to."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# ---- a real broker


@contextlib.contextmanager
def broker(kind: Kind, folder: Path) -> Iterator[Stand]:
    """A real broker over TLS that knows the device."""
    (folder / "data").mkdir()
    if kind is Kind.MOSQUITTO:
        add_device(folder / "data", TENANT, CLIENT)
    with serving(kind, folder) as stand:
        yield stand


@dataclass
class Way:
    """A device's way to a real broker, the device at its end, and the service at the broker."""

    stand: Stand
    way: MqttWay
    seen: list[Seen]
    device: MqttLink
    service: MqttLink

    def told(self, event: str, **data: object) -> int:
        """How many events of the tap were so."""
        return sum(
            one.event == event and all(one.data.get(k) == v for k, v in data.items()) for one in self.seen
        )

    async def heard(self, link: MqttLink) -> Message:
        """The next message of a link, acknowledged; connections may come and go meanwhile."""
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(event := await link.events.get(), Message):
                pass
        event.ack()
        return event

    async def connected(self) -> None:
        """The device connects (again)."""
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(await self.device.events.get(), Connected):
                pass


@contextlib.asynccontextmanager
async def way_to(
    stand: Stand, *, client_files: CertificateFiles | None = None, subscriptions: Sequence[str] = ()
) -> AsyncIterator[Way]:
    """Device and service are connected, and have subscribed to what is theirs."""
    mine = stand.device(TENANT, CLIENT)
    proxy = MqttProxy()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(proxy.stop)
        way = await proxy.way(
            CLIENT, upstream_host=HOST, upstream_port=stand.port, server_files=stand.ca.issue_server("broker"),
            client_files=client_files or mine,
        )  # fmt: skip
        seen: list[Seen] = []
        way.tap = seen.append
        service = await stack.enter_async_context(
            stand.link(SERVICE_NAME, stand.ca.issue_service(), list(topics.service_subscriptions()))
        )
        behind = Stand(stand.ca, way.port, stand.log, stand.kind)
        device = await stack.enter_async_context(
            behind.link(
                f"{TENANT}.{CLIENT}", mine, subscriptions or list(topics.device_subscriptions(TENANT, CLIENT))
            )
        )
        yield Way(stand, way, seen, device, service)
