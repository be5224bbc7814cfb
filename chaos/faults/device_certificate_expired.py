"""The device's certificate has expired."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chaos.faults.base import Family, Fault, Ground, register
from chaos.scenario.model import FaultUse
from reference.edge.inspect import look
from reference.edge.settings import BrokerSettings, load_settings
from reference.pki import store
from reference.pki.authority import DevelopmentCA
from reference.pki.requests import make_request, read_request
from reference.stack.device import Device
from reference.support.files import write_durably

_SINCE = timedelta(minutes=-30)
_GRACE_S = 1.0
_DIAL_S = 5.0


@register
class DeviceCertificateExpired(Fault):
    """One of the bench's authority that was good until half an hour ago, and the agent is started with it."""

    name = "device-certificate-expired"
    family = Family.PARTS
    about = (
        "The agent is started with a certificate that has expired; the good one comes back when it is healed."
    )
    shown_by = "what the broker answers to the agent's certificate, and an agent that is not connected"

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._good: dict[str, Mapping[str, object]] = {}

    async def begin(self) -> None:
        """Put it in place of the good one, and start the agent with it."""
        for device in self.ground.chosen(self.use.device):
            self.ground.guard.path(device.config)
            expired = await asyncio.to_thread(self._issue, device)
            await self._end_agent(device)
            self._good.setdefault(device.client_id, await asyncio.to_thread(_use, device, expired))
            await self.ground.start_agent(device)

    async def heal(self) -> None:
        """The good one again."""
        for device in self.ground.chosen(self.use.device):
            good = self._good.pop(device.client_id, None)
            if good is not None:
                await self._end_agent(device)
                await asyncio.to_thread(_use, device, good)
            if device.agent is None or not device.agent.alive:
                await self.ground.start_agent(device)

    async def fired(self) -> str:
        """It is refused, and so the agent is not connected."""
        said = []
        for device in self.ground.chosen(self.use.device):
            if device.client_id not in self._good:
                return ""
            settings = load_settings(device.config)
            answer = await asyncio.to_thread(_answer, settings.broker)
            live = (await asyncio.to_thread(look, settings, "status")).get("live")
            if "expired" not in answer.lower() or not isinstance(live, dict) or live["connected"]:
                return ""
            said.append(
                f"the broker answers {answer} to {device.client_id}'s certificate, and its agent is not connected"
            )
        return "; ".join(said)

    async def _end_agent(self, device: Device) -> None:
        if device.agent is not None and device.agent.alive:
            await device.agent.stop(_GRACE_S)

    def _issue(self, device: Device) -> Mapping[str, object]:
        """Where the certificate and its key are now."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = read_request(make_request(key).decode())
        authority = DevelopmentCA.open(self.ground.stack.data / "ca", enrolled=_SINCE)
        cert = authority.issue(device.tenant, device.client_id, request)
        paths = {"cert": device.root / "expired.crt", "key": device.root / "expired.key"}
        store.write_private(paths["key"], key)
        store.write(paths["cert"], cert.public_bytes(serialization.Encoding.PEM), 0o644)
        return {name: str(path) for name, path in paths.items()}


def _answer(broker: BrokerSettings) -> str:
    """What the broker says to the certificate that the agent has; empty when it takes it, or is not there."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(broker.ca))
    context.load_cert_chain(broker.cert, broker.key)
    try:
        with (
            socket.create_connection((broker.host, broker.port), _DIAL_S) as dialled,
            context.wrap_socket(dialled, server_hostname=broker.host) as secured,
        ):
            secured.recv(1)  # Under TLS 1.3 the answer comes after the handshake.
    except ssl.SSLError as error:
        return error.reason or str(error)
    except OSError:
        pass
    return ""


def _use(device: Device, files: Mapping[str, object]) -> Mapping[str, object]:
    """Write these into the agent's configuration; which were there."""
    config: Path = device.config
    body = json.loads(config.read_bytes())
    before = {name: body["broker"][name] for name in files}
    body["broker"].update(files)
    write_durably(config, json.dumps(body, indent=1).encode())
    return before
