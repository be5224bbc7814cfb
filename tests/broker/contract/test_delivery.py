from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import AbstractAsyncContextManager

import pytest

from reference.pki import SERVICE_NAME
from reference.protocol.topics import service_subscriptions
from reference.support.mqtt import (
    Connected,
    Disconnected,
    LinkError,
    Message,
    MqttLink,
    RefusedError,
    TlsFiles,
)
from tests.broker import raw
from tests.broker.certificates import made
from tests.broker.conftest import Receive, Stand

COUNT = iter(range(10_000))


class Pair:
    """A device that no other test has used, and its topics."""

    def __init__(self, stand: Stand) -> None:
        self.client = f"c{next(COUNT)}"
        self.name = f"acme.{self.client}"
        self.files = stand.device("acme", self.client)
        self.mine = f"tenants/acme/clients/{self.client}"
        self.command = f"{self.mine}/commands/update"
        self.status = f"{self.mine}/status"
        self.filters = [self.command]


@pytest.fixture
def pair(any_stand: Stand) -> Pair:
    return Pair(any_stand)


def service_link(stand: Stand, topics: tuple[str, ...] = ()) -> AbstractAsyncContextManager[MqttLink]:
    return stand.link(SERVICE_NAME, stand.ca.issue_service(), topics)


async def settled(device: MqttLink, service: MqttLink, pair: Pair, receive: Receive) -> None:
    """Once a round trip has worked both ways the rights are there (a moment after the first connection)."""
    async with asyncio.timeout(5):
        while True:
            try:
                await device.publish(pair.status, b"settle", timeout_s=1)
                await asyncio.wait_for(receive(service), 0.2)
                break
            except (RefusedError, TimeoutError):
                continue
    while not service.events.empty():
        service.events.get_nowait()


async def test_messages_go_both_ways(any_stand: Stand, pair: Pair, receive: Receive) -> None:
    async with (
        service_link(any_stand, service_subscriptions()) as service,
        any_stand.link(pair.name, pair.files, pair.filters) as device,
    ):
        await settled(device, service, pair, receive)
        await service.publish(pair.command, b"go")
        got = await receive(device)
        assert (got.topic, got.payload, got.retained) == (pair.command, b"go", False)
        await device.publish(pair.status, b"gone")
        assert (await receive(service)).payload == b"gone"


async def test_a_clean_session_gets_nothing_later(any_stand: Stand, pair: Pair, receive: Receive) -> None:
    async with service_link(any_stand, service_subscriptions()) as service:
        async with any_stand.link(pair.name, pair.files, pair.filters) as device:
            await settled(device, service, pair, receive)
        await service.publish(pair.command, b"missed")
        async with any_stand.link(pair.name, pair.files, pair.filters) as device:
            await service.publish(pair.command, b"live")
            assert (await receive(device)).payload == b"live"


async def test_lasting_sessions_keep_what_comes_in_order(
    any_stand: Stand, pair: Pair, receive: Receive
) -> None:
    if not any_stand.can.lasting_sessions:
        packet = raw.connect(pair.name, clean=False)
        tls = raw.context(pair.files, pair.files)
        assert await asyncio.to_thread(raw.answer, any_stand.port, tls, packet) == raw.NOT_AUTHORIZED
        return
    async with service_link(any_stand, service_subscriptions()) as service:
        async with any_stand.link(pair.name, pair.files, pair.filters, session_expiry_s=60) as device:
            await settled(device, service, pair, receive)
        for number in range(50):
            await service.publish(pair.command, b"%d" % number)
        async with any_stand.link(pair.name, pair.files, pair.filters, session_expiry_s=60) as device:
            got = [(await receive(device)).payload for _ in range(50)]
            assert got == [b"%d" % number for number in range(50)]
            await service.publish(pair.command, b"live")
            assert (await receive(device)).payload == b"live"


