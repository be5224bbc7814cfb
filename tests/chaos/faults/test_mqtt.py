"""Each fault on MQTT packets does what it says, shows it, and shows nothing where nobody was hurt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.faults import all_faults
from chaos.faults._mqtt import Kind, ToxicMqttFault, Which, streams
from chaos.faults.base import Family, Fault, FaultError
from chaos.proxies.mqtt import MqttProxy, Stream
from reference.broker.capabilities import Kind as Broker
from reference.core.errors import InputError
from reference.pki.authority import DevelopmentCA
from reference.stack import HOST, Device, Stack
from reference.stack.box import ProcessBox
from reference.support.mqtt import Disconnected, PublishTimeoutError
from tests.broker.conftest import KINDS, Stand
from tests.chaos.faults.parts_ground import StandIn, answers, fault, order, stand_in
from tests.chaos.proxies.mqtt_stand import (
    CLIENT,
    COMMAND,
    REPLY,
    STATUS,
    TENANT,
    Way,
    broker,
    until,
    way_to,
)


@dataclass
class Place:
    """A device's link to a real broker, and what faults stand on."""

    way: Way
    ground: StandIn

    def fault(self, name: str, given: Mapping[str, object] | None = None) -> Fault:
        return fault(self.ground, name, given)


@pytest.fixture(scope="module", params=KINDS)
def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with broker(Broker(request.param), tmp_path_factory.mktemp("broker")) as found:
        yield found


@pytest.fixture
async def place(stand: Stand, tmp_path: Path) -> AsyncIterator[Place]:
    stack = Stack(tmp_path, tenant=TENANT)
    stack.mqtt_version = stand.version.value
    ground = stand_in(tmp_path, stack, Device(TENANT, CLIENT, tmp_path / CLIENT, 0, ProcessBox))
    async with way_to(stand) as way:
        ground.ways[CLIENT] = way.way
        yield Place(way, ground)


MQTT = sorted(name for name, kind in all_faults().items() if kind.family is Family.MQTT)


def test_there_are_seven() -> None:
    assert MQTT == [
        "mqtt-delay", "mqtt-double", "mqtt-drop", "mqtt-half-open", "mqtt-reorder", "mqtt-stale-retained", "mqtt-takeover",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "packet", "expected"),
    [
        ("command", "publish", ["downstream"]), ("command", "puback", ["upstream"]),
        ("status", "publish", ["upstream"]), ("status", "puback", ["downstream"]),
        ("reply", "publish", ["downstream"]), ("birth", "publish", ["upstream"]),
        ("any", "publish", ["upstream", "downstream"]), ("cancel", "any", ["upstream", "downstream"]),
    ],
)  # fmt: skip
def test_a_kind_of_packet_goes_one_way(kind: Kind, packet: Which, expected: list[str]) -> None:
    assert [stream.value for stream in streams(kind, packet)] == expected


