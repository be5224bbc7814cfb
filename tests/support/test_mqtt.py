from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.support.mqtt import (
    Backoff,
    Connected,
    Disconnected,
    Event,
    Message,
    MqttLink,
    NotConnectedError,
    Protocol,
    PublishTimeoutError,
    TlsFiles,
    TooManyInFlightError,
)
from tests.support.peer import Peer


@asynccontextmanager
async def linked(peer: Peer, *, max_in_flight: int = 10, max_waiting: int = 10) -> AsyncIterator[MqttLink]:
    link = MqttLink(
        "127.0.0.1",
        peer.port,
        "me",
        None,
        subscriptions=["mine/#"],
        backoff=Backoff(0.01, 0.05),
        max_in_flight=max_in_flight,
        max_waiting=max_waiting,
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


async def test_no_puback_leaves_before_ack_is_called() -> None:
    async with Peer() as peer, linked(peer) as link:
        assert await event(link) == Connected()
        wire = await peer.until("SUBSCRIBE")
        wire.send("mine/x", b"hello", 7)
        got = await message(link)
        assert (got.topic, got.payload, got.retained) == ("mine/x", b"hello", False)
        # A whole round trip later: an acknowledgement given at receipt would have come first.
        await link.publish("theirs", b"?")
        assert wire.kinds() == [1, 8, 3]
        got.ack()
        await peer.until("PUBACK")
        assert wire.packets[-1].body == b"\x00\x07"


async def test_an_ack_for_an_older_connection_is_not_sent_on_the_new_one() -> None:
    async with Peer() as peer, linked(peer) as link:
        assert await event(link) == Connected()
        first = await peer.until("SUBSCRIBE")
        first.send("mine/x", b"hello", 7)
        got = await message(link)
        first.writer.transport.abort()
        assert isinstance(await event(link), Disconnected)
        assert await event(link) == Connected()
        got.ack()
        await link.publish("theirs", b"?")
        assert peer.connections[-1] is not first
        assert peer.connections[-1].kinds() == [1, 8, 3], "connects, subscribes again, publishes; no PUBACK"


async def test_connections_ask_for_a_clean_session() -> None:
    async with Peer() as peer, linked(peer):
        wire = await peer.until("CONNECT")
        assert wire.packets[0].body[:8] == b"\x00\x04MQTT\x04\x02"


async def test_publish_returns_at_the_puback_and_not_before() -> None:
    async with Peer(puback=False) as peer, linked(peer, max_in_flight=2) as link:
        assert await event(link) == Connected()
        with pytest.raises(PublishTimeoutError):
            await link.publish("theirs", b"1", timeout_s=0.05)
        waiting = asyncio.create_task(link.publish("theirs", b"2"))
        wire = await peer.until("PUBLISH", 2)
        assert not waiting.done()
        with pytest.raises(TooManyInFlightError):
            await link.publish("theirs", b"3")
        wire.writer.write(bytes([0x40, 2]) + wire.packets[-1].body[8:10])
        await asyncio.wait_for(waiting, 5)


async def test_publish_fails_at_once_when_the_connection_breaks() -> None:
    async with Peer(puback=False) as peer, linked(peer) as link:
        assert await event(link) == Connected()
        waiting = asyncio.create_task(link.publish("theirs", b"1", timeout_s=60))
        wire = await peer.until("PUBLISH")
        wire.writer.transport.abort()
        with pytest.raises(NotConnectedError):
            await asyncio.wait_for(waiting, 5)


async def test_without_a_connection_nothing_is_published_or_kept() -> None:
    async with Peer(connack=5) as peer, linked(peer) as link:
        await peer.until("CONNECT")
        assert not link.connected
        with pytest.raises(NotConnectedError, match="no connection"):
            await link.publish("theirs", b"1")
        peer.connack = 0
        assert await event(link) == Connected()
        await link.publish("theirs", b"2")
        assert [p.body[-1:] for p in peer.connections[-1].packets if p.kind == 3] == [b"2"]


async def test_it_comes_back_when_the_broker_does() -> None:
    async with Peer() as peer, linked(peer) as link:
        assert await event(link) == Connected()
        await peer.close()
        assert isinstance(await event(link), Disconnected)
        assert not link.connected
        await peer.listen()
        assert await event(link) == Connected()
        assert link.connected


async def test_why_it_is_down_is_logged_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def said() -> list[str]:
        return [vars(r)["why"] for r in caplog.records if "why" in vars(r)]

    async with Peer(connack=5) as peer, linked(peer) as link:
        async with asyncio.timeout(5):
            while len(peer.connections) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(said()) == 1
        assert "Not authorized" in said()[0]
        await peer.close()
        async with asyncio.timeout(5):
            while len(said()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "refused" in said()[1]
        assert not link.connected


async def test_a_refused_subscription_is_no_connection() -> None:
    async with Peer(suback=0x80) as peer, linked(peer) as link:
        await peer.until("DISCONNECT", connection=0)
        assert not link.connected
        assert link.events.empty()


async def test_a_reader_that_is_too_slow_gets_no_more_than_the_bound() -> None:
    async with Peer() as peer, linked(peer, max_waiting=3) as link:
        assert await event(link) == Connected()
        wire = await peer.until("SUBSCRIBE")
        for mid in range(1, 6):
            wire.send("mine/x", str(mid).encode(), mid)
        await link.publish("theirs", b"?")  # its confirmation comes after them
        assert [(await message(link)).payload for _ in range(3)] == [b"1", b"2", b"3"]
        assert link.events.empty()
        wire.send("mine/x", b"6", 6)
        assert (await message(link)).payload == b"6"


@pytest.mark.parametrize("topic", ["", "a/+/b", "#"])
async def test_a_topic_that_is_none_is_the_caller_s_error(topic: str) -> None:
    async with Peer() as peer, linked(peer) as link:
        assert await event(link) == Connected()
        with pytest.raises(InputError):
            await link.publish(topic, b"")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_stop_is_quick_says_goodbye_and_leaves_nothing_behind() -> None:
    threads, descriptors = threading.active_count(), _descriptors()
    async with Peer() as peer:
        for _ in range(5):
            async with linked(peer) as link:
                assert await event(link) == Connected()
                began = time.monotonic()
            assert time.monotonic() - began < 0.9, "no waiting for a turn of paho's loop"
            assert isinstance(link.events.get_nowait(), Disconnected)
            await peer.until("DISCONNECT")
    async with asyncio.timeout(2):  # a thread that has said that it is done may be on its way out still
        while threading.active_count() != threads:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert _descriptors() <= descriptors + 2, "no socket per connection is left open"


async def test_stopping_while_it_cannot_connect() -> None:
    async with Peer() as peer:
        await peer.close()
        async with linked(peer):
            pass
    link = MqttLink("127.0.0.1", peer.port, "me", None)
    await link.stop()


def test_versions_are_named_as_in_configuration() -> None:
    assert Protocol("3.1.1") is Protocol.V311
    assert Protocol("5") is Protocol.V5


async def test_unusable_tls_files_are_said_at_the_start(tmp_path: Path) -> None:
    rubbish = tmp_path / "x"
    rubbish.write_text("rubbish")
    for path in (tmp_path / "absent", rubbish):
        link = MqttLink("127.0.0.1", 1, "me", TlsFiles(path, path, path))
        with pytest.raises(InputError, match="TLS files"):
            await link.start()


def test_backoff_doubles_is_capped_and_spread() -> None:
    backoff = Backoff(0.5, 8.0)
    for failures, full in [(1, 0.5), (2, 1.0), (4, 4.0), (5, 8.0), (1000, 8.0)]:
        waits = [backoff.wait_s(failures) for _ in range(50)]
        assert full / 2 <= min(waits) < max(waits) <= full
