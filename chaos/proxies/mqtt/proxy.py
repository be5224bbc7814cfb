"""Owns the listeners of a bench and the API beside them."""

from __future__ import annotations

import hashlib

from chaos.proxies.mqtt.api import ToxicApi
from chaos.proxies.mqtt.http import HOST, Server
from chaos.proxies.mqtt.tls import Tls
from chaos.proxies.mqtt.way import MqttWay
from reference.core.errors import InputError
from reference.pki.authority import CertificateFiles
from reference.support.addresses import is_loopback


class MqttProxy:
    """`start` it, ask for a `way` for each client, `stop` it. Runs in this process."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        """Of all that toxics draw, where they are given none of their own."""
        self.ways: dict[str, MqttWay] = {}
        self.api_port = 0
        """Where Toxiproxy's API is spoken, on loopback, once started."""
        self._server = Server(ToxicApi(self.ways, seed))

    async def start(self) -> None:
        """Speak the API. Raises ServiceError."""
        self.api_port = await self._server.listen()

    async def stop(self) -> None:
        """Cut everything, and listen no more; again is success."""
        await self._server.close()
        for way in tuple(self.ways.values()):
            await way.disable()

    async def way(
        self,
        name: str,
        *,
        upstream_host: str,
        upstream_port: int,
        server_files: CertificateFiles | None = None,
        client_files: CertificateFiles | None = None,
        port: int = 0,
    ) -> MqttWay:
        """A listener for one client, enabled. Without files plain TCP at both sides.

        `server_files`: shown to the client. `client_files`: the client's own, with which the broker is reached, and
        whose name the client has to have. Raises InputError, ServiceError.
        """
        if name in self.ways:
            raise InputError("there is a way of that name", where=name)
        if not is_loopback(upstream_host):
            raise InputError(
                "not loopback", where=upstream_host, todo="Faults are for parts of this machine only."
            )
        if (server_files is None) != (client_files is None):
            raise InputError("both pairs of certificates are needed, or none", where=name)
        tls = (
            Tls(server_files, client_files) if server_files is not None and client_files is not None else None
        )
        drawn = int.from_bytes(hashlib.sha256(f"{self.seed}/{name}".encode()).digest()[:8], "big")
        way = MqttWay(name, f"{upstream_host}:{upstream_port}", f"{HOST}:{port}", tls, drawn)
        await way.enable()
        self.ways[name] = way
        return way
