"""Packets are cut at their borders, however their bytes come; what is none passes as it is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.proxies.mqtt.packets import (
    MAX_PACKET_BYTES,
    V5,
    V311,
    Dialogue,
    Packet,
    PacketType,
    Stream,
    is_connect,
    length_bytes,
    publish,
    read_length,
    whole,
)
from reference.protocol import topics
from tests.chaos.proxies.mqtt_stand import CONNACK, CONNECT, PINGREQ, STATUS, command, puback

CONNECT_5 = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x14\x00\x00\x03abc"
packets = st.lists(
    st.one_of(
        st.builds(
            lambda payload, number: publish(STATUS, payload, packet_id=number),
            st.binary(max_size=300),
            st.integers(0, 0xFFFF),
        ),
        st.builds(puback, st.integers(1, 0xFFFF)),
        st.just(PINGREQ),
    ),
    max_size=8,
)


def cut_up(data: bytes, borders: list[int]) -> list[bytes]:
    """Pieces of it."""
    places = sorted({min(one, len(data)) for one in borders} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def bytes_of(found: list[Packet | bytes]) -> bytes:
    return b"".join(one.data if isinstance(one, Packet) else one for one in found)


@given(packets, st.lists(st.integers(0, 3_000)))
def test_packets_are_whole_however_their_bytes_come(sent: list[bytes], borders: list[int]) -> None:
    dialogue = Dialogue()
    found: list[Packet | bytes] = []
    for piece in cut_up(b"".join([CONNECT, *sent]), borders):
        found += dialogue.feed(Stream.UPSTREAM, piece)
    assert [one.data for one in found if isinstance(one, Packet)] == [CONNECT, *sent]
    assert len(found) == len(sent) + 1
    assert dialogue.end(Stream.UPSTREAM) == []


def test_at_every_single_border() -> None:
    whole_of_it = CONNECT + command(7, topic=STATUS) + puback(9) + PINGREQ
    for border in range(len(whole_of_it) + 1):
        dialogue = Dialogue()
        found = dialogue.feed(Stream.UPSTREAM, whole_of_it[:border])
        found += dialogue.feed(Stream.UPSTREAM, whole_of_it[border:])
        assert [one.type for one in found if isinstance(one, Packet)] == [
            PacketType.CONNECT, PacketType.PUBLISH, PacketType.PUBACK, PacketType.PINGREQ,
        ]  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(Stream), st.binary(max_size=40))), st.booleans())
def test_no_byte_is_lost_or_added_whatever_comes(came: list[tuple[Stream, bytes]], begins: bool) -> None:
    dialogue = Dialogue()
    if begins:
        came = [(Stream.UPSTREAM, CONNECT), *came]
    out = dict.fromkeys(Stream, b"")
    for stream, data in came:
        out[stream] += bytes_of(dialogue.feed(stream, data))
    for stream in Stream:
        out[stream] += bytes_of(dialogue.end(stream))
        assert out[stream] == b"".join(data for which, data in came if which is stream)


@given(st.integers(0, 268_435_455))
def test_lengths_are_read_as_they_are_written(value: int) -> None:
    written = length_bytes(value)
    assert read_length(written, 0) == (value, len(written))
    assert read_length(written[:-1], 0) is None


def test_a_length_of_five_bytes_is_none() -> None:
    with pytest.raises(ValueError, match="four"):
        read_length(b"\xff\xff\xff\xff\x01", 0)


@pytest.mark.parametrize("version", [V311, V5])
def test_a_publish_says_all_of_itself(version: int) -> None:
    made = publish(STATUS, b"payload", version=version, packet_id=5, retain=True, dup=True)
    found = whole(Stream.UPSTREAM, made, version)
    assert (found.topic, found.kind, found.packet_id, found.payload) == (STATUS, "status", 5, b"payload")
    assert (found.qos, found.dup, found.retain, found.size) == (1, True, True, len(made))
    bare = whole(Stream.UPSTREAM, publish(STATUS, b"", version=version), version)
    assert (bare.packet_id, bare.qos, bare.dup, bare.retain, bare.payload) == (None, 0, False, False, b"")


def test_properties_are_no_payload() -> None:
    body = (
        len(STATUS).to_bytes(2, "big")
        + STATUS.encode()
        + b"\x00\x07"
        + b"\x05\x02\x00\x00\x00\x3c"
        + b"payload"
    )
    found = whole(Stream.UPSTREAM, bytes([0x32, len(body)]) + body, V5)
    assert (found.packet_id, found.payload) == (7, b"payload")


@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        (topics.update("t", "c"), "command"), (topics.cancel("t", "c"), "cancel"), (topics.replies("t", "c"), "reply"),
        (topics.birth("t", "c"), "birth"), (topics.status("t", "c"), "status"), ("elsewhere", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_the_kind_is_the_topic_s(topic: str, kind: str) -> None:
    assert whole(Stream.DOWNSTREAM, publish(topic, b"x"), V311).kind == kind


def test_a_puback_is_of_the_kind_of_what_it_acknowledges() -> None:
    dialogue = Dialogue()
    dialogue.feed(Stream.UPSTREAM, CONNECT)
    dialogue.feed(Stream.DOWNSTREAM, CONNACK + command(5))
    dialogue.feed(Stream.UPSTREAM, command(5, topic=STATUS))
    (up,) = dialogue.feed(Stream.UPSTREAM, puback(5))
    (down,) = dialogue.feed(Stream.DOWNSTREAM, puback(5))
    (unknown,) = dialogue.feed(Stream.DOWNSTREAM, puback(6))
    assert [one.kind for one in (up, down, unknown) if isinstance(one, Packet)] == [
        "command",
        "status",
        "other",
    ]


def test_the_version_is_what_the_client_asks_for() -> None:
    for begin, version in ((CONNECT, V311), (CONNECT_5, V5)):
        dialogue = Dialogue()
        assert dialogue.version is None
        dialogue.feed(Stream.UPSTREAM, begin)
        assert dialogue.version == version


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\r\n", b"1", b"\x10\x14\x00\x04NOPE", b"\x10\xff\xff\xff\xff", b"\x00"]
)
def test_what_does_not_begin_as_mqtt_is_none(begin: bytes) -> None:
    assert is_connect(begin) is False
    dialogue = Dialogue()
    assert dialogue.feed(Stream.UPSTREAM, begin) == [begin]
    assert dialogue.feed(Stream.DOWNSTREAM, CONNACK) == [CONNACK]


def test_a_server_that_speaks_first_is_no_broker() -> None:
    dialogue = Dialogue()
    assert dialogue.feed(Stream.DOWNSTREAM, CONNACK) == [CONNACK]
    assert dialogue.feed(Stream.UPSTREAM, CONNECT) == [CONNECT]


@pytest.mark.parametrize(
    "broken", [b"\x00\x00", b"\x36\x05abcde", b"\x41\x02\x00\x01", b"\x30\xff\xff\xff\xff\x01", b"\x40\x01\x00", b"\x32\x02\x00\x09"]
)  # fmt: skip
def test_what_stops_to_be_mqtt_passes_from_there_on_one_way_only(broken: bytes) -> None:
    dialogue = Dialogue()
    found = dialogue.feed(Stream.UPSTREAM, CONNECT + PINGREQ + broken + PINGREQ)
    assert [type(one) for one in found] == [Packet, Packet, bytes]
    assert found[2] == broken + PINGREQ
    (other,) = dialogue.feed(Stream.DOWNSTREAM, CONNACK)
    assert isinstance(other, Packet)


def test_what_is_longer_than_any_packet_of_ours_is_not_collected() -> None:
    dialogue = Dialogue()
    dialogue.feed(Stream.UPSTREAM, CONNECT)
    head = b"\x30" + length_bytes(MAX_PACKET_BYTES + 1) + b"\x00\x01t"
    assert dialogue.feed(Stream.UPSTREAM, head) == [head]


@pytest.mark.parametrize("wrong", [b"", PINGREQ + PINGREQ, PINGREQ[:1], b"\x00\x00"])
def test_exactly_one_packet_is_one(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="packet"):
        whole(Stream.UPSTREAM, wrong, V311)


def test_again_marks_the_copy_where_qos_knows_of_that() -> None:
    marked = whole(Stream.DOWNSTREAM, command(3), V311).again()
    assert (marked.dup, marked.data[1:], marked.data[0]) == (True, command(3)[1:], 0x3A)
    bare = whole(Stream.DOWNSTREAM, publish(STATUS, b"x"), V311)
    assert bare.again() is bare
