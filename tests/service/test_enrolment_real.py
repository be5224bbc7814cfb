"""Enrolment over real sockets: HTTPS, the broker's list of revoked certificates, the device's own command."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import hashes

from reference.edge import enrol
from reference.edge.identity import Identities, load_certificate
from reference.edge.renewal import Renewal
from reference.edge.settings import load_settings
from reference.pki import DevelopmentCA, command_signing_key
from reference.service.auth import Role, issue_token
from reference.support.mqtt import Backoff, Connected, Disconnected, LinkError, MqttLink, TlsFiles
from reference.support.processes import ManagedProcess, start_module

PATIENCE_S = 15


@dataclass
class Site:
    """A broker and a service, each a process."""

    folder: Path
    ca: DevelopmentCA
    broker_port: int
    url: str

    def link(self, tls: TlsFiles) -> MqttLink:
        return MqttLink("127.0.0.1", self.broker_port, "acme.press-1", tls, backoff=Backoff(0.02, 0.1))

    async def post(self, path: str, body: object = None) -> dict[str, object]:
        token = issue_token(self.folder / "service", "acme", Role.ADMINISTRATOR)
        async with httpx.AsyncClient(verify=self.trust(), base_url=self.url) as http:
            answer = await http.post(path, json=body, headers={"Authorization": f"Bearer {token}"})
        assert answer.is_success, answer.text
        found: dict[str, object] = answer.json()
        return found

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca.certificate))


@asynccontextmanager
async def site_at(folder: Path, kind: str) -> AsyncIterator[Site]:
    ca = DevelopmentCA.open_or_create(folder / "ca")
    server, service = ca.issue_server("broker"), ca.issue_service()
    parts: list[ManagedProcess] = []

    async def start(name: str, *arguments: str) -> int:
        part = await start_module(f"reference.{name}", *arguments, log_path=folder / f"{name}.log")
        parts.append(part)
        port = (await part.ready())["port"]
        assert isinstance(port, int)
        return port

    try:
        broker_port = await start(
            "broker", "--kind", kind, "--data", str(folder / "broker"), "--port", "0", "--ca", str(server.ca),
            "--cert", str(server.cert), "--key", str(server.key), "--crl", str(ca.revoked),
        )  # fmt: skip
        port = await start(
            "service", "--data", str(folder / "service"), "--port", "0", "--tls-dev", "--ca-dir", str(folder / "ca"),
            "--broker-host", "127.0.0.1", "--broker-port", str(broker_port), "--ca", str(service.ca),
            "--cert", str(service.cert), "--key", str(service.key),
            "--signing-key", str(command_signing_key(folder / "signing").private),
        )  # fmt: skip
        yield Site(folder, ca, broker_port, f"https://127.0.0.1:{port}")
    finally:
        for part in reversed(parts):
            await part.stop()


async def _next(link: MqttLink, wanted: type) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(await link.events.get(), wanted):
            pass


@pytest.mark.parametrize("kind", ["amqtt", "mosquitto"])
async def test_enrolled_renewed_and_revoked(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "mosquitto" and shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        pytest.skip("mosquitto is not installed")
    state = tmp_path / "device"
    async with site_at(tmp_path, kind) as site:
        made = await site.post("/api/v1/clients", {"clientId": "press-1"})
        fingerprint = site.ca.authority.fingerprint(hashes.SHA256()).hex()
        arguments = ["--url", site.url, "--token", str(made["registrationToken"]), "--state", str(state)]
        code = await asyncio.to_thread(enrol.main, [*arguments, "--ca-fingerprint", fingerprint])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert json.loads(captured.out)["clientId"] == "press-1"
        settings = load_settings(state / "edge.json")
        assert (settings.broker.host, settings.broker.port) == ("127.0.0.1", site.broker_port)

        first = load_certificate(settings.broker.cert)
        link = site.link(TlsFiles(settings.broker.ca, settings.broker.cert, settings.broker.key))
        await link.start()
        try:
            await _next(link, Connected)
            renewal = Renewal.of(settings, link)
            assert renewal is not None
            assert await renewal.look() is False
            renewal._now_s = lambda: (first.not_valid_after_utc - timedelta(days=1)).timestamp()
            assert await renewal.look() is True
            await _next(link, Connected)
            second = load_certificate(Identities(state).files.cert)
            assert second.serial_number != first.serial_number

            revoked = await site.post("/api/v1/clients/press-1/revoke")
            assert revoked["revokedCertificates"] == 2
            assert revoked["published"] is True
            await _next(link, Disconnected)
            async with asyncio.timeout(PATIENCE_S):
                while True:  # the broker looks at its list a few times a second
                    try:
                        await link.renew(Identities(state).files)
                    except LinkError:
                        break
            assert not link.connected
        finally:
            await link.stop()

        again = await site.post("/api/v1/clients/press-1/registration-token")
        arguments[3] = str(again["registrationToken"])
        code = await asyncio.to_thread(enrol.main, [*arguments, "--ca", str(site.ca.certificate), "--force"])
        assert code == 0, capsys.readouterr().err
        back = site.link(Identities(state).files)
        await back.start()
        try:
            await _next(back, Connected)
        finally:
            await back.stop()
