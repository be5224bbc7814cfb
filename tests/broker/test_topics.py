from __future__ import annotations

import asyncio

import pytest

from reference.support.mqtt import MqttLink
from tests.broker import raw
from tests.broker.conftest import Receive, Stand

D1 = "tenants/acme/clients/d1"
D2 = "tenants/acme/clients/d2"


async def test_command_and_status_go_both_ways(stand: Stand, service: MqttLink, receive: Receive) -> None:
    async with stand.link("acme.d1", stand.device(), [f"{D1}/commands/#", f"{D1}/replies"]) as device:
        for leaf in ("commands/update", "commands/cancel", "replies"):
            await service.publish(f"{D1}/{leaf}", leaf.encode())
            message = await receive(device)
            assert (message.topic, message.payload, message.retained) == (
                f"{D1}/{leaf}",
                leaf.encode(),
                False,
            )
        for leaf in ("birth", "status"):
            await device.publish(f"{D1}/{leaf}", leaf.encode())
            message = await receive(service)
            assert (message.topic, message.payload) == (f"{D1}/{leaf}", leaf.encode())


async def test_a_command_reaches_only_its_device(stand: Stand, service: MqttLink, receive: Receive) -> None:
    async with (
        stand.link("acme.d1", stand.device(), [f"{D1}/commands/#"]) as one,
        stand.link("acme.d2", stand.device("acme", "d2"), [f"{D2}/commands/#"]) as two,
    ):
        await service.publish(f"{D1}/commands/update", b"for d1")
        await service.publish(f"{D2}/commands/update", b"for d2")
        assert (await receive(two)).payload == b"for d2"
        assert (await receive(one)).payload == b"for d1"
        assert two.events.empty()


@pytest.mark.parametrize(
    "topic",
    [
        f"{D2}/birth",
        f"{D2}/commands/update",
        f"{D1}/commands/update",
        "tenants/other/clients/d1/status",
        "elsewhere",
    ],
)
async def test_a_forbidden_publish_delivers_nothing(
    stand: Stand, service: MqttLink, receive: Receive, topic: str
) -> None:
    async with (
        stand.link("acme.d2", stand.device("acme", "d2"), [f"{D2}/commands/#"]) as victim,
        stand.link("acme.d1", stand.device(), [f"{D1}/commands/#"]) as device,
    ):
        await device.publish(topic, b"forbidden")
        await device.publish(f"{D1}/birth", b"allowed")
        assert (await receive(service)).payload == b"allowed", "what came first was not delivered"
        await service.publish(f"{D2}/commands/update", b"after")
        assert (await receive(victim)).payload == b"after"
        await service.publish(f"{D1}/commands/update", b"after")
        assert (await receive(device)).payload == b"after"


@pytest.mark.parametrize(
    "topic_filter", [f"{D2}/commands/#", "tenants/+/clients/+/commands/#", "#", f"{D1}/#"]
)
async def test_a_forbidden_subscription_is_refused_and_the_link_says_so(
    stand: Stand, topic_filter: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand.link("acme.d1", stand.device(), [topic_filter], connects=False) as device:
        async with asyncio.timeout(5):
            while "refuses a subscription" not in str([vars(record) for record in caplog.records]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not device.connected
        assert device.events.empty()


async def test_nothing_is_retained(stand: Stand, service: MqttLink, receive: Receive) -> None:
    mine = stand.device()

    def say() -> None:
        with raw.open_tls(stand.port, raw.context(mine, mine)) as peer:
            peer.sendall(raw.connect("acme.d1"))
            assert peer.recv(4) == raw.ACCEPTED
            peer.sendall(raw.publish(f"{D1}/birth", b"kept?", retain=True))
            peer.sendall(b"\xe0\x00")
            raw.receive(peer)

    await asyncio.to_thread(say)
    message = await receive(service)
    assert (message.payload, message.retained) == (b"kept?", False)
    await service.stop()
    files = stand.ca.issue_service()
    async with (
        stand.link("blackstart-service", files, ["tenants/+/clients/+/birth"]) as later,
        stand.link("acme.d1", mine, []) as device,
    ):
        await device.publish(f"{D1}/birth", b"fresh")
        assert (await receive(later)).payload == b"fresh"


async def test_no_message_is_lost_while_others_come_and_go(
    stand: Stand, service: MqttLink, receive: Receive
) -> None:
    """amqtt's own filtering loses messages when somebody subscribes in the middle of a broadcast."""
    stop = asyncio.Event()

    async def come_and_go(number: int) -> None:
        name, mine = f"n{number}", stand.device("acme", f"n{number}")
        while not stop.is_set():
            async with stand.link(f"acme.{name}", mine, [f"tenants/acme/clients/{name}/commands/#"]):
                pass

    others = [asyncio.create_task(come_and_go(number)) for number in range(4)]
    try:
        async with stand.link("acme.d1", stand.device(), [f"{D1}/commands/#"]) as device:
            for number in range(150):
                await service.publish(f"{D1}/commands/update", str(number).encode())
                assert (await receive(device)).payload == str(number).encode()
    finally:
        stop.set()
        await asyncio.gather(*others)


async def test_a_device_that_is_gone_gets_nothing_later(
    stand: Stand, service: MqttLink, receive: Receive
) -> None:
    mine = stand.device()
    async with stand.link("acme.d1", mine, [f"{D1}/commands/#"]):
        pass
    await service.publish(f"{D1}/commands/update", b"missed")
    async with stand.link("acme.d1", mine, [f"{D1}/commands/#"]) as device:
        await service.publish(f"{D1}/commands/update", b"live")
        assert (await receive(device)).payload == b"live"
