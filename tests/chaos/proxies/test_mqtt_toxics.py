"""What toxics do to packets, byte for byte, between two ends that say exactly what they are told."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.proxies.mqtt import MqttProxy, PacketType, Stream, Toxic, ToxicError, ToxicOrder
from chaos.proxies.mqtt.packets import publish
from tests.chaos.proxies.mqtt_stand import (
    CANCEL,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    REPLY,
    STATUS,
    Wire,
    command,
    puback,
    until,
    wire,
)

PINGRESP = b"\xd0\x00"


def put(
    w: Wire, sort: str, stream: str = "downstream", *, toxicity: float = 1.0, **attributes: object
) -> Toxic:
    order = ToxicOrder(
        type=sort, stream=stream, toxicity=toxicity, attributes=attributes, name=f"{sort}-{len(w.way.toxics)}"
    )
    return w.way.add_toxic(order)


async def down(w: Wire, *packets: bytes) -> list[int]:
    """The packet ids that reach the client of what the broker sends."""
    await w.broker.send(*packets, PINGRESP)
    found = []
    while (packet := (await w.client.take(1))[0]).type is not PacketType.PINGRESP:
        found.append(packet.packet_id or 0)
    return found


async def up(w: Wire, *packets: bytes) -> list[int]:
    """The same the other way."""
    await w.client.send(*packets, PINGREQ)
    return await w.broker.until_ping()


# ---- drop


async def test_drop_takes_its_kind_only() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_drop", kind="command")
        assert await down(w, command(1), command(2, topic=CANCEL), command(3, topic=REPLY), command(4)) == [
            2,
            3,
        ]
        assert toxic.hits == 2
        assert await up(w, command(5, topic=STATUS)) == [5]


async def test_drop_knows_what_a_puback_is_for() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_drop", "upstream", kind="command", packet="puback")
        assert await down(w, command(1), command(2, topic=REPLY)) == [1, 2]
        assert await up(w, puback(1), puback(2), command(1, topic=STATUS)) == [2, 1]
        assert toxic.hits == 1


async def test_so_many_at_most() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_drop", kind="command", count=2)
        assert await down(w, *(command(n) for n in range(1, 6))) == [3, 4, 5]
        assert toxic.hits == 2


async def _left(seed: int) -> list[int]:
    async with wire(seed=99) as w:
        put(w, "mqtt_drop", toxicity=0.5, seed=seed)
        return await down(w, *(command(n) for n in range(1, 101)))


async def test_the_same_seed_takes_the_same_packets() -> None:
    first, again, other = await _left(7), await _left(7), await _left(8)
    assert first == again
    assert first != other
    assert 20 < len(first) < 80


async def test_without_a_seed_the_proxy_s_own_counts() -> None:
    async def left(seed: int) -> list[int]:
        async with wire(seed=seed) as w:
            put(w, "mqtt_drop", toxicity=0.5)
            return await down(w, *(command(n) for n in range(1, 101)))

    assert await left(1) == await left(1)
    assert await left(1) != await left(2)


async def test_what_is_no_packet_is_never_hurt() -> None:
    async with wire(greet=False) as w:
        put(w, "mqtt_drop", packet="any")
        await w.broker.send(b"hello")
        assert await w.client.reader.readexactly(5) == b"hello"
        assert w.way.counters.not_mqtt_bytes == 5


# ---- double


async def test_double_marks_the_second_copy() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_double", kind="command", count=1)
        await w.broker.send(command(1), command(2))
        found = await w.client.take(3)
        assert [(one.packet_id, one.dup) for one in found] == [(1, False), (1, True), (2, False)]
        assert found[0].payload == found[1].payload
        assert toxic.hits == 1


async def test_double_at_qos_0_and_of_pubacks_marks_nothing() -> None:
    async with wire() as w:
        put(w, "mqtt_double", packet="any")
        await w.broker.send(publish(REPLY, b"x"), puback(3))
        found = await w.client.take(4)
        assert [one.data for one in found] == [publish(REPLY, b"x")] * 2 + [puback(3)] * 2


# ---- delay


async def test_delay_holds_its_kind_back_in_order_and_lets_others_pass() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_delay", kind="command", delay=200, count=1)
        began = asyncio.get_running_loop().time()
        await w.broker.send(command(1), command(2), command(3, topic=REPLY))
        assert await w.client.ids(3) == [3, 1, 2]
        assert asyncio.get_running_loop().time() - began >= 0.195
        assert toxic.hits == 1


async def test_what_is_delayed_goes_on_when_the_toxic_goes() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_delay", delay=60_000)
        await w.broker.send(command(1), command(2))
        await until(lambda: toxic.hits == 2)
        w.way.remove_toxic(toxic.name)
        assert await w.client.ids(2) == [1, 2]


async def test_nothing_comes_after_a_disconnect() -> None:
    for sort in ("mqtt_delay", "mqtt_reorder"):
        async with wire() as w:
            put(w, sort, "upstream", delay=60_000)
            await w.client.send(command(1, topic=STATUS), DISCONNECT)
            found = await w.broker.take(2)
            assert [one.type for one in found] == [PacketType.PUBLISH, PacketType.DISCONNECT]


async def test_what_is_delayed_still_comes_after_its_sender_has_gone() -> None:
    async with wire() as w:
        put(w, "mqtt_delay", "upstream", delay=50)
        await w.client.send(command(1, topic=STATUS))
        w.client.writer.close()
        assert await w.broker.ids(1) == [1]
        assert await w.broker.ended() == "end"


# ---- reorder


async def test_reorder_lets_the_next_one_pass() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_reorder", kind="command", count=1)
        assert await down(w, command(1), command(9, topic=REPLY), command(2), command(3)) == [9, 2, 1, 3]
        assert toxic.hits == 1


async def test_reorder_by_more_than_one() -> None:
    async with wire() as w:
        put(w, "mqtt_reorder", window=3)
        assert await down(w, *(command(n) for n in range(1, 9))) == [2, 3, 4, 1, 6, 7, 8, 5]


async def test_reorder_without_anybody_to_pass_is_no_hit() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_reorder", delay=50)
        await w.broker.send(command(1))
        assert await w.client.ids(1) == [1]
        assert toxic.hits == 0
        other = put(w, "mqtt_reorder", "upstream")
        await w.client.send(command(1, topic=STATUS))
        w.client.writer.close()
        assert await w.broker.ids(1) == [1]
        assert await w.broker.ended() == "end"
        assert other.hits == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.sampled_from([("mqtt_reorder", 1), ("mqtt_reorder", 2), ("mqtt_delay", 1), ("mqtt_double", 1)]), max_size=3),
    st.integers(0, 1000),
)  # fmt: skip
def test_what_comes_of_them_is_legal(sorts: list[tuple[str, int]], seed: int) -> None:
    """Every PUBLISH comes, and is acknowledged after it has come, never before."""
    asyncio.run(_legal(sorts, seed))


async def _legal(sorts: list[tuple[str, int]], seed: int) -> None:
    async with wire() as w:
        for number, (sort, window) in enumerate(sorts):
            for stream in Stream:
                put(
                    w,
                    sort,
                    stream.value,
                    packet="any",
                    toxicity=0.5,
                    window=window,
                    delay=5,
                    seed=seed + number,
                )
        numbers = list(range(1, 13))
        came: list[int] = []

        async def acknowledge() -> None:
            while set(came) != set(numbers):
                (packet,) = await w.client.take(1)
                came.append(packet.packet_id or 0)
                await w.client.send(puback(came[-1]))

        async def confirmed() -> set[int]:
            found: set[int] = set()
            while found != set(numbers):
                (packet,) = await w.broker.take(1)
                assert packet.packet_id in came
                found.add(packet.packet_id or 0)
            return found

        acknowledging = asyncio.create_task(acknowledge())
        await w.broker.send(*(command(n) for n in numbers))
        assert await confirmed() == set(numbers)
        await acknowledging


# ---- half-open


async def test_half_open_swallows_both_ways_keeps_both_ends_and_cuts_when_it_goes() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_half_open")
        await w.client.send(PINGREQ)
        await w.broker.send(command(1))
        await until(lambda: toxic.hits == 2)
        fresh, behind = await w.another()
        await behind.send(command(2))
        assert await fresh.ids(1) == [2]
        assert len(w.way.sessions) == 2
        w.way.remove_toxic(toxic.name)
        assert (await w.client.ended(), await w.broker.ended()) == ("end", "end")
        await behind.send(command(3))
        assert await fresh.ids(1) == [3]


@pytest.mark.parametrize("first", ["client", "broker"])
async def test_half_open_keeps_one_end_when_the_other_has_gone(first: str) -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_half_open")
        gone, other = (w.client, w.broker) if first == "client" else (w.broker, w.client)
        gone.writer.close()
        await other.send(PINGREQ if first == "broker" else PINGRESP)
        await until(lambda: toxic.hits == 1)
        await other.send(PINGREQ if first == "broker" else PINGRESP)
        await until(lambda: toxic.hits == 2)
        w.way.remove_toxic(toxic.name)
        assert await other.ended() in ("end", "reset")


# ---- over the API, and together


async def test_over_the_api_with_what_they_have_hurt() -> None:
    proxy = MqttProxy(seed=3)
    await proxy.start()
    try:
        way = await proxy.way("d1", upstream_host="127.0.0.1", upstream_port=9)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.api_port}") as http:
            given = {"type": "mqtt_drop", "attributes": {"kind": "command", "count": 3, "seed": 5}}
            answer = await http.post("/proxies/d1/toxics", json=given)
            assert answer.status_code == 200
            assert answer.json() == {
                "name": "mqtt_drop_downstream", "type": "mqtt_drop", "stream": "downstream", "toxicity": 1.0, "hits": 0,
                "attributes": {"kind": "command", "count": 3, "seed": 5, "packet": "publish"},
            }  # fmt: skip
            wrong = await http.post(
                "/proxies/d1/toxics", json={"type": "mqtt_delay", "attributes": {"kind": "everything"}}
            )
            assert (wrong.status_code, "kind" in wrong.json()["error"]) == (400, True)
        assert [toxic.name for toxic in way.toxics] == ["mqtt_drop_downstream"]
    finally:
        await proxy.stop()


async def test_packets_are_whole_for_toxics_whatever_happens_to_bytes_behind_them() -> None:
    async with wire() as w:
        put(w, "slicer", average_size=3, size_variation=1, delay=100, seed=1)
        put(w, "mqtt_drop", kind="command", count=1)
        assert await down(w, command(1), command(2), command(3)) == [2, 3]
        published = [seen.data["packet"] for seen in w.seen if seen.event == "publish"]
        assert published == [2, 3]


async def test_the_tap_says_nothing_of_a_packet_that_was_cut_off() -> None:
    async with wire() as w:
        put(w, "limit_data", bytes=len(command(1)) + 5)
        await w.broker.send(command(1), command(2))
        assert await w.client.ids(1) == [1]
        assert await w.client.next() is None
        assert [seen.data["packet"] for seen in w.seen if seen.event == "publish"] == [1]


async def test_an_update_counts_for_what_comes_next() -> None:
    async with wire() as w:
        toxic = put(w, "mqtt_drop", kind="command")
        assert await down(w, command(1)) == []
        w.way.update_toxic(toxic.name, {"kind": "reply"}, None)
        assert await down(w, command(2), command(3, topic=REPLY)) == [2]
        with pytest.raises(ToxicError):
            w.way.update_toxic(toxic.name, {"kind": 5}, None)
        assert await down(w, command(4), command(5, topic=REPLY)) == [4]


async def test_latency_and_a_delay_add_up() -> None:
    async with wire() as w:
        put(w, "latency", latency=60)
        put(w, "mqtt_delay", delay=60)
        began = asyncio.get_running_loop().time()
        await w.broker.send(command(1))
        await w.client.take(1)
        assert asyncio.get_running_loop().time() - began >= 0.115


async def test_toxics_are_there_for_connections_to_come() -> None:
    async with wire() as w:
        put(w, "mqtt_drop", kind="command", count=1)
        client, broker = await w.another()
        await broker.send(command(1), command(2))
        assert await client.ids(1) == [2]
        await client.send(CONNECT)
        await broker.take(1)