@pytest.mark.parametrize(
    ("name", "given", "key"),
    [
        ("mqtt-drop", {"kind": "everything"}, "with.kind"), ("mqtt-drop", {"share": "150%"}, "with.share"),
        ("mqtt-drop", {"count": -1}, "with.count"), ("mqtt-delay", {}, "with.delay"),
        ("mqtt-reorder", {"window": 0}, "with.window"), ("mqtt-half-open", {"kind": "command"}, "with.kind"),
        ("mqtt-stale-retained", {"at": "later"}, "with.at"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(tmp_path: Path, name: str, given: dict[str, object], key: str) -> None:
    with pytest.raises(InputError) as caught:
        fault(stand_in(tmp_path, Stack(tmp_path)), name, given)
    assert caught.value.where == key


async def test_drop(place: Place) -> None:
    dropping = place.fault("mqtt-drop", {"kind": "command", "count": 1})
    await dropping.begin()
    assert await dropping.fired() == ""
    await place.way.service.publish(COMMAND, b"lost")
    await until(lambda: place.way.way.toxics[0].hits == 1)
    await place.way.service.publish(REPLY, b"comes")
    assert (await place.way.heard(place.way.device)).payload == b"comes"
    assert await dropping.fired() == "d1: 1 packet dropped (PUBLISH, command)"
    assert isinstance(dropping, ToxicMqttFault)
    other = Device(TENANT, "d2", place.ground.folder / "d2", 0, ProcessBox)
    dropping.hurt.append((other, place.way.way, place.way.way.add_toxic(dropping.orders()[0])))
    assert await dropping.fired() == "", "the other device has lost nothing"
    await dropping.heal()
    await dropping.heal()
    dropping.hurt.pop()
    assert place.way.way.toxics == ()
    assert await dropping.fired() != "", "what has happened has happened"


async def test_drop_a_share_is_repeatable(place: Place) -> None:
    async def one() -> str:
        dropping = place.fault("mqtt-drop", {"kind": "status", "packet": "puback", "share": "50%"})
        await dropping.begin()
        (toxic,) = place.way.way.toxics
        before = place.way.told("acknowledged", to="device")
        for number in range(8):
            sent = asyncio.create_task(place.way.device.publish(STATUS, b"%d" % number))
            await until(
                lambda n=number: toxic.hits + place.way.told("acknowledged", to="device") - before == n + 1  # type: ignore[misc]
            )
            sent.cancel()
        await dropping.heal()
        return await dropping.fired()

    first = await one()
    assert first.startswith("d1: ")
    assert await one() == first


async def test_double(place: Place) -> None:
    doubling = place.fault("mqtt-double", {"kind": "status"})
    await doubling.begin()
    assert await doubling.fired() == ""
    await place.way.device.publish(STATUS, b"s")
    assert [(await place.way.heard(place.way.service)).payload for _ in range(2)] == [b"s", b"s"]
    assert await doubling.fired() == "d1: 1 packet doubled (PUBLISH, status)"
    await doubling.heal()


async def test_delay(place: Place) -> None:
    delaying = place.fault("mqtt-delay", {"kind": "command", "delay": "1h"})
    await delaying.begin()
    await place.way.service.publish(REPLY, b"early")
    assert (await place.way.heard(place.way.device)).payload == b"early"
    assert await delaying.fired() == ""
    await place.way.service.publish(COMMAND, b"late")
    await until(lambda: place.way.way.toxics[0].hits == 1)
    assert await delaying.fired() == "d1: 1 packet delayed (PUBLISH, command)"
    await delaying.heal()
    assert (await place.way.heard(place.way.device)).payload == b"late"


async def test_reorder(place: Place) -> None:
    reordering = place.fault("mqtt-reorder", {"kind": "status", "count": 1})
    await reordering.begin()
    first = asyncio.create_task(place.way.device.publish(STATUS, b"1"))
    await until(lambda: place.way.way.toxics[0].in_hand == 1)  # type: ignore[attr-defined]
    assert await reordering.fired() == ""
    await place.way.device.publish(STATUS, b"2")
    await first
    assert [(await place.way.heard(place.way.service)).payload for _ in range(2)] == [b"2", b"1"]
    assert await reordering.fired() == "d1: 1 packet overtaken (PUBLISH, status)"
    await reordering.heal()


async def test_half_open(place: Place) -> None:
    dead = place.fault("mqtt-half-open")
    await dead.begin()
    assert await dead.fired() == ""
    with pytest.raises(PublishTimeoutError):
        await place.way.device.publish(STATUS, b"lost", timeout_s=0.2)
    await until(lambda: place.way.way.toxics[0].hits == 1)
    assert await dead.fired() == "d1: 1 packet swallowed by a connection that stayed open"
    assert place.way.told("disconnected") == 0
    await dead.heal()
    await place.way.connected()
    await dead.heal()


@pytest.mark.parametrize("at", ["now", "subscribe"])
async def test_stale_retained(place: Place, at: str) -> None:
    stale = place.fault("mqtt-stale-retained", {"at": at})
    with pytest.raises(FaultError, match="no command yet"):
        await stale.begin()
    await stale.heal()
    for payload in (b"the first", b"another"):
        await place.way.service.publish(COMMAND, payload)
        await place.way.heard(place.way.device)
    stale = place.fault("mqtt-stale-retained", {"at": at})
    await stale.begin()
    if at == "subscribe":
        assert await stale.fired() == ""
        place.way.way.cut()
    message = await place.way.heard(place.way.device)
    assert (message.payload, message.retained, message.topic) == (b"the first", True, COMMAND)
    async with asyncio.timeout(5):
        while not (shown := await stale.fired()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert shown == "d1: the old command came 1 times, and was acknowledged 1 times"
    await stale.heal()
    await stale.heal()


async def test_takeover(place: Place) -> None:
    taking = place.fault("mqtt-takeover")
    assert await taking.fired() == ""
    await taking.begin()
    shown = await taking.fired()
    assert shown.startswith("d1 lost its connection after ")
    assert place.way.told("disconnected") == 1
    async with asyncio.timeout(5):
        while not isinstance(await place.way.device.events.get(), Disconnected):
            pass
    await place.way.connected()
    await place.way.service.publish(COMMAND, b"it is back")
    assert (await place.way.heard(place.way.device)).payload == b"it is back"
    await taking.heal()


async def test_takeover_from_nobody_shows_nothing(place: Place) -> None:
    await place.way.device.stop()
    await until(lambda: not place.way.way.sessions)
    taking = place.fault("mqtt-takeover")
    await taking.begin()
    assert await taking.fired() == ""


async def test_a_broker_that_is_not_loopback_is_not_touched(place: Place) -> None:
    await place.way.way.lead(place.way.way.listen, "192.0.2.1:8883")
    for name in ("mqtt-drop", "mqtt-takeover", "mqtt-half-open"):
        with pytest.raises(FaultError, match="not loopback"):
            await place.fault(name).begin()
    assert place.way.way.toxics == ()


async def test_an_agent_of_the_field_lives_through_all_of_it(tmp_path: Path) -> None:
    """A real service, broker and agent: an update is ordered while packets are lost, doubled, old, and the session goes."""
    proxy = MqttProxy(seed=1)
    stack = Stack(tmp_path)
    try:
        async with stack:
            versions = ("1.0.0", "2.0.0")
            await asyncio.gather(*(stack.publish(version) for version in versions))
            ca = DevelopmentCA.open_or_create(tmp_path / "ca")
            way = await proxy.way(
                "edge-1", upstream_host=HOST, upstream_port=stack.broker_port, server_files=ca.issue_server("broker"),
                client_files=ca.issue_device(stack.tenant, "edge-1"),
            )  # fmt: skip
            device = await stack.add_device("edge-1", settings={"broker": {"port": way.port}})
            ground = stand_in(tmp_path, stack, device)
            ground.ways["edge-1"] = way
            await stack.start_agent(device)
            async with stack.api() as ground.api:
                await order(ground, "1.0.0")
                faults = [
                    fault(ground, "mqtt-stale-retained"), fault(ground, "mqtt-takeover"),
                    fault(ground, "mqtt-drop", {"kind": "command", "count": 1}),
                    fault(ground, "mqtt-double", {"kind": "command"}),
                ]  # fmt: skip
                for one in faults:
                    await one.begin()
                await order(ground, "2.0.0")
                assert await answers(device) == "2.0.0"
                shown = [await one.fired() for one in faults]
                for one in faults:
                    await one.heal()
            assert all(shown), shown
    finally:
        await proxy.stop()
    assert {stream: way.counters.packets[stream] > 0 for stream in Stream} == dict.fromkeys(Stream, True)
