"""A small HTTP server on loopback for programs: one request a connection, everything bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from reference.core.errors import ServiceError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1 << 20
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    method: str
    path: tuple[str, ...]
    """Between the slashes."""
    body: bytes
    agent: str
    """Of the caller: its User-Agent."""


@dataclass(frozen=True, slots=True)
class Response:
    """The answer."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"

    def encoded(self) -> bytes:
        """As on the wire."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "Connection: close"]
        if self.status != HTTPStatus.NO_CONTENT:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """Hands every request to one handler."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def listen(self, port: int = 0) -> int:
        """Answers the port. Raises ServiceError."""
        try:
            self._server = await asyncio.start_server(self._serve, HOST, port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            raise ServiceError(f"cannot listen: {error}", where=f"{HOST}:{port}") from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more; requests that are being answered are given up."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio makes one for each connection"
        self._open.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    if (response := await self._answer(reader)) is not None:
                        writer.write(response.encoded())
                        await writer.drain()
        except asyncio.CancelledError:
            pass  # The server closes.
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Response | None:
        try:
            request = await _read(reader)
        except asyncio.IncompleteReadError:
            return None  # The caller has gone.
        except (ValueError, asyncio.LimitOverrunError):
            return Response(400, b"400 Bad Request\n", "text/plain")
        try:
            return await self._handler(request)
        except Exception:  # a defect of ours must not look like a network that is down
            log.exception("a request failed", extra={"path": "/".join(request.path)})
            return Response(500, b'{"error":"it failed","status":500}\n')


async def _read(reader: asyncio.StreamReader) -> Request:
    """Raises ValueError for what is no HTTP, or too long."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, version = head[0].split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("not HTTP/1")
    fields = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:])}
    length = int(fields.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES or "transfer-encoding" in fields:
        raise ValueError("a body that is not taken")
    path = tuple(unquote(part) for part in urlsplit(target).path.strip("/").split("/"))
    return Request(method, path, await reader.readexactly(length), fields.get("user-agent", ""))
