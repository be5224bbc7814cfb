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
_PATIENCE_S = 0.3


@register
class DeviceCertificateExpired(Fault):
    """One of the bench's authority that was good until half an hour ago, and the agent is started with it."""

    name = "device-certificate-expired"
    family = Family.PARTS
    about = (
        "The agent is started with a certificate that has expired; the good one comes back when it is healed."
    )
    shown_by = "a broker that hangs up on this certificate and not on the good one, and an agent that is not connected"

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._good: dict[str, Mapping[str, object]] = {}
        self._issued: dict[str, Mapping[str, object]] = {}
        self._starting: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """See the base: the certificate."""
        for device in self.ground.chosen(self.use.device):
            self.ground.guard.path(device.config)
            self._issued[device.client_id] = await asyncio.to_thread(self._issue, device)

    async def begin(self) -> None:
        """Put it in place of the good one, and start the agent with it."""
        if not self._issued:
            await self.prepare()
        for device in self.ground.chosen(self.use.device):
            expired = self._issued[device.client_id]
            if device.agent is not None:
                await device.agent.kill()
            self._good.setdefault(device.client_id, await asyncio.to_thread(_use, device, expired))
            self._starting.append(asyncio.create_task(self.ground.start_agent(device)))

    async def heal(self) -> None:
        """The good one again."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        for device in self.ground.chosen(self.use.device):
            good = self._good.pop(device.client_id, None)
            if good is not None:
                await self._end_agent(device)
                await asyncio.to_thread(_use, device, good)
            if device.agent is None or not device.agent.alive:
                await self.ground.start_agent(device)

    async def fired(self) -> str:
        """It is refused, and so the agent is not connected."""
        await asyncio.gather(*self._starting)
        said = []
        for device in self.ground.chosen(self.use.device):
            if device.client_id not in self._good:
                return ""
            settings = load_settings(device.config)
            ours, good = _chain(settings.broker), self._good[device.client_id]
            gone = await asyncio.to_thread(_hangs_up, settings.broker, ours)
            taken = not await asyncio.to_thread(
                _hangs_up, settings.broker, (str(good["cert"]), str(good["key"]))
            )
            live = (await asyncio.to_thread(look, settings, "status")).get("live")
            if not gone or not taken or not isinstance(live, dict) or live["connected"]:
                return ""
            ended = (await asyncio.to_thread(store.read_certificate, Path(ours[0]))).not_valid_after_utc
            said.append(
                f"{device.client_id}'s certificate ended at {ended:%H:%M:%S} UTC; the broker hangs up on it and not on the "
                "good one, and the agent is not connected"
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


def _chain(broker: BrokerSettings) -> tuple[str, str]:
    return (str(broker.cert), str(broker.key))


def _hangs_up(broker: BrokerSettings, chain: tuple[str, str]) -> bool:
    """Whether the broker ends a connection with this certificate at once, before a word of MQTT was said."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(broker.ca))
    context.load_cert_chain(*chain)
    try:
        with (
            socket.create_connection((broker.host, broker.port), _DIAL_S) as dialled,
            context.wrap_socket(dialled, server_hostname=broker.host) as secured,
        ):
            secured.settimeout(
                _PATIENCE_S
            )  # Under TLS 1.3 it is told after the handshake, if it is told at all.
            return not secured.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True


def _use(device: Device, files: Mapping[str, object]) -> Mapping[str, object]:
    """Write these into the agent's configuration; which were there."""
    config: Path = device.config
    body = json.loads(config.read_bytes())
    before = {name: body["broker"][name] for name in files}
    body["broker"].update(files)
    write_durably(config, json.dumps(body, indent=1).encode())
    return before
