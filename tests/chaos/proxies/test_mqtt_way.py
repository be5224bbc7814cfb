"""The handle of one listener: tap, gate, packets of ours, cuts. Between two ends that say what they are told."""

from __future__ import annotations

import asyncio

import pytest

from chaos.proxies.mqtt import MqttProxy, PacketType, Stream, ToxicOrder
from chaos.proxies.mqtt.packets import publish
from reference.core.errors import InputError, ServiceError
from tests.chaos.proxies.mqtt_stand import (
    COMMAND,
    CONNACK,
    CONNECT,
    HOST,
    PINGREQ,
    REPLY,
    STATUS,
    SUBACK,
    command,
    puback,
    until,
    wire,
)

PINGRESP = b"\xd0\x00"

# ---- the tap


async def test_the_tap_tells_what_is_on_the_wire_in_order() -> None:
    async with wire() as w:
        await w.broker.send(command(1))
        await w.client.take(1)
        await w.client.send(puback(1), publish(STATUS, b"abc", packet_id=9, dup=True))
        await w.broker.take(2)
        w.client.writer.close()
        assert await w.broker.ended() == "end"
        await until(lambda: len(w.seen) == 6)
    assert [seen.event for seen in w.seen] == [
        "connect", "connected", "publish", "acknowledged", "publish", "disconnected",
    ]  # fmt: skip
    told = [seen.data for seen in w.seen]
    assert told[1] == {"code": 0}
    assert told[2] == {
        "to": "device", "kind": "command", "topic": COMMAND, "packet": 1, "qos": 1, "dup": False, "retain": False,
        "bytes": len(command(1)), "ours": None,
    }  # fmt: skip
    assert told[3] == {"to": "broker", "packet": 1}
    assert (told[4]["to"], told[4]["kind"], told[4]["dup"]) == ("broker", "status", True)
    assert told[5] == {"how": "device"}


@pytest.mark.parametrize(("who", "how"), [("client", "device"), ("broker", "broker")])
async def test_who_ended_it_is_told(who: str, how: str) -> None:
    async with wire() as w:
        (w.client if who == "client" else w.broker).writer.close()
        await until(lambda: not w.way.sessions)
        assert [seen.data["how"] for seen in w.seen if seen.event == "disconnected"] == [how]


async def test_the_tap_says_nothing_of_what_was_dropped() -> None:
    async with wire() as w:
        w.way.add_toxic(ToxicOrder(type="mqtt_drop", attributes={"count": 1}))
        await w.broker.send(command(1), command(2))
        assert await w.client.ids(1) == [2]
        assert [seen.data["packet"] for seen in w.seen if seen.event == "publish"] == [2]


async def test_counters_and_the_first_of_each_kind() -> None:
    async with wire() as w:
        await w.broker.send(command(1), command(2), command(3, topic=REPLY))
        await w.client.take(3)
        counters = w.way.counters
        assert counters.connections == 1
        assert counters.packets == {Stream.UPSTREAM: 1, Stream.DOWNSTREAM: 4}
        assert counters.bytes[Stream.DOWNSTREAM] == 4 + 2 * len(command(1)) + len(command(3, topic=REPLY))
        assert w.way.first == {"command": b"1", "reply": b"3"}


# ---- the gate


async def test_a_gate_holds_its_packet_and_all_behind_it_in_that_direction() -> None:
    async with wire() as w:
        gate = w.way.hold_kind("command", "device")
        await w.broker.send(command(1, topic=REPLY), command(2), PINGRESP)
        assert await w.client.ids(1) == [1]
        async with asyncio.timeout(5):
            await gate.reached.wait()
        await w.client.send(command(4, topic=STATUS))
        assert await w.broker.ids(1) == [4]
        assert gate.packet is not None
        assert gate.packet.packet_id == 2
        gate.release()
        assert [one.type for one in await w.client.take(2)] == [PacketType.PUBLISH, PacketType.PINGRESP]
        await w.broker.send(command(5))
        assert await w.client.ids(1) == [5]


async def test_the_nth() -> None:
    async with wire() as w:
        gate = w.way.hold(lambda packet: packet.type is PacketType.PUBLISH, nth=2)
        await w.broker.send(command(1), command(2))
        assert await w.client.ids(1) == [1]
        async with asyncio.timeout(5):
            await gate.reached.wait()
        gate.release()
        assert await w.client.ids(1) == [2]


async def test_a_gate_that_was_released_before_holds_nothing() -> None:
    async with wire() as w:
        gate = w.way.hold_kind("command", "device")
        gate.release()
        await w.broker.send(command(1))
        assert await w.client.ids(1) == [1]
        assert not gate.reached.is_set()


async def test_what_comes_in_force_while_a_packet_stands_still_is_done_to_it() -> None:
    async with wire() as w:
        gate = w.way.hold_kind("command", "device")
        await w.broker.send(command(1), command(2))
        async with asyncio.timeout(5):
            await gate.reached.wait()
        toxic = w.way.add_toxic(ToxicOrder(type="mqtt_drop", attributes={"count": 1}))
        gate.release()
        assert await w.client.ids(1) == [2]
        assert toxic.hits == 1


async def test_a_cut_while_a_packet_stands_still_loses_it() -> None:
    async with wire() as w:
        gate = w.way.hold_kind("command", "device")
        await w.broker.send(command(1))
        async with asyncio.timeout(5):
            await gate.reached.wait()
        assert w.way.cut() == 1
        assert await w.client.ended() == "end"
        gate.release()
        client, broker = await w.another()
        await broker.send(command(2))
        assert await client.ids(1) == [2]


