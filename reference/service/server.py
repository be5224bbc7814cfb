"""The socket and the server on it: HTTP/1.1 by uvicorn, over TLS where that is configured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from reference.core.errors import InputError, Reason
from reference.service.middleware import MAX_HEADER_BYTES, MAX_URL_BYTES
from reference.service.problems import problem

SHUTDOWN_S = 3
"""How long requests under way may take to end after SIGTERM."""
HEADERS_S = 10.0
"""How long the headers of a request may take to arrive."""
KEEP_ALIVE_S = 15
"""How long a connection may rest between two requests: longer than it takes a console or gateway to ask again."""
MAX_CONNECTIONS = 2_000
"""Beyond that requests are answered with 503."""


class PatientProtocol(H11Protocol):
    """uvicorn's, which waits for ever for the headers of a request, with an end to its patience."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection; its first request is awaited."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its end."""
        self._enough()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request. Headers that come drop by drop do not start the clock anew."""
        super().data_received(data)
        # There is none before the first request, whatever uvicorn's annotation says.
        if not getattr(self.cycle, "response_complete", True):
            self._enough()
        elif self._patience is None:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP is answered with a problem like everything else."""
        response = problem(400, Reason.INVALID_INPUT, msg, "about:blank")
        head = [b"HTTP/1.1 400 Bad Request", b"connection: close"]
        head += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + bytes(response.body))
        self.transport.close()

    def _wait(self) -> None:
        self._patience = self.loop.call_later(HEADERS_S, self.transport.close)

    def _enough(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class Server(uvicorn.Server):
    """A server that says when it is ready, and leaves signals to its owner."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so in one line on standard output."""
        await super().startup(sockets)
        if self.started and not self.should_exit and sockets:
            line = {"ready": True, "port": sockets[0].getsockname()[1]}
            line["scheme"] = "https" if self.config.ssl else "http"
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own way re-raises the signal at the end, which turns a clean end into a death by signal."""
        yield


def make_server(app: ASGIApp, tls: ssl.SSLContext | None) -> Server:
    """A server for the application; `serve(sockets=[...])` runs it."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        # The gateway before the service is told by its certificate or not at all, never by a header.
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        # More than the application accepts, so that it can answer in words.
        h11_max_incomplete_event_size=2 * (MAX_HEADER_BYTES + MAX_URL_BYTES),
    )
    config.load()
    config.ssl = tls
    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises InputError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise InputError(
            f"cannot listen: {error.strerror}",
            where=f"{host}:{port}",
            todo="Choose another port, or 0 for any.",
        ) from None
    return listener