async def test_what_was_not_acknowledged_comes_again(any_stand: Stand, pair: Pair, receive: Receive) -> None:
    expiry = 60 if any_stand.can.lasting_sessions else 0
    async with service_link(any_stand, service_subscriptions()) as service:
        async with any_stand.link(pair.name, pair.files, pair.filters, session_expiry_s=expiry) as device:
            await settled(device, service, pair, receive)
            await service.publish(pair.command, b"one")
            await service.publish(pair.command, b"two")
            first = await asyncio.wait_for(device.events.get(), 5)
            second = await asyncio.wait_for(device.events.get(), 5)
            assert isinstance(first, Message)
            assert isinstance(second, Message)
            second.ack()
            await device.publish(
                pair.status, b"?"
            )  # the acknowledgement has left before its confirmation came
        async with any_stand.link(pair.name, pair.files, pair.filters, session_expiry_s=expiry) as device:
            await service.publish(pair.command, b"three")
            got = (await receive(device)).payload
            assert got == (b"one" if any_stand.can.redelivers else b"three")


async def test_an_expired_message_is_not_delivered(any_stand: Stand, pair: Pair, receive: Receive) -> None:
    if not any_stand.can.expiry:
        assert any_stand.can.mqtt_version == "3.1.1", "which has no word for it"
        return
    async with service_link(any_stand, service_subscriptions()) as service:
        async with any_stand.link(pair.name, pair.files, pair.filters, session_expiry_s=60) as device:
            await settled(device, service, pair, receive)
        await service.publish(pair.command, b"short", expiry_s=1)
        await service.publish(pair.command, b"long", expiry_s=600)
        await asyncio.sleep(2.1)  # the broker counts whole seconds; there is nothing to poll for
        async with any_stand.link(pair.name, pair.files, pair.filters, session_expiry_s=60) as device:
            got = await receive(device)
            assert got.payload == b"long"
            assert got.expiry_s is not None
            assert 590 <= got.expiry_s < 600, "what is left of it"


async def test_properties_travel_with_a_message(any_stand: Stand, pair: Pair, receive: Receive) -> None:
    async with (
        service_link(any_stand, service_subscriptions()) as service,
        any_stand.link(pair.name, pair.files, pair.filters) as device,
    ):
        await settled(device, service, pair, receive)
        await service.publish(
            pair.command, b"x", expiry_s=60, correlation=b"order-1", content_type="text/plain"
        )
        got = await receive(device)
        found = (got.correlation, got.content_type)
        assert found == ((b"order-1", "text/plain") if any_stand.can.properties else (None, None))


async def test_a_message_that_is_not_delivered_is_said_to_be_so(
    any_stand: Stand, pair: Pair, receive: Receive
) -> None:
    async with any_stand.link(pair.name, pair.files, pair.filters) as device:
        foreign = "tenants/acme/clients/another/status"
        if not any_stand.can.reason_codes:
            await device.publish(foreign, b"x")
            return
        with pytest.raises(RefusedError, match="Not authorized") as caught:
            await device.publish(foreign, b"x")
        assert caught.value.code == 0x87


