"""A reader's HTTP server for onlookers: GET and HEAD of a few fixed paths, on loopback or on a socket in a folder.

One request a connection, everything bounded: whoever asks can neither change anything nor hold anything up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from reference.core.errors import BlackstartError, DeviceError

log = logging.getLogger("reference.edge")

MAX_HEAD_BYTES = 8 * 1024
MAX_CONNECTIONS = 32
TIMEOUT_S = 5.0
"""How long a request may take to arrive, and an answer to be taken."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def of(cls, value: object, status: int = 200) -> Response:
        """As JSON."""
        return cls(json.dumps(value).encode() + b"\n", status, "application/json")


Handler = Callable[[], Response]


class Server:
    """Answers `routes` (path -> handler, quick and without side effects) wherever it is told to listen."""

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._routes = dict(routes)
        self._servers: list[asyncio.Server] = []
        self._sockets: list[Path] = []
        self._open = 0

    async def listen(self, port: int) -> int:
        """Listen on loopback; 0 is any free port. Answers the port. Raises DeviceError."""
        try:
            server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            raise DeviceError(
                f"port {port} cannot be listened on: {error.strerror}",
                where="status_port",
                todo="Choose another port.",
            ) from None
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def listen_at(self, path: Path) -> None:
        """Listen on a unix socket that only its owner may use; one that nobody listens on any more is replaced.

        Raises DeviceError.
        """
        listener = socket.socket(socket.AF_UNIX)
        try:
            _make_way(path)
            with short_name(path) as name:
                listener.bind(name)
                os.chmod(name, 0o600)  # noqa: PTH101 - nobody can connect before it listens
            server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_HEAD_BYTES)
        except OSError as error:
            listener.close()
            raise DeviceError(f"cannot be listened on: {error.strerror}", where=str(path)) from None
        self._servers.append(server)
        self._sockets.append(path)

    async def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        for path in self._sockets:
            with contextlib.suppress(OSError):
                path.unlink()
        self._servers, self._sockets = [], []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    writer.write(await self._answer(reader))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except asyncio.CancelledError:
            return  # the agent ends
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        if self._open > MAX_CONNECTIONS:
            return b""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError:
            return _encoded(Response(b"the request is too long\n", 431))
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _encoded(Response(b"not HTTP\n", 400))
        if words[0] not in ("GET", "HEAD"):
            return _encoded(Response(b"here is only something to look at\n", 405), allow=True)
        return _encoded(self._handled(words[1]), head_only=words[0] == "HEAD")

    def _handled(self, target: str) -> Response:
        try:
            path = urlsplit(target).path
        except ValueError:
            return Response(b"not a path\n", 400)
        handler = self._routes.get(path)
        if handler is None:
            return Response(f"known: {' '.join(self._routes)}\n".encode(), 404)
        try:
            return handler()
        except BlackstartError as error:
            return Response.of({"reason": error.reason, "message": str(error)}, 503)
        except Exception:  # whoever looks on must not end the agent
            log.exception("a view failed", extra={"path": path})
            return Response(b"it failed\n", 500)


def _encoded(response: Response, *, head_only: bool = False, allow: bool = False) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(["Allow: GET, HEAD"] if allow else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else response.body)


def _make_way(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name for a socket that is short enough for the kernel (107 bytes), however deep its folder lies."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