@pytest.mark.parametrize("who", ["client", "broker"])
async def test_an_end_is_seen_while_a_packet_stands_still(who: str) -> None:
    async with wire() as w:
        gate = w.way.hold_kind("command", "device")
        await w.broker.send(command(1))
        async with asyncio.timeout(5):
            await gate.reached.wait()
        if who == "client":
            w.client.writer.close()
            await until(lambda: not w.way.sessions)
        else:
            w.broker.writer.close()
            gate.release()
            assert await w.client.ids(1) == [1]
            assert await w.client.ended() == "end"


# ---- packets of ours


async def test_an_injected_packet_comes_past_toxics_and_its_puback_is_kept_back() -> None:
    async with wire() as w:
        w.way.add_toxic(ToxicOrder(type="mqtt_drop"))
        told = w.way.inject_publish(COMMAND, b"old", retain=True)
        (packet,) = await w.client.take(1)
        assert (packet.payload, packet.retain, packet.topic) == (b"old", True, COMMAND)
        assert (told.sent, told.acknowledged) == (1, 0)
        assert packet.packet_id is not None
        await w.client.send(puback(packet.packet_id), PINGREQ)
        assert await w.broker.until_ping() == []
        assert told.acknowledged == 1
        assert [seen.data["ours"] for seen in w.seen if seen.event == "publish"] == [True]
        assert w.way.first == {}


async def test_an_injected_packet_of_one_s_own_making() -> None:
    async with wire() as w:
        told = w.way.inject(Stream.UPSTREAM, command(77, topic=STATUS))
        assert await w.broker.ids(1) == [77]
        await w.broker.send(puback(77), PINGRESP)
        assert [one.type for one in await w.client.take(1)] == [PacketType.PINGRESP]
        assert (told.sent, told.acknowledged) == (1, 1)
        with pytest.raises(ValueError, match="packet"):
            w.way.inject(Stream.UPSTREAM, b"nonsense")


async def test_a_retained_message_comes_after_each_subscription() -> None:
    async with wire() as w:
        told = w.way.retain(COMMAND, b"old")
        for _ in range(2):
            await w.broker.send(SUBACK)
            found = await w.client.take(2)
            assert [one.type for one in found] == [PacketType.SUBACK, PacketType.PUBLISH]
            assert (found[1].retain, found[1].payload) == (True, b"old")
        assert told.sent == 2
        w.way.forget_retained(COMMAND)
        w.way.forget_retained(COMMAND)
        await w.broker.send(SUBACK, PINGRESP)
        assert [one.type for one in await w.client.take(2)] == [PacketType.SUBACK, PacketType.PINGRESP]


async def test_nothing_is_injected_before_the_broker_has_said_yes() -> None:
    async with wire(greet=False) as w:
        assert w.way.inject_publish(COMMAND, b"x").sent == 0
        await w.client.send(CONNECT)
        await w.broker.take(1)
        assert w.way.inject_publish(COMMAND, b"x").sent == 0
        await w.broker.send(b"\x20\x02\x00\x05")
        await w.client.take(1)
        assert w.way.inject_publish(COMMAND, b"x").sent == 0
        await w.broker.send(CONNACK)
        await w.client.take(1)
        assert w.way.inject_publish(COMMAND, b"x").sent == 1


# ---- cuts


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_cut_is_seen_at_both_ends(how: str) -> None:
    async with wire() as w:
        assert w.way.cut("end" if how == "end" else "reset") == 1
        assert (await w.client.ended(), await w.broker.ended()) == (how, how)
        await until(lambda: not w.way.sessions)
        assert w.way.cut() == 0
        told = [seen.data["how"] for seen in w.seen if seen.event == "disconnected"]
        assert told == ["cut" if how == "end" else "reset"]


async def test_a_silent_cut_leaves_both_connected() -> None:
    async with wire() as w:
        assert w.way.cut("silent") == 1
        await w.client.send(PINGREQ)
        w.broker.writer.close()
        assert w.way.inject_publish(COMMAND, b"x").sent == 0
        client, broker = await w.another()
        await broker.send(command(1))
        assert await client.ids(1) == [1]
        assert len(w.way.sessions) == 2
        await w.way.disable()
        assert await w.client.ended() == "end"


async def test_disabled_it_refuses_and_enabled_it_is_where_it_was() -> None:
    async with wire() as w:
        port = w.way.port
        await w.way.disable()
        await w.way.disable()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, port)
        await w.way.enable()
        await w.way.enable()
        assert w.way.port == port
        client, broker = await w.another()
        await broker.send(command(1))
        assert await client.ids(1) == [1]


# ---- the proxy


async def test_ways_have_names_of_their_own_on_this_machine_only() -> None:
    proxy = MqttProxy()
    try:
        way = await proxy.way("a", upstream_host=HOST, upstream_port=9)
        with pytest.raises(InputError, match="that name"):
            await proxy.way("a", upstream_host=HOST, upstream_port=9)
        with pytest.raises(InputError, match="not loopback"):
            await proxy.way("b", upstream_host="192.0.2.1", upstream_port=9)
        with pytest.raises(ServiceError, match="cannot listen"):
            await proxy.way("b", upstream_host=HOST, upstream_port=9, port=way.port)
    finally:
        await proxy.stop()
        await proxy.stop()


async def test_a_broker_that_is_not_there_ends_the_connection() -> None:
    async with wire() as w:
        await w.way.lead(w.way.listen, f"{HOST}:9")
        await w.way.enable()
        reader, writer = await asyncio.open_connection(HOST, w.way.port)
        assert await reader.read() == b""
        writer.close()
        assert w.way.counters.refused == 1
