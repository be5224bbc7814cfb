"""The proxy on a device's way to a real broker: over TLS, with certificates of the bench's authority, in both versions."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chaos.proxies.mqtt import MqttProxy, ProxyAbsentError, ToxicOrder, server_files
from reference.broker.capabilities import Kind
from reference.pki import CertificateFiles, DevelopmentCA
from reference.support.mqtt import Protocol, PublishTimeoutError
from tests.broker import raw
from tests.broker.conftest import KINDS, Stand
from tests.chaos.proxies.mqtt_stand import (
    CANCEL,
    CLIENT,
    COMMAND,
    HOST,
    REPLY,
    STATUS,
    TENANT,
    Way,
    broker,
    until,
    way_to,
)


@pytest.fixture(scope="module", params=KINDS)
def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with broker(Kind(request.param), tmp_path_factory.mktemp("broker")) as found:
        yield found


@pytest.fixture
async def there(stand: Stand) -> AsyncIterator[Way]:
    async with way_to(stand) as found:
        yield found


async def test_everything_passes_and_the_tap_sees_it(there: Way) -> None:
    await there.device.publish(STATUS, b"up")
    assert (await there.heard(there.service)).payload == b"up"
    await there.service.publish(COMMAND, b"down")
    assert (await there.heard(there.device)).payload == b"down"
    await until(lambda: there.told("acknowledged", to="broker") == 1)
    assert there.told("connect") == 1
    assert there.told("connected", code=0) == 1
    assert there.told("publish", to="broker", kind="status") == 1
    assert there.told("publish", to="device", kind="command", qos=1, retain=False) == 1
    assert there.told("acknowledged", to="device") == 1
    (session,) = there.way.sessions
    assert session.dialogue.version == (5 if there.stand.version is Protocol.V5 else 4)
    assert there.way.first["command"] == b"down"
    assert there.way.counters.not_mqtt_bytes == 0


async def test_a_dropped_command_does_not_come_and_the_next_one_does(there: Way) -> None:
    toxic = there.way.add_toxic(ToxicOrder(type="mqtt_drop", attributes={"kind": "command", "count": 1}))
    await there.service.publish(COMMAND, b"lost")
    await until(lambda: toxic.hits == 1)
    await there.service.publish(CANCEL, b"found")
    assert (await there.heard(there.device)).payload == b"found"
    assert there.told("publish", kind="command") == 0


async def test_a_dropped_puback_leaves_the_sender_without_an_answer(there: Way) -> None:
    toxic = there.way.add_toxic(
        ToxicOrder(type="mqtt_drop", attributes={"kind": "status", "packet": "puback"})
    )
    with pytest.raises(PublishTimeoutError):
        await there.device.publish(STATUS, b"taken", timeout_s=0.5)
    assert (await there.heard(there.service)).payload == b"taken"
    await until(lambda: toxic.hits == 1)
    assert there.told("acknowledged", to="device") == 0


async def test_a_doubled_command_comes_twice_and_the_connection_goes_on(there: Way) -> None:
    toxic = there.way.add_toxic(ToxicOrder(type="mqtt_double", attributes={"kind": "command", "count": 1}))
    await there.service.publish(COMMAND, b"once")
    assert [(await there.heard(there.device)).payload for _ in range(2)] == [b"once", b"once"]
    await there.service.publish(COMMAND, b"more")
    assert (await there.heard(there.device)).payload == b"more"
    assert (toxic.hits, there.told("publish", kind="command", dup=True)) == (1, 1)
    assert there.told("disconnected") == 0


async def test_doubled_pubacks_harm_neither_side(there: Way) -> None:
    for stream in ("upstream", "downstream"):
        there.way.add_toxic(ToxicOrder(type="mqtt_double", stream=stream, attributes={"packet": "puback"}))
    await there.device.publish(STATUS, b"1")
    await there.device.publish(STATUS, b"2")
    await there.service.publish(COMMAND, b"3")
    await there.heard(there.device)
    await there.service.publish(COMMAND, b"4")
    assert (await there.heard(there.device)).payload == b"4"
    assert there.told("disconnected") == 0


async def test_a_delayed_command_is_passed_by_a_reply(there: Way) -> None:
    toxic = there.way.add_toxic(
        ToxicOrder(type="mqtt_delay", attributes={"kind": "command", "delay": 60_000})
    )
    await there.service.publish(COMMAND, b"late")
    await until(lambda: toxic.hits == 1)
    await there.service.publish(REPLY, b"early")
    assert (await there.heard(there.device)).payload == b"early"
    there.way.remove_toxic(toxic.name)
    assert (await there.heard(there.device)).payload == b"late"


async def test_reordered_statuses(there: Way) -> None:
    toxic = there.way.add_toxic(
        ToxicOrder(type="mqtt_reorder", stream="upstream", attributes={"kind": "status", "count": 1})
    )
    first = asyncio.create_task(there.device.publish(STATUS, b"1"))
    await until(lambda: len(there.device._connection.in_flight) == 1)  # type: ignore[union-attr]
    await there.device.publish(STATUS, b"2")
    await first
    assert [(await there.heard(there.service)).payload for _ in range(2)] == [b"2", b"1"]
    assert toxic.hits == 1


async def test_half_open_is_dead_until_the_device_connects_anew(there: Way) -> None:
    toxic = there.way.add_toxic(ToxicOrder(type="mqtt_half_open"))
    with pytest.raises(PublishTimeoutError):
        await there.device.publish(STATUS, b"lost", timeout_s=0.3)
    await until(lambda: toxic.hits == 1)
    assert there.told("disconnected") == 0
    assert len(there.way.sessions) == 1
    there.way.remove_toxic(toxic.name)
    await there.connected()
    await there.device.publish(STATUS, b"back")
    assert (await there.heard(there.service)).payload == b"back"


async def test_a_command_stands_still_and_statuses_pass(there: Way) -> None:
    gate = there.way.hold_kind("command", "device")
    await there.service.publish(COMMAND, b"held")
    async with asyncio.timeout(5):
        await gate.reached.wait()
    status = asyncio.create_task(there.device.publish(STATUS, b"passes"))
    assert (await there.heard(there.service)).payload == b"passes"
    gate.release()
    await status
    assert (await there.heard(there.device)).payload == b"held"


async def test_an_injected_command_is_taken_and_the_broker_hears_nothing_of_it(there: Way) -> None:
    told = there.way.inject_publish(COMMAND, b"ours", retain=True)
    message = await there.heard(there.device)
    assert (message.topic, message.payload, message.retained) == (COMMAND, b"ours", True)
    await until(lambda: told.acknowledged == 1)
    assert there.told("acknowledged", to="broker") == 0
    await there.service.publish(COMMAND, b"real")
    assert (await there.heard(there.device)).payload == b"real"


async def test_a_reset_brings_the_device_back_and_retained_with_it(there: Way) -> None:
    told = there.way.retain(COMMAND, b"kept")
    there.way.cut("reset")
    message = await there.heard(there.device)
    assert (message.payload, message.retained, told.sent) == (b"kept", True, 1)
    assert there.told("disconnected", how="reset") == 1
    assert there.told("connected", code=0) == 2


# ---- who may come through


@pytest.mark.parametrize("whose", ["nobody", "another device", "another authority"])
async def test_only_the_device_itself_comes_through(there: Way, whose: str, tmp_path: Path) -> None:
    stand = there.stand
    trusted = stand.device(TENANT, CLIENT)
    given: CertificateFiles | None
    if whose == "nobody":
        given = None
    elif whose == "another device":
        given = stand.device(TENANT, "d2")
    else:
        given = DevelopmentCA.open_or_create(tmp_path).issue_device(TENANT, CLIENT)
    answer = await asyncio.to_thread(
        raw.answer, there.way.port, raw.context(trusted, given), raw.connect(f"{TENANT}.{CLIENT}")
    )
    assert answer == b""
    assert len(there.way.sessions) == 1


async def test_the_device_sees_the_broker_s_name(there: Way) -> None:
    mine = there.stand.device(TENANT, CLIENT)

    def peer(port: int) -> object:
        context = ssl.create_default_context(cafile=str(mine.ca))
        context.load_cert_chain(mine.cert, mine.key)
        with (
            socket.create_connection((HOST, port), 5) as bare,
            context.wrap_socket(bare, server_hostname="localhost") as tls,
        ):
            return (tls.getpeercert() or {}).get("subject")

    shown = await asyncio.to_thread(peer, there.way.port)
    assert shown == await asyncio.to_thread(peer, there.stand.port)
    assert "broker" in str(shown)


async def test_a_revoked_or_renewed_certificate_counts_at_the_next_connection(
    stand: Stand, tmp_path: Path
) -> None:
    """The files are read then: what the device has now is what the broker sees."""
    mine = stand.device(TENANT, CLIENT)
    copy = CertificateFiles(tmp_path / "d.crt", tmp_path / "d.key", mine.ca)
    copy.cert.write_bytes(mine.cert.read_bytes())
    copy.key.write_bytes(mine.key.read_bytes())
    async with way_to(stand, client_files=copy) as there:
        copy.key.write_bytes(b"no key any more")
        there.way.cut()
        await until(lambda: there.way.counters.refused >= 1)
        copy.key.write_bytes(mine.key.read_bytes())
        await until(lambda: there.told("connected", code=0) == 2)


def test_a_foreign_authority_makes_it_absent(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path / "ca")
    assert server_files(tmp_path / "ca") == ca.issue_server("broker")
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(ProxyAbsentError, match="absent: the certificate authority is not the bench's own"):
        server_files(tmp_path / "ca")


async def test_certificates_that_cannot_be_used_are_refused_at_once(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path)
    server, client = ca.issue_server("broker"), ca.issue_device(TENANT, CLIENT)
    proxy = MqttProxy()
    with pytest.raises(Exception, match="both pairs"):
        await proxy.way("x", upstream_host=HOST, upstream_port=9, server_files=server)
    broken = CertificateFiles(server.cert, client.key, server.ca)
    with pytest.raises(Exception, match="cannot be used"):
        await proxy.way("x", upstream_host=HOST, upstream_port=9, server_files=broken, client_files=client)
    assert proxy.ways == {}
