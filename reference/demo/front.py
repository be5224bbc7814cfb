"""A thin proxy before the registry that fails on purpose: which way, the repository's name says.

It knows HTTP just well enough to find the path of a request; everything that is not to fail passes through unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field

from reference.stack import HOST

FRONT = "front"
"""The name by which stories ask for it."""
DENIED, CORRUPTED, STALLED = "opc-client-denied", "opc-client-corrupted", "opc-client-stalled"
"""Repositories that fail: with 403, by a changed byte in each layer, by silence in the middle of each layer."""
HELD = "opc-client-held-"
"""Repositories whose names begin so stand still in the middle of a blob, until they are let go."""
HEAD_BYTES, CHUNK_BYTES = 65_536, 65_536
UPSTREAM_S = 10.0
_DENIAL = b'{"errors":[{"code":"DENIED","message":"this device may not have it"}]}'


@dataclass(slots=True)
class _Gate:
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


class Front:
    """One listener on loopback, run in this process."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._upstream = ("", 0)
        self._stalled = asyncio.Event()
        self._released = asyncio.Event()
        self._gates: dict[str, _Gate] = defaultdict(_Gate)
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, upstream: str) -> None:
        """Listen, and pass on to `upstream` (`host:port`)."""
        host, _, port = upstream.partition(":")
        self._upstream = (host, int(port))
        self._server = await asyncio.start_server(self._serve, HOST, 0, limit=HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def host(self) -> str:
        """`host:port`, as in a reference."""
        return f"{HOST}:{self.port}"

    async def stop(self) -> None:
        """Close everything, stalled answers too."""
        if self._server is not None:
            self._server.close()
        self._released.set()
        for gate in self._gates.values():
            gate.open.set()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def stalled_once(self) -> None:
        """Return when a layer stands still. Raises TimeoutError after 10 s."""
        async with asyncio.timeout(10):
            await self._stalled.wait()

    async def held_once(self, repository: str) -> None:
        """Return when a blob of a repository that is held stands still. Raises TimeoutError after 10 s."""
        async with asyncio.timeout(10):
            await self._gates[repository].reached.wait()

    def let_go(self, repository: str) -> None:
        """From now on it passes through whole."""
        self._gates[repository].open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # Either end has gone: so has the other.
        finally:
            self._running.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode("ascii", "replace")
        if f"/{DENIED}/" in path:
            writer.write(
                b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(_DENIAL), _DENIAL)
            )
            await writer.drain()
            return
        async with asyncio.timeout(UPSTREAM_S):
            back, forth = await asyncio.open_connection(*self._upstream, limit=HEAD_BYTES)
        try:
            forth.write(_once(head))
            await forth.drain()
            await self._pass_on(back, writer, path if "/blobs/" in path else "")
        finally:
            forth.close()

    async def _pass_on(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter, blob: str) -> None:
        """The answer, and what happens to a blob of the repositories that fail."""
        writer.write(await back.readuntil(b"\r\n\r\n"))
        first = True
        while chunk := await back.read(CHUNK_BYTES):
            if first and f"/{CORRUPTED}/" in blob:
                chunk = bytes([chunk[0] ^ 0xFF]) + chunk[1:]
            if f"/{STALLED}/" in blob:
                writer.write(chunk[: len(chunk) // 2])
                await writer.drain()
                self._stalled.set()
                await self._released.wait()
                return
            if first and f"/{HELD}" in blob:
                writer.write(chunk[: len(chunk) // 2])
                await writer.drain()
                gate = self._gates[blob.split("/")[2]]
                gate.reached.set()
                await gate.open.wait()
                chunk = chunk[len(chunk) // 2 :]
            writer.write(chunk)
            await writer.drain()
            first = False


def _once(head: bytes) -> bytes:
    """The request's head, for a connection that ends with its answer.

    The Host stays that of the front: what the registry says of itself leads back here.
    """
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines[:-2], b"Connection: close", b"", b""])
