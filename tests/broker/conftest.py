from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from reference.broker.capabilities import CAPABILITIES, Capabilities, Kind
from reference.broker.mosquitto_files import TlsServerFiles
from reference.broker.settings import BrokerSettings
from reference.pki import SERVICE_NAME, CertificateFiles, DevelopmentCA
from reference.support.mqtt import Backoff, Connected, Message, MqttLink, Protocol, TlsFiles
from reference.support.processes import ROOT
from tests.broker.certificates import write_revoked

MOSQUITTO_MISSING = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") is None
KINDS = [
    Kind.AMQTT,
    pytest.param(
        Kind.MOSQUITTO, marks=pytest.mark.skipif(MOSQUITTO_MISSING, reason="mosquitto is not installed")
    ),
]


@dataclass
class Stand:
    """A broker under test and the authority that it trusts."""

    ca: DevelopmentCA
    port: int
    log: Path
    kind: Kind = Kind.AMQTT
    crl: Path | None = None

    @property
    def can(self) -> Capabilities:
        return CAPABILITIES[self.kind]

    @property
    def version(self) -> Protocol:
        return Protocol(self.can.mqtt_version)

    def device(self, tenant: str = "acme", client: str = "d1") -> CertificateFiles:
        return self.ca.issue_device(tenant, client)

    @asynccontextmanager
    async def link(
        self,
        client_id: str,
        files: CertificateFiles,
        subscriptions: Sequence[str] = (),
        *,
        connects: bool = True,
        session_expiry_s: int = 0,
        receive_maximum: int = 1_000,
    ) -> AsyncIterator[MqttLink]:
        tls = TlsFiles(files.ca, files.cert, files.key)
        link = MqttLink(
            "127.0.0.1",
            self.port,
            client_id,
            tls,
            subscriptions=subscriptions,
            backoff=Backoff(0.02, 0.1),
            protocol=self.version,
            session_expiry_s=session_expiry_s,
            receive_maximum=receive_maximum,
        )
        await link.start()
        try:
            if connects:
                assert await asyncio.wait_for(link.events.get(), 5) == Connected()
            yield link
        finally:
            await link.stop()


@contextmanager
def serving(kind: Kind, folder: Path) -> Iterator[Stand]:
    """A broker as a process, ended in order."""
    ca = DevelopmentCA.open_or_create(folder / "ca")
    files = ca.issue_server("broker")
    crl = write_revoked(ca, folder / "crl.pem")
    settings = BrokerSettings(
        kind, "127.0.0.1", 0, TlsServerFiles(files.ca, files.cert, files.key, crl), folder / "data"
    )
    command = [sys.executable, "-m", "reference.broker", *settings.arguments()]
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline() or "{}")
        assert ready.get("ready") is True, log.read_text()
        assert ready["mqttVersion"] == CAPABILITIES[kind].mqtt_version
        yield Stand(ca, ready["port"], log, kind, crl)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with serving(Kind.AMQTT, tmp_path_factory.mktemp("broker")) as stand:
        yield stand


@pytest.fixture(scope="module", params=KINDS)
def any_stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with serving(request.param, tmp_path_factory.mktemp("broker")) as stand:
        yield stand


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
