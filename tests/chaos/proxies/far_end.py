"""What stands behind a proxy in tests: small TCP servers that keep what reached them, and a client to talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Self

HOST = "127.0.0.1"
PATIENCE_S = 10.0
"""Longest that anything may take: no proof, only an end to waiting."""

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FarEnd:
    """A server on loopback. Use as `async with FarEnd.echo() as far`."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.port = 0
        self.received = bytearray()
        """What all its connections have sent, in order of coming."""
        self.connections = 0
        self.ended = asyncio.Event()
        """A connection has ended: by the client's end or by a reset."""
        self.resets = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def echo(cls) -> FarEnd:
        """Sends back what it gets."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()

        return cls(behave)

    @classmethod
    def sends(cls, body: bytes) -> FarEnd:
        """Answers the first bytes that it gets with this, and ends the connection."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65_536)
            writer.write(body)
            await writer.drain()

        return cls(behave)

    @classmethod
    def swallows(cls) -> FarEnd:
        """Reads, and never says a word."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(65_536):
                pass

        return cls(behave)

    @classmethod
    def answers_at_the_end(cls) -> FarEnd:
        """Reads until the client's end, and only then says how much came: it needs half-closed connections."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            whole = await reader.read()
            writer.write(b"%d" % len(whole))
            await writer.drain()

        return cls(behave)

    @classmethod
    def resets_after(cls, count: int) -> FarEnd:
        """Resets the connection once so many bytes have come."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(count)
            reset(writer)

        return cls(behave)

    @property
    def open(self) -> int:
        """Connections that there are at this moment."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self.behaviour(_Kept(reader, self.received), writer)  # type: ignore[arg-type]
        except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError):
            self.resets += 1
        except asyncio.CancelledError:
            pass  # The test is over: nobody waits for this task.
        finally:
            self._tasks.discard(task)
            self.ended.set()
            writer.close()


class _Kept:
    """A reader whose bytes are kept."""

    def __init__(self, reader: asyncio.StreamReader, kept: bytearray) -> None:
        self._reader = reader
        self._kept = kept

    async def read(self, count: int = -1) -> bytes:
        chunk = await self._reader.read(count)
        self._kept.extend(chunk)
        return chunk

    async def readexactly(self, count: int) -> bytes:
        chunk = await self._reader.readexactly(count)
        self._kept.extend(chunk)
        return chunk


def reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other end gets a reset, no end."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Came(NamedTuple):
    """What a client got until its connection ended."""

    body: bytes
    how: str
    """`end` or `reset`."""


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, body: bytes) -> None:
        self.writer.write(body)
        await self.writer.drain()

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(count)

    async def asked(self, body: bytes) -> float:
        """Send to an echo, get it back whole; how long that took, in seconds."""
        began = time.monotonic()
        await self.send(body)
        assert await self.exactly(len(body)) == body
        return time.monotonic() - began

    async def rest(self) -> Came:
        """All that comes, and how it ended."""
        body = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    chunk = await self.reader.read(65_536)
                except ConnectionResetError:
                    return Came(bytes(body), "reset")
                if not chunk:
                    return Came(bytes(body), "end")
                body += chunk


@contextlib.asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Client]:
    """A connection to a port of this machine. Raises ConnectionRefusedError."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds. Fails when it does not come to."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
