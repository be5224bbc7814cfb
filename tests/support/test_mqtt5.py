"""What the link says on the wire under MQTT 5, what it tells of a broker that stays away, and how it is renewed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reference.support import mqtt_connection
from reference.support.mqtt import (
    Backoff,
    Connected,
    Disconnected,
    Event,
    Message,
    MqttLink,
    Protocol,
    RefusedError,
    StaysDown,
)
from tests.support.peer import Peer


@asynccontextmanager
async def linked(
    peer: Peer,
    protocol: Protocol = Protocol.V5,
    *,
    session_expiry_s: int = 0,
    receive_maximum: int = 50,
    outage_s: float = 30.0,
) -> AsyncIterator[MqttLink]:
    link = MqttLink(
        "127.0.0.1",
        peer.port,
        "me",
        None,
        subscriptions=["mine/#"],
        backoff=Backoff(0.01, 0.05),
        protocol=protocol,
        session_expiry_s=session_expiry_s,
        receive_maximum=receive_maximum,
        outage_s=outage_s,
    )
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


async def event(link: MqttLink) -> Event:
    return await asyncio.wait_for(link.events.get(), 5)


async def message(link: MqttLink) -> Message:
    got = await event(link)
    assert isinstance(got, Message)
    return got


async def test_a_device_asks_for_a_session_that_lasts_and_bounds_what_comes_at_once() -> None:
    async with Peer(five=True) as peer, linked(peer, session_expiry_s=172_800):
        body = (await peer.until("CONNECT")).packets[0].body
        assert body[:8] == b"\x00\x04MQTT\x05\x00", "version 5, clean start is not set"
        assert b"\x11" + (172_800).to_bytes(4, "big") in body, "session expiry interval"
        assert b"\x21\x00\x32" in body, "receive maximum"


async def test_without_an_expiry_the_session_is_clean() -> None:
    async with Peer(five=True) as peer, linked(peer):
        body = (await peer.until("CONNECT")).packets[0].body
        assert body[:8] == b"\x00\x04MQTT\x05\x02"
        assert body[10:].startswith(b"\x03\x21\x00\x32"), "the receive maximum and nothing else"


async def test_a_message_says_its_expiry_correlation_and_type() -> None:
    async with Peer(five=True) as peer, linked(peer) as link:
        assert await event(link) == Connected()
        await link.publish(
            "theirs", b"x", expiry_s=600, correlation=b"order-1", content_type="application/json"
        )
        body = peer.connections[-1].packets[-1].body
        assert b"\x02" + (600).to_bytes(4, "big") in body
        assert b"\x09\x00\x07order-1" in body
        assert b"\x03\x00\x10application/json" in body
        await link.publish("theirs", b"x")
        assert peer.connections[-1].packets[-1].body.endswith(b"\x00x"), "no properties"


async def test_under_3_1_1_they_are_left_out() -> None:
    async with Peer() as peer, linked(peer, Protocol.V311, session_expiry_s=600) as link:
        assert await event(link) == Connected()
        assert peer.connections[-1].packets[0].body[:8] == b"\x00\x04MQTT\x04\x02", "and sessions are clean"
        await link.publish("t", b"x", expiry_s=600, correlation=b"order-1", content_type="application/json")
        assert peer.connections[-1].packets[-1].body == b"\x00\x01t\x00\x02x"


async def test_no_puback_leaves_before_ack_is_called() -> None:
    async with Peer(five=True) as peer, linked(peer) as link:
        assert await event(link) == Connected()
        wire = await peer.until("SUBSCRIBE")
        wire.send("mine/x", b"hello", 7, b"\x09\x00\x02id\x02\x00\x00\x00\x09")
        got = await message(link)
        assert (got.payload, got.correlation, got.expiry_s, got.content_type) == (b"hello", b"id", 9, None)
        await link.publish("theirs", b"?")
        assert wire.kinds() == [1, 8, 3]
        got.ack()
        await peer.until("PUBACK")
        assert wire.packets[-1].body[:2] == b"\x00\x07"


async def test_what_a_lasting_session_brings_before_the_suback_comes_after_connected() -> None:
    class Eager(Peer):
        def _answer(self, packet, writer) -> None:  # type: ignore[no-untyped-def]
            super()._answer(packet, writer)
            if packet.kind == 1:
                self.connections[-1].send("mine/x", b"kept", 3)

    async with Eager(five=True) as peer, linked(peer, session_expiry_s=60) as link:
        assert await event(link) == Connected()
        assert (await message(link)).payload == b"kept"


async def test_a_refused_message_is_an_error_with_the_broker_s_reason_code() -> None:
    async with Peer(five=True, reason=0x87) as peer, linked(peer) as link:
        assert await event(link) == Connected()
        with pytest.raises(RefusedError, match="Not authorized") as caught:
            await link.publish("theirs", b"x")
        assert caught.value.code == 0x87
        assert link.connected


async def test_a_refused_connection_is_told_with_its_reason() -> None:
    async with Peer(five=True, connack=0x87) as peer, linked(peer, outage_s=0.1) as link:
        down = await event(link)
        assert isinstance(down, StaysDown)
        assert "Not authorized" in down.reason


async def test_a_broker_that_stays_away_is_told_again_and_again_and_forgotten_when_it_is_back() -> None:
    async with Peer(five=True) as peer, linked(peer, outage_s=0.1) as link:
        assert await event(link) == Connected()
        assert link.outage is None
        await peer.close()
        assert isinstance(await event(link), Disconnected)
        first = await event(link)
        second = await event(link)
        assert isinstance(first, StaysDown)
        assert isinstance(second, StaysDown)
        assert 0.1 <= first.down_s < second.down_s / 1.9
        assert "refused" in second.reason
        assert link.outage is not None
        assert link.outage.down_s >= second.down_s
        await peer.listen()
        while await event(link) != Connected():
            pass
        assert link.outage is None


async def test_a_window_full_of_what_was_not_acknowledged_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt_connection, "STUCK_S", 0.2)
    async with Peer(five=True) as peer, linked(peer, receive_maximum=2, session_expiry_s=60) as link:
        assert await event(link) == Connected()
        wire = await peer.until("SUBSCRIBE")
        wire.send("mine/x", b"1", 1)
        wire.send("mine/x", b"2", 2)
        (await message(link)).ack()
        wire.send("mine/x", b"3", 3)
        await message(link)
        await message(link)
        gone = await event(link)
        assert isinstance(gone, Disconnected)
        assert "acknowledged" in gone.reason
        assert await event(link) == Connected()
