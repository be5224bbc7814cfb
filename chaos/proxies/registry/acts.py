"""What the front can do to a request: answer it itself, or do something to the answer of the registry on its way."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from chaos.proxies.registry.heads import Head
from chaos.proxies.registry.rules import Asked, Handle

_SLICES_PER_S = 20
_PHRASES = {
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class CutError(Exception):
    """The connection ends here, on purpose."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An act's turn: on which request, and how many bytes of a body come from the registry."""

    asked: Asked
    handle: Handle
    size: int

    def hit(self, count: int = 0) -> None:
        """It was done, to so many bytes."""
        self.handle.hit(self.asked, count)


class Act:
    """Without more it does nothing."""

    def head(self, head: Head, turn: Turn) -> None:
        """Change the answer's head."""

    def body(self, chunks: AsyncIterator[bytes], turn: Turn) -> AsyncIterator[bytes]:  # noqa: ARG002
        """What comes of the body. Raises CutError where the connection is to end."""
        return chunks


@dataclass(frozen=True, slots=True)
class Answered(Act):
    """The registry is not asked at all."""

    status: int
    code: str
    """Of the distribution specification's error codes."""
    message: str
    fields: tuple[tuple[str, str], ...] = ()

    def made(self, *, with_body: bool) -> tuple[Head, bytes]:
        """The whole answer."""
        body = json.dumps({"errors": [{"code": self.code, "message": self.message}]}).encode()
        head = Head(f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, 'Refused')}", list(self.fields))
        head.put("Docker-Distribution-Api-Version", "registry/2.0")
        head.put("Content-Type", "application/json")
        head.put("Content-Length", str(len(body)))
        head.once()
        return head, body if with_body else b""


@dataclass(frozen=True, slots=True)
class Watched(Act):
    """Nothing is done; its handle counts the bytes that pass."""

    async def body(self, chunks: AsyncIterator[bytes], turn: Turn) -> AsyncIterator[bytes]:
        """See the base."""
        turn.hit()
        async for chunk in chunks:
            turn.handle.bytes += len(chunk)
            yield chunk


@dataclass(frozen=True, slots=True)
class Truncated(Act):
    """The connection ends after this part of the body. Its handle counts what did not come."""

    at: float = 0.5

    async def body(self, chunks: AsyncIterator[bytes], turn: Turn) -> AsyncIterator[bytes]:
        """See the base."""
        end = place(turn.size, self.at)
        async for before, rest, _ in _parted(chunks, end):
            if before:
                yield before
            if rest:
                turn.hit(turn.size - end)
                raise CutError


@dataclass(frozen=True, slots=True)
class Corrupted(Act):
    """One bit of one byte is another, at a place that the seed draws for each digest: whichever of several layers comes
    first, each gets its own. Its handle counts bytes."""

    seed: int = 0

    async def body(self, chunks: AsyncIterator[bytes], turn: Turn) -> AsyncIterator[bytes]:
        """See the base."""
        chance = random.Random(f"{self.seed}:{turn.asked.reference}")  # noqa: S311 - repeatable, no secret
        where, bit = place(turn.size, chance.random()), 1 << chance.randrange(8)
        async for before, rest, first in _parted(chunks, where):
            if before:
                yield before
            if rest and first:
                turn.hit(1)
                yield bytes([rest[0] ^ bit]) + rest[1:]
            elif rest:
                yield rest


@dataclass(frozen=True, slots=True)
class WrongLength(Act):
    """The head says `factor` times as many bytes as come. Its handle counts the difference."""

    factor: float

    def said(self, size: int) -> int:
        """What it says of that many bytes; never the truth."""
        wrong = round(size * self.factor)
        return wrong if wrong != size else size + 1

    def head(self, head: Head, turn: Turn) -> None:
        """See the base."""
        head.put("Content-Length", str(self.said(turn.size)))

    async def body(self, chunks: AsyncIterator[bytes], turn: Turn) -> AsyncIterator[bytes]:
        """See the base."""
        turn.hit(abs(self.said(turn.size) - turn.size))
        async for chunk in chunks:
            yield chunk


@dataclass(frozen=True, slots=True)
class Stalled(Act):
    """Nothing comes after this part of the body, until the rule is removed. Its handle counts what was kept back."""

    at: float = 0.5

    async def body(self, chunks: AsyncIterator[bytes], turn: Turn) -> AsyncIterator[bytes]:
        """See the base."""
        end = place(turn.size, self.at)
        async for before, rest, first in _parted(chunks, end):
            if before:
                yield before
            if rest and first:
                turn.hit(turn.size - end)
                began = asyncio.get_running_loop().time()
                try:
                    await turn.handle.ended.wait()
                finally:
                    turn.handle.waited_s += asyncio.get_running_loop().time() - began
            if rest:
                yield rest


@dataclass(frozen=True, slots=True)
class Slowed(Act):
    """So many bytes a second, until the rule is removed. Its handle counts those that had to wait."""

    rate: int

    async def body(self, chunks: AsyncIterator[bytes], turn: Turn) -> AsyncIterator[bytes]:
        """See the base."""
        slice_bytes = max(1, self.rate // _SLICES_PER_S)
        first = True
        async for whole in chunks:
            chunk = whole
            while chunk and turn.handle.in_force:
                part, chunk = chunk[:slice_bytes], chunk[slice_bytes:]
                await self._wait(len(part) / self.rate, turn.handle)
                if first:
                    turn.hit()
                first = False
                turn.handle.bytes += len(part)
                yield part
            if chunk:
                yield chunk

    async def _wait(self, seconds: float, handle: Handle) -> None:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                await handle.ended.wait()
        except TimeoutError:
            pass
        finally:
            handle.waited_s += asyncio.get_running_loop().time() - began


def place(size: int, at: float) -> int:
    """The index of the byte at that part of `size` bytes: one that is there."""
    return max(0, min(int(size * at), size - 1))


async def _parted(chunks: AsyncIterator[bytes], place: int) -> AsyncIterator[tuple[bytes, bytes, bool]]:
    """Each chunk as what lies before the place, and what does not; whether the latter begins at the place."""
    begin = 0
    async for chunk in chunks:
        cut = min(max(place - begin, 0), len(chunk))
        yield chunk[:cut], chunk[cut:], begin <= place
        begin += len(chunk)