def _break(peer: socket.socket) -> None:
    """Close without a DISCONNECT."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_last_will_is_published_within_its_rights(
    any_stand: Stand, pair: Pair, receive: Receive, allowed: bool
) -> None:
    topic = pair.status if allowed else "tenants/acme/clients/another/status"
    packet = raw.connect(pair.name, will=(topic, "gone"))
    tls = raw.context(pair.files, pair.files)
    if not any_stand.can.last_will:
        got = await asyncio.to_thread(raw.answer, any_stand.port, tls, packet)
        assert got == raw.NOT_AUTHORIZED
        return

    def live_and_die() -> None:
        peer = raw.open_tls(any_stand.port, tls)
        peer.sendall(packet)
        if peer.recv(4) == raw.ACCEPTED:
            _break(peer)

    async with service_link(any_stand, service_subscriptions()) as service:
        async with any_stand.link(pair.name, pair.files) as device:
            await settled(device, service, pair, receive)
        await asyncio.to_thread(live_and_die)
        async with any_stand.link(pair.name, pair.files) as device:
            await device.publish(pair.status, b"back")
        assert (await receive(service)).payload == (b"gone" if allowed else b"back")


async def test_nothing_is_retained(any_stand: Stand, pair: Pair, receive: Receive) -> None:
    assert not any_stand.can.retained

    def say() -> None:
        with raw.open_tls(any_stand.port, raw.context(pair.files, pair.files)) as peer:
            peer.sendall(raw.connect(pair.name))
            assert peer.recv(4) == raw.ACCEPTED
            peer.sendall(raw.publish(pair.status, b"kept?", retain=True))
            peer.sendall(b"\xe0\x00")
            raw.receive(peer)

    async with (
        service_link(any_stand, service_subscriptions()) as service,
        any_stand.link(pair.name, pair.files) as device,
    ):
        await settled(device, service, pair, receive)
    await asyncio.to_thread(say)
    async with (
        service_link(any_stand, service_subscriptions()) as service,
        any_stand.link(pair.name, pair.files) as device,
    ):
        await device.publish(pair.status, b"fresh")
        assert (await receive(service)).payload == b"fresh"


async def test_a_new_connection_of_the_same_device_takes_over(
    any_stand: Stand, pair: Pair, receive: Receive
) -> None:
    async with (
        service_link(any_stand, service_subscriptions()) as service,
        any_stand.link(pair.name, pair.files, pair.filters) as older,
    ):
        await settled(older, service, pair, receive)
        async with any_stand.link(pair.name, pair.files, pair.filters) as newer:
            assert isinstance(await asyncio.wait_for(older.events.get(), 5), Disconnected)
            await older.stop()
            await service.publish(pair.command, b"go")
            assert (await receive(newer)).payload == b"go"


async def test_the_certificate_is_renewed_without_a_loss(
    any_stand: Stand, pair: Pair, receive: Receive
) -> None:
    folder = any_stand.log.parent
    renewed = made(any_stand.ca, folder / pair.client, pair.name, "acme")
    bad = made(any_stand.ca, folder / f"{pair.client}-bad", pair.name, "acme", self_signed=True)
    expiry = 60 if any_stand.can.lasting_sessions else 0
    async with (
        service_link(any_stand, service_subscriptions()) as service,
        any_stand.link(pair.name, pair.files, pair.filters, session_expiry_s=expiry) as device,
    ):
        await settled(device, service, pair, receive)
        with pytest.raises(LinkError):
            await device.renew(TlsFiles(bad.ca, bad.cert, bad.key))
        assert device.connected, "the old connection was not touched"
        assert device.events.empty()
        if any_stand.can.lasting_sessions:
            await service.publish(pair.command, b"in flight")
            assert isinstance(await asyncio.wait_for(device.events.get(), 5), Message)  # no ack
        await device.renew(TlsFiles(renewed.ca, renewed.cert, renewed.key))
        assert isinstance(await asyncio.wait_for(device.events.get(), 5), Disconnected)
        assert await asyncio.wait_for(device.events.get(), 5) == Connected()
        if any_stand.can.lasting_sessions:
            assert (await receive(device)).payload == b"in flight"
        await service.publish(pair.command, b"after")
        assert (await receive(device)).payload == b"after"


async def test_rights_that_are_given_meanwhile_lose_nobody_s_messages(
    any_stand: Stand, pair: Pair, receive: Receive
) -> None:
    stop = asyncio.Event()

    async def come() -> int:
        come = 0
        while not stop.is_set():
            other = Pair(any_stand)
            async with any_stand.link(other.name, other.files, other.filters):
                come += 1
        return come

    async with (
        service_link(any_stand, service_subscriptions()) as service,
        any_stand.link(pair.name, pair.files, pair.filters) as device,
    ):
        await settled(device, service, pair, receive)
        others = [asyncio.create_task(come()) for _ in range(3)]
        try:
            for number in range(40):
                await service.publish(pair.command, b"%d" % number)
                assert (await receive(device)).payload == b"%d" % number
                await device.publish(pair.status, b"%d" % number)
                assert (await receive(service)).payload == b"%d" % number
        finally:
            stop.set()
            came = await asyncio.gather(*others)
        assert sum(came) > 3


async def test_a_packet_beyond_the_bound_ends_its_connection_alone(
    any_stand: Stand, pair: Pair, receive: Receive
) -> None:
    async with service_link(any_stand, service_subscriptions()) as service:
        other = Pair(any_stand)
        async with any_stand.link(pair.name, pair.files, pair.filters) as device:
            await settled(device, service, pair, receive)
            async with any_stand.link(other.name, other.files) as loud:
                with pytest.raises(Exception, match=r"gone|refuse"):
                    await loud.publish(other.status, b"x" * 300_000)
            await service.publish(pair.command, b"go")
            assert (await receive(device)).payload == b"go"
            assert device.connected
