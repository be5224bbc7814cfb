"""MQTT 3.1.1 and 5 as far as a proxy has to know them: where a packet ends, and what it is about. Pure.

OASIS, MQTT Version 5.0, sections 2.1 (fixed header), 3.1 (CONNECT), 3.3 (PUBLISH), 3.4 (PUBACK). What is read here lies
at the same place in both versions, but for a PUBLISH's payload, which comes after its properties in version 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal

from reference.core.errors import InputError
from reference.protocol import topics

MAX_PACKET_BYTES = 1 << 20
"""What says that it is longer is passed on as it comes, not collected: MQTT allows 256 MB."""
V311, V5 = 4, 5
"""Protocol levels, as CONNECT has them."""
_NAMES = (b"\x00\x04MQTT", b"\x00\x06MQIsdp")

Kind = Literal["command", "cancel", "reply", "birth", "status", "other"]
_KINDS: dict[topics.Kind, Kind] = {
    topics.Kind.UPDATE: "command",
    topics.Kind.CANCEL: "cancel",
    topics.Kind.REPLIES: "reply",
    topics.Kind.BIRTH: "birth",
    topics.Kind.STATUS: "status",
}


class Stream(StrEnum):
    """A direction, by Toxiproxy's words."""

    UPSTREAM = "upstream"
    """From the client (a device) to the broker."""
    DOWNSTREAM = "downstream"

    @property
    def to(self) -> Literal["device", "broker"]:
        """Who gets it. The service, where it is the client, counts as the device."""
        return "broker" if self is Stream.UPSTREAM else "device"

    @property
    def back(self) -> Stream:
        """The other direction."""
        return Stream.DOWNSTREAM if self is Stream.UPSTREAM else Stream.UPSTREAM


class PacketType(IntEnum):
    """Table 2-1."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


_FLAGS_OF_TWO = (PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet on its way."""

    stream: Stream
    type: PacketType
    data: bytes = field(repr=False)
    """Whole, as on the wire."""
    topic: str = ""
    kind: Kind | Literal[""] = ""
    """Of a PUBLISH, by its topic (with a topic alias alone: `other`); of a PUBACK, of what it acknowledges."""
    packet_id: int | None = None
    qos: int = 0
    dup: bool = False
    retain: bool = False
    code: int | None = None
    """Of a CONNACK: 0 is yes."""
    payload_at: int = 0

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.data)

    @property
    def payload(self) -> bytes:
        """Of a PUBLISH."""
        return self.data[self.payload_at :] if self.type is PacketType.PUBLISH else b""

    def again(self) -> Packet:
        """The same once more, as a sender that repeats itself would send it: marked so where QoS asks for that."""
        if self.type is not PacketType.PUBLISH or self.qos == 0:
            return self
        data = bytes([self.data[0] | 0x08]) + self.data[1:]
        return Packet(
            self.stream, self.type, data, self.topic, self.kind, self.packet_id, self.qos, True, self.retain,
            self.code, self.payload_at,
        )  # fmt: skip


def kind_of(topic: str) -> Kind:
    """What a topic is for; `other` when it is none of ours."""
    try:
        return _KINDS[topics.parse_topic(topic).kind]
    except InputError:
        return "other"


def read_length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """A Variable Byte Integer (section 1.5.5) and where it ends; None: not all of it is there. Raises ValueError."""
    value = 0
    for n in range(4):
        if at + n >= len(data):
            return None
        value |= (data[at + n] & 0x7F) << (7 * n)
        if not data[at + n] & 0x80:
            return value, at + n + 1
    raise ValueError("a length of more than four bytes")


def length_bytes(value: int) -> bytes:
    """A Variable Byte Integer."""
    made = b""
    while not made or value:
        value, low = divmod(value, 128)
        made += bytes([low | (128 if value else 0)])
    return made


