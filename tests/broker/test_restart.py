"""The broker as the stack runs it: started, stopped and restarted by the supervisor."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from reference.pki import SERVICE_NAME, DevelopmentCA
from reference.support.mqtt import Backoff, Connected, Disconnected, Message, MqttLink, TlsFiles
from reference.support.processes import ManagedProcess, ProcessError, start_module

TOPIC = "tenants/acme/clients/d1/commands/update"


async def _start(ca: DevelopmentCA, port: int, log: Path) -> tuple[ManagedProcess, int]:
    files = ca.issue_server("broker")
    arguments = [
        "--port",
        str(port),
        "--ca",
        str(files.ca),
        "--cert",
        str(files.cert),
        "--key",
        str(files.key),
    ]
    process = await start_module("reference.broker", *arguments, log_path=log)
    try:
        found = (await process.ready())["port"]
    except BaseException:
        await process.kill()
        raise
    assert isinstance(found, int)
    return process, found


async def test_links_come_back_after_a_restart_and_messages_flow_again(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path / "ca")
    process, port = await _start(ca, 0, tmp_path / "log")
    device_files, service_files = ca.issue_device("acme", "d1"), ca.issue_service()
    device = MqttLink(
        "localhost",
        port,
        "acme.d1",
        TlsFiles(device_files.ca, device_files.cert, device_files.key),
        subscriptions=["tenants/acme/clients/d1/commands/#"],
        backoff=Backoff(0.02, 0.1),
    )
    service = MqttLink(
        "127.0.0.1",
        port,
        SERVICE_NAME,
        TlsFiles(service_files.ca, service_files.cert, service_files.key),
        backoff=Backoff(0.02, 0.1),
    )
    await device.start()
    await service.start()
    try:
        for link in (device, service):
            assert await asyncio.wait_for(link.events.get(), 5) == Connected()
        began = time.monotonic()
        assert await process.stop(5) == 0
        assert time.monotonic() - began < 2, "ends at once although clients are connected"
        for link in (device, service):
            assert isinstance(await asyncio.wait_for(link.events.get(), 5), Disconnected)
        process, _ = await _start(ca, port, tmp_path / "log")
        for link in (device, service):
            assert await asyncio.wait_for(link.events.get(), 5) == Connected()
        await service.publish(TOPIC, b"again")
        got = await asyncio.wait_for(device.events.get(), 5)
        assert isinstance(got, Message)
        assert got.payload == b"again"
        got.ack()
    finally:
        await device.stop()
        await service.stop()
        await process.kill()


async def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path / "ca")
    process, port = await _start(ca, 0, tmp_path / "log")
    try:
        with pytest.raises(ProcessError, match=r"(?s)exit code 2 .*cannot listen.*Choose another port"):
            await _start(ca, port, tmp_path / "second.log")
        assert "Traceback" not in (tmp_path / "second.log").read_text()
    finally:
        await process.stop()


async def test_a_server_of_another_name_or_authority_is_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path / "ca")
    other = DevelopmentCA.open_or_create(tmp_path / "other")
    process, port = await _start(ca, 0, tmp_path / "log")
    mine = ca.issue_device("acme", "d1")
    trusting_another = TlsFiles(other.certificate, mine.cert, mine.key)
    by_another_name = TlsFiles(ca.certificate, mine.cert, mine.key)
    try:
        for host, tls, why in [
            ("127.0.0.1", trusting_another, "certificate is refused"),
            ("127.0.0.2", by_another_name, "certificate is refused"),
        ]:
            if host == "127.0.0.2":
                await process.stop()
                files = ca.issue_server("broker")
                arguments = ["--host", host, "--port", "0"]
                arguments += ["--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key)]
                process = await start_module("reference.broker", *arguments, log_path=tmp_path / "log")
                port = int(str((await process.ready())["port"]))
            caplog.clear()
            link = MqttLink(host, port, "acme.d1", tls, backoff=Backoff(0.02, 0.1))
            await link.start()
            try:
                async with asyncio.timeout(5):
                    while why not in str([vars(record) for record in caplog.records]):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert link.events.empty()
            finally:
                await link.stop()
    finally:
        await process.kill()
