"""What the process does: restarts, crashes, revocations, renewals; and the links that live through them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from reference.broker.capabilities import Capabilities, Kind
from reference.broker.mosquitto_files import TlsServerFiles, add_device
from reference.broker.process import BrokerProcess, start_broker
from reference.broker.settings import BrokerSettings
from reference.pki import SERVICE_NAME, CertificateFiles, DevelopmentCA
from reference.protocol.topics import service_subscriptions
from reference.support.files import write_durably
from reference.support.mqtt import (
    Backoff,
    Connected,
    Disconnected,
    Event,
    Message,
    MqttLink,
    Protocol,
    RefusedError,
    TlsFiles,
)
from reference.support.processes import ProcessError
from tests.broker import raw
from tests.broker.certificates import write_revoked
from tests.broker.conftest import KINDS

MINE = "tenants/acme/clients/d1"
COMMAND = f"{MINE}/commands/update"


class Bench:
    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder = folder
        self.ca = DevelopmentCA.open_or_create(folder / "ca")
        files = self.ca.issue_server("broker")
        self.crl = write_revoked(self.ca, folder / "crl.pem")
        self.settings = BrokerSettings(
            kind,
            "127.0.0.1",
            0,
            TlsServerFiles(files.ca, files.cert, files.key, self.crl),
            folder / "data",
        )
        self.links: list[MqttLink] = []
        self.broker: BrokerProcess

    async def start(self) -> None:
        self.broker = await start_broker(self.settings, self.folder / "log")
        self.broker.add_device("acme", "d1")

    @property
    def can(self) -> Capabilities:
        return self.broker.capabilities

    async def link(self, name: str, files: CertificateFiles, *topics: str) -> MqttLink:
        link = MqttLink(
            "127.0.0.1",
            self.broker.port,
            name,
            TlsFiles(files.ca, files.cert, files.key),
            subscriptions=topics,
            backoff=Backoff(0.02, 0.1),
            protocol=Protocol(self.broker.mqtt_version),
            session_expiry_s=600 if name != SERVICE_NAME else 0,
        )
        self.links.append(link)
        await link.start()
        assert await event(link) == Connected()
        return link

    async def device(self, client: str = "d1") -> MqttLink:
        topic = f"tenants/acme/clients/{client}/commands/update"
        return await self.link(f"acme.{client}", self.ca.issue_device("acme", client), topic)

    async def service(self) -> MqttLink:
        return await self.link(SERVICE_NAME, self.ca.issue_service(), *service_subscriptions())


@pytest_asyncio.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, request.param)
    await bench.start()
    try:
        yield bench
    finally:
        for link in bench.links:
            await link.stop()
        await bench.broker.stop()
    assert "Traceback" not in (tmp_path / "log").read_text()


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _user(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def event(link: MqttLink) -> Event:
    return await asyncio.wait_for(link.events.get(), 8)


async def until_back(link: MqttLink) -> None:
    while await event(link) != Connected():
        pass


async def say(service: MqttLink, device: MqttLink, payload: bytes) -> None:
    """From one to the other, again until it got there: rights follow a first connection by a moment."""
    async with asyncio.timeout(8):
        while True:
            try:
                await service.publish(COMMAND, payload)
                got = await asyncio.wait_for(device.events.get(), 0.5)
            except (TimeoutError, RefusedError):
                continue
            if isinstance(got, Message):
                got.ack()
                if got.payload == payload:
                    return


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_links_come_back_after_a_restart_on_the_same_port(bench: Bench, how: str) -> None:
    device, service = await bench.device(), await bench.service()
    await say(service, device, b"before")
    await (bench.broker.stop() if how == "stop" else bench.broker.kill())
    for link in (device, service):
        assert isinstance(await event(link), Disconnected)
        assert link.outage is not None
        assert not link.connected
    port = bench.broker.port
    await bench.broker.restart()
    assert bench.broker.port == port
    for link in (device, service):
        await until_back(link)
        assert link.outage is None
    await say(service, device, b"after")


async def test_what_waits_is_there_after_an_orderly_restart(bench: Bench) -> None:
    device, service = await bench.device(), await bench.service()
    await say(service, device, b"before")
    if not bench.can.persistence:
        assert not bench.can.lasting_sessions, "there is nothing to be kept"
        return
    await device.stop()
    for number in range(20):
        await service.publish(COMMAND, b"%d" % number, expiry_s=600)
    await bench.broker.stop()
    await bench.broker.restart()
    device = await bench.device()
    got = [await event(device) for _ in range(20)]
    assert [one.payload for one in got if isinstance(one, Message)] == [b"%d" % n for n in range(20)]


async def test_a_revoked_certificate_is_refused_and_its_living_session_ends(bench: Bench) -> None:
    device, service, other = await bench.device(), await bench.service(), await bench.device("d2")
    await say(service, device, b"before")
    write_revoked(bench.ca, bench.crl, bench.ca.issue_device("acme", "d1"))
    assert isinstance(await event(device), Disconnected)
    async with asyncio.timeout(8):
        while device.outage is None or device.outage.reason in ("", "not connected yet"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if not service.connected or not other.connected:
            await until_back(service)
        await service.publish("tenants/acme/clients/d2/commands/update", b"to d2")
        while not isinstance(got := await event(other), Message):
            pass
    assert got.payload == b"to d2"
    with pytest.raises(TimeoutError):  # some ten attempts
        await asyncio.wait_for(device.events.get(), 1.0)
    assert not device.connected
    if bench.settings.kind is Kind.AMQTT:
        assert service.connected, "only the one that was revoked was closed"


async def test_a_list_that_is_damaged_or_another_s_is_not_used(bench: Bench) -> None:
    device, service = await bench.device(), await bench.service()
    await say(service, device, b"before")
    other = DevelopmentCA.open_or_create(bench.folder / "other")
    forged = write_revoked(other, bench.folder / "forged.pem", bench.ca.issue_device("acme", "d1"))
    log = bench.folder / "log"
    for times, content in enumerate((b"rubbish", forged.read_bytes()), 1):
        bench.crl.write_bytes(content)
        async with asyncio.timeout(5):
            while log.read_text().count("revoked certificates is not used") < times:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    await say(service, device, b"after")
    assert device.events.empty()


async def test_bad_input_is_one_line_and_exit_code_2(bench: Bench, tmp_path: Path) -> None:
    cases = {
        "cannot be read": replace(
            bench.settings, files=replace(bench.settings.files, crl=tmp_path / "absent")
        ),
        "cannot be used": replace(bench.settings, files=replace(bench.settings.files, key=bench.crl)),
        "port is in use|cannot listen": replace(
            bench.settings, port=bench.broker.port, data=tmp_path / "another"
        ),
    }
    for number, (words, settings) in enumerate(cases.items()):
        log = tmp_path / f"{number}.log"
        with pytest.raises(ProcessError, match=rf"(?s)exit code 2 .*({words})"):
            await start_broker(settings, log)
        assert "Traceback" not in log.read_text()


async def test_mosquitto_ends_with_its_supervisor_and_its_folder_is_taken_once(bench: Bench) -> None:
    if bench.settings.kind is not Kind.MOSQUITTO:
        return
    said = (await bench.broker.process.ready())["mosquittoPid"]
    assert isinstance(said, int)
    with pytest.raises(ProcessError, match="another broker runs on this folder"):
        await start_broker(bench.settings, bench.folder / "second.log")
    assert _runs(said)
    await bench.broker.kill()
    async with asyncio.timeout(5):
        while _runs(said):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_mosquitto_that_dies_ends_its_supervisor_with_a_word(bench: Bench) -> None:
    if bench.settings.kind is not Kind.MOSQUITTO:
        return
    said = (await bench.broker.process.ready())["mosquittoPid"]
    assert isinstance(said, int)
    os.kill(said, signal.SIGKILL)
    assert await asyncio.wait_for(bench.broker.process.wait(), 5) == 1
    assert "Mosquitto has ended" in (bench.folder / "log").read_text()


@pytest.mark.parametrize("damage", ["rubbish", "cut"])
async def test_what_mosquitto_kept_is_set_aside_when_it_is_damaged(bench: Bench, damage: str) -> None:
    if not bench.can.persistence:
        return
    folder = bench.folder / "data" / "mosquitto"
    for link in (await bench.device(), await bench.service()):
        await link.stop()
    for _ in range(2):
        await bench.broker.stop()
        kept = folder / "mosquitto.db"
        bad = b"rubbish" * 50 if damage == "rubbish" else b"\x00\xb5\x00mosquitto db" + bytes(5)
        kept.write_bytes(bad)
        await bench.broker.restart()
        assert (folder / "mosquitto.db.damaged").read_bytes() == bad
    device, service = await bench.device(), await bench.service()
    await say(service, device, b"on it goes")
    assert "what Mosquitto kept is damaged" in (bench.folder / "log").read_text()


def test_a_device_is_listed_once(tmp_path: Path) -> None:
    for _ in range(3):
        add_device(tmp_path, "acme", "d1")
    add_device(tmp_path, "acme", "d2")
    assert (tmp_path / "devices").read_text() == "acme.d1\nacme.d2\n"


async def test_mosquitto_does_not_run_as_root(bench: Bench) -> None:
    if bench.settings.kind is not Kind.MOSQUITTO:
        return
    said = (await bench.broker.process.ready())["mosquittoPid"]
    assert isinstance(said, int)
    assert _user(said) != 0


async def test_a_device_that_was_added_has_its_rights_at_its_first_word(bench: Bench) -> None:
    service = await bench.service()
    bench.broker.add_device("acme", "d7")
    if bench.settings.kind is Kind.MOSQUITTO:
        rights = bench.folder / "data" / "mosquitto" / "rights"
        async with asyncio.timeout(5):
            while "user acme.d7\n" not in rights.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await service.publish("tenants/acme/clients/d7/replies", b"the reload is over")
    device = await bench.device("d7")
    await device.publish("tenants/acme/clients/d7/birth", b"first")
    got = await event(service)
    assert isinstance(got, Message)
    assert got.payload == b"first"


def _server_serial(bench: Bench) -> str:
    mine = bench.ca.issue_device("acme", "d1")
    with raw.open_tls(bench.broker.port, raw.context(mine, mine)) as peer:
        found = peer.getpeercert()
    assert found is not None
    return str(found["serialNumber"])


async def test_mosquitto_takes_a_new_certificate_of_its_own_without_a_restart(
    bench: Bench, tmp_path: Path
) -> None:
    if bench.settings.kind is not Kind.MOSQUITTO:
        return
    service, device = await bench.service(), await bench.device()
    await say(service, device, b"before")
    before = await asyncio.to_thread(_server_serial, bench)
    files, fresh = bench.settings.files, bench.ca.issue_server("another")
    write_durably(files.key, fresh.key.read_bytes())
    async with asyncio.timeout(5):  # the pair does not fit in between, and is left alone
        while "the new certificate is not used" not in (bench.folder / "log").read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    write_durably(files.cert, fresh.cert.read_bytes())
    async with asyncio.timeout(5):
        while await asyncio.to_thread(_server_serial, bench) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await say(service, device, b"after")
    assert device.events.empty(), "nobody was thrown off"
