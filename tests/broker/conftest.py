from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from reference.pki import SERVICE_NAME, CertificateFiles, DevelopmentCA
from reference.support.mqtt import Backoff, Connected, Message, MqttLink, TlsFiles
from reference.support.processes import ROOT


@dataclass
class Stand:
    """A broker under test and the authority that it trusts."""

    ca: DevelopmentCA
    port: int
    log: Path

    def device(self, tenant: str = "acme", client: str = "d1") -> CertificateFiles:
        return self.ca.issue_device(tenant, client)

    @asynccontextmanager
    async def link(
        self, client_id: str, files: CertificateFiles, subscriptions: list[str], *, connects: bool = True
    ) -> AsyncIterator[MqttLink]:
        tls = TlsFiles(files.ca, files.cert, files.key)
        link = MqttLink(
            "127.0.0.1", self.port, client_id, tls, subscriptions=subscriptions, backoff=Backoff(0.02, 0.1)
        )
        await link.start()
        try:
            if connects:
                assert await asyncio.wait_for(link.events.get(), 5) == Connected()
            yield link
        finally:
            await link.stop()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("broker")
    ca = DevelopmentCA.open_or_create(folder / "ca")
    files = ca.issue_server("broker")
    command = [sys.executable, "-m", "reference.broker", "--port", "0"]
    command += ["--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key)]
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline() or "{}")
        assert ready.get("ready") is True, log.read_text()
        yield Stand(ca, ready["port"], log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


Receive = Callable[[MqttLink], Awaitable[Message]]


@pytest.fixture
def receive() -> Receive:
    async def one(link: MqttLink) -> Message:
        event = await asyncio.wait_for(link.events.get(), 5)
        assert isinstance(event, Message), event
        event.ack()
        return event

    return one


@pytest_asyncio.fixture
async def service(stand: Stand) -> AsyncIterator[MqttLink]:
    async with AsyncExitStack() as stack:
        files = stand.ca.issue_service()
        topics = ["tenants/+/clients/+/birth", "tenants/+/clients/+/status"]
        yield await stack.enter_async_context(stand.link(SERVICE_NAME, files, topics))
