"""`python -m reference.service`: the service as a process.

Says `{"ready": true, "port": N}` on standard output, one line, once it answers; logs go to standard error. Ends with
0 on SIGTERM or SIGINT, with 2 for settings that cannot be, with 1 when it could not work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn

from reference.core.errors import BlackstartError, InputError
from reference.protocol.topics import service_subscriptions
from reference.service.app import Parts, create_app
from reference.service.auth import DevelopmentIssuer
from reference.service.settings import DATABASE, Settings, read_settings
from reference.service.store import Store
from reference.support import logging as logs
from reference.support.mqtt import MqttLink

log = logging.getLogger(__name__)
SHUTDOWN_S = 3
"""How long requests under way may take to end after SIGTERM."""


class _Server(uvicorn.Server):
    """A server that says when it is ready, and leaves signals to `main`."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit and sockets:
            line = json.dumps({"ready": True, "port": sockets[0].getsockname()[1]})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own way re-raises the signal at the end, which turns a clean end into a death by signal."""
        yield


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    logs.configure("service")
    try:
        settings = read_settings(arguments)
        listener = _listen(settings)
        issuer = DevelopmentIssuer.open(settings.data)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        with listener:
            return asyncio.run(_serve(settings, listener, issuer))
    except BlackstartError as error:
        sys.stderr.write(f"{error}\n")
        return 1


async def _serve(settings: Settings, listener: socket.socket, issuer: DevelopmentIssuer) -> int:
    link = MqttLink(
        settings.broker_host,
        settings.broker_port,
        settings.client_id,
        settings.tls,
        subscriptions=service_subscriptions(),
    )
    store = await asyncio.to_thread(Store.open, settings.data / DATABASE)
    app = create_app(Parts(store, link, settings.signing_key, issuer, health=settings.health))
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
    )

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve(sockets=[listener])
    return 0 if server.started else 1


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise InputError(
            f"cannot listen: {error.strerror}", where=where, todo="Choose another port, or 0 for any."
        ) from None
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