def publish(
    topic: str, payload: bytes, *, version: int = V311, packet_id: int = 0, retain: bool = False, dup: bool = False
) -> bytes:  # fmt: skip
    """A PUBLISH: at QoS 1 with a packet id, else at QoS 0."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name
    if packet_id:
        body += packet_id.to_bytes(2, "big")
    body += (b"\x00" if version == V5 else b"") + payload
    first = 0x30 | (0x02 if packet_id else 0) | (0x01 if retain else 0) | (0x08 if dup else 0)
    return bytes([first]) + length_bytes(len(body)) + body


def is_connect(data: bytes | bytearray) -> bool | None:
    """Whether this is how an MQTT client begins; None: too little is there to say."""
    if data[:1] not in (b"", b"\x10"):
        return False
    try:
        length = read_length(data, 1)
    except ValueError:
        return False
    if length is None:
        return None
    name = bytes(data[length[1] : length[1] + 8])
    if any(name.startswith(known) for known in _NAMES):
        return None if len(data) <= length[1] + name.index(b"M") + name[1] else True
    return None if any(known.startswith(name) for known in _NAMES) else False


def packet_end(data: bytes | bytearray) -> int | None:
    """Where the packet that `data` begins with ends; None: not known yet. Raises ValueError for what is none."""
    if not data:
        return None
    number, flags = data[0] >> 4, data[0] & 0x0F
    if number == 0:
        raise ValueError("no type of packet")
    kind = PacketType(number)
    wanted = 2 if kind in _FLAGS_OF_TWO else 0
    if flags & 0x06 == 0x06 if kind is PacketType.PUBLISH else flags != wanted:
        raise ValueError("flags that no packet has")
    length = read_length(data, 1)
    if length is None:
        return None
    if length[0] > MAX_PACKET_BYTES:
        raise ValueError("longer than any packet of ours")
    return length[0] + length[1]


def parse(stream: Stream, data: bytes, version: int) -> Packet:
    """A whole packet. Raises ValueError when it does not hold what it has to."""
    kind = PacketType(data[0] >> 4)
    length = read_length(data, 1)
    assert length is not None, "a whole packet"
    at = length[1]
    if kind is PacketType.PUBLISH:
        return _parse_publish(stream, data, at, version)
    if kind in (PacketType.PUBACK, PacketType.CONNACK):
        if len(data) < at + 2:
            raise ValueError(f"{kind.name} is too short")
        if kind is PacketType.CONNACK:
            return Packet(stream, kind, data, code=data[at + 1])
        return Packet(stream, kind, data, packet_id=int.from_bytes(data[at : at + 2], "big"))
    return Packet(stream, kind, data)


def whole(stream: Stream, data: bytes, version: int) -> Packet:
    """Bytes that have to be one packet, and no more. Raises ValueError."""
    if packet_end(data) != len(data):
        raise ValueError("not exactly one packet")
    return parse(stream, data, version)


def _parse_publish(stream: Stream, data: bytes, at: int, version: int) -> Packet:
    qos = data[0] >> 1 & 3
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    body = end + (2 if qos else 0)
    if body > len(data) or len(data) < at + 2:
        raise ValueError("PUBLISH is too short")
    packet_id = int.from_bytes(data[end:body], "big") if qos else None
    if version == V5:
        properties = read_length(data, body)
        if properties is None or sum(properties) > len(data):
            raise ValueError("PUBLISH is shorter than its properties")
        body = sum(properties)
    topic = data[at + 2 : end].decode("utf-8", "replace")
    return Packet(
        stream, PacketType.PUBLISH, data, topic, kind_of(topic), packet_id, qos, bool(data[0] & 0x08),
        bool(data[0] & 0x01), payload_at=body,
    )  # fmt: skip


class Dialogue:
    """Both directions of one connection, cut at packet borders, as far as they are MQTT.

    The client's first bytes decide. What is no MQTT, from there on, is answered as the bytes that came.
    """

    def __init__(self) -> None:
        self._waiting = {stream: bytearray() for stream in Stream}
        self._plain: set[Stream] = set()
        self._kinds: dict[tuple[Stream, int], Kind | Literal[""]] = {}
        self.version: int | None = None
        """The protocol level that the client asked for; None: it is not known to speak MQTT."""

    def feed(self, stream: Stream, data: bytes) -> list[Packet | bytes]:
        """What is whole now, in order."""
        waiting = self._waiting[stream]
        waiting += data
        if self.version is None and not self._plain and not self._decide(stream):
            return []
        if stream in self._plain:
            return self._rest_of(stream)
        found: list[Packet | bytes] = []
        try:
            while (end := packet_end(waiting)) is not None and end <= len(waiting):
                packet = parse(stream, bytes(waiting[:end]), self.version or V311)
                del waiting[:end]
                found.append(self._known(packet))
        except ValueError:
            self._plain.add(stream)
            found += self._rest_of(stream)
        return found

    def end(self, stream: Stream) -> list[Packet | bytes]:
        """The beginning of a packet that never became whole."""
        return self._rest_of(stream)

    def _decide(self, stream: Stream) -> bool:
        """Whether it is known now what the connection is. A server that speaks first is no broker."""
        begun = self._waiting[Stream.UPSTREAM]
        verdict = is_connect(begun) if stream is Stream.UPSTREAM else False
        if verdict:
            length = read_length(begun, 1)
            assert length is not None, "it was seen to be there"
            self.version = begun[length[1] + 2 + begun[length[1] + 1]]
        elif verdict is False:
            self._plain.update(Stream)
        return verdict is not None

    def _rest_of(self, stream: Stream) -> list[Packet | bytes]:
        rest = bytes(self._waiting[stream])
        self._waiting[stream].clear()
        return [rest] if rest else []

    def _known(self, packet: Packet) -> Packet:
        """A PUBACK is of the kind of what it acknowledges."""
        if packet.packet_id is None:
            return packet
        if packet.type is PacketType.PUBLISH:
            self._kinds[packet.stream, packet.packet_id] = packet.kind
            return packet
        kind = self._kinds.get((packet.stream.back, packet.packet_id), "other")
        return Packet(packet.stream, packet.type, packet.data, kind=kind, packet_id=packet.packet_id)
