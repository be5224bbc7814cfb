"""As much of HTTP/1.1 as the front needs: heads of messages, bodies, and what a request to a registry is about."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

READ_BYTES = 65_536
MAX_HEAD_BYTES = 65_536

What = Literal["manifest", "blob", "ping", "token", "other"]
_CONTENT = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")
_HOP_BY_HOP = ("connection", "keep-alive", "proxy-connection")


class MessageError(Exception):
    """What came is no HTTP, or ends before it should."""


@dataclass(slots=True)
class Head:
    """A first line and its fields, in their order."""

    first: str
    fields: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """Raises MessageError."""
        first, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        if first.count(" ") < 1 or not all(colon for _, colon, _ in pairs):
            raise MessageError("no head of HTTP")
        return cls(first, [(name.strip(), value.strip()) for name, _, value in pairs])

    def get(self, name: str) -> str | None:
        """The first field of that name."""
        return next((value for given, value in self.fields if given.lower() == name.lower()), None)

    def put(self, name: str, value: str | None) -> None:
        """The only field of that name from now on; None: there is none."""
        self.fields = [pair for pair in self.fields if pair[0].lower() != name.lower()]
        if value is not None:
            self.fields.append((name, value))

    def once(self) -> None:
        """For a connection that ends with its answer."""
        for name in _HOP_BY_HOP:
            self.put(name, None)
        self.put("Connection", "close")

    def to_bytes(self) -> bytes:
        """As it travels."""
        lines = [self.first, *(f"{name}: {value}" for name, value in self.fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def status(self) -> int:
        """Of an answer. Raises MessageError."""
        word = self.first.split(" ", 2)[1]
        if not (word.isascii() and word.isdigit() and len(word) == 3):
            raise MessageError("no status")
        return int(word)

    @property
    def length(self) -> int | None:
        """What it says of its body, in bytes; None: nothing that can be used."""
        said = self.get("Content-Length") or ""
        return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else None

    @property
    def chunked(self) -> bool:
        """Whether its body comes in chunks of its own."""
        return (self.get("Transfer-Encoding") or "").lower().endswith("chunked")


async def read_head(reader: asyncio.StreamReader, begun: bytes = b"") -> Head:
    """The next one; `begun` was read of it before. Raises MessageError, OSError."""
    try:
        return Head.parse(begun + await reader.readuntil(b"\r\n\r\n"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise MessageError("a head that does not end") from error


def read_body(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    """The body of an answer, as its sender meant it and the head says now. Raises MessageError when it ends early."""
    return _chunks(reader) if head.chunked else _bytes(reader, head.length)


async def _bytes(reader: asyncio.StreamReader, left: int | None) -> AsyncIterator[bytes]:
    while left is None or left > 0:
        chunk = await reader.read(READ_BYTES if left is None else min(left, READ_BYTES))
        if not chunk:
            if left is not None:
                raise MessageError(f"{left} bytes are missing")
            return
        left = None if left is None else left - len(chunk)
        yield chunk


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    try:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            for begin in range(0, size, READ_BYTES):
                yield await reader.readexactly(min(READ_BYTES, size - begin))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise MessageError("chunks that do not end") from error


def about(path: str) -> tuple[What, str, str]:
    """What a request for `path` is for: its kind, the repository, and the tag or digest."""
    if path.rstrip("/") == "/v2":
        return "ping", "", ""
    if (found := _CONTENT.fullmatch(path)) is not None:
        kind: What = "manifest" if found["kind"] == "manifests" else "blob"
        return kind, found["name"], found["reference"]
    return ("token" if path.rstrip("/").endswith("/token") else "other"), "", ""
