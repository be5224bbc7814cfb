"""One request and its answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from chaos.proxies.registry.acts import Answered, CutError, Turn
from chaos.proxies.registry.heads import (
    MAX_HEAD_BYTES,
    READ_BYTES,
    Head,
    about,
    read_body,
    read_head,
)
from chaos.proxies.registry.rules import Asked, Handle, Request
from reference.core.errors import BlackstartError
from reference.oci import manifests
from reference.oci.digests import sha256_of

if TYPE_CHECKING:
    from chaos.proxies.registry.front import RegistryFront

UPSTREAM_S = 10.0
_BODILESS = (204, 304)


class Exchange:
    """Between one client and the registry, or what stands in for it."""

    def __init__(
        self,
        front: RegistryFront,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[str, int],
        *,
        secure: bool,
    ) -> None:
        self._front = front
        self._reader = reader
        self._writer = writer
        self._upstream = upstream
        self._scheme = "https" if secure else "http"
        self._forth: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        self._host = ""
        self._status = 0
        self._sent = 0

    async def run(self, begun: bytes) -> None:
        """Serve it to its end, or until the client hangs up. `begun`: what was read already. Raises OSError."""
        head = await read_head(self._reader, begun)
        asked = self._read(head)
        work = asyncio.ensure_future(self._work(head, asked))
        client = asyncio.ensure_future(self._hear_client())
        try:
            await asyncio.wait({work, client}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, client):
                task.cancel()
            outcomes = await asyncio.gather(work, client, return_exceptions=True)
            self._front.tell(Request.of(asked, self._status, self._sent))
        if isinstance(outcomes[0], Exception) and not isinstance(outcomes[0], CutError):
            self._break_off()

    def _break_off(self) -> None:
        """As the registry did; with a reset, because a mere end could be taken for the whole."""
        if (connection := self._writer.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def _read(self, head: Head) -> Asked:
        method, target = [*head.first.split(" "), ""][:2]
        path = target.partition("?")[0]
        kind, repository, reference = about(path)
        self._host = head.get("Host") or self._front.host
        layer = kind == "blob" and self._front.pulls.is_layer(repository, reference)
        return Asked(method, path, kind, repository, reference, head.get("Range"), layer)

    async def _hear_client(self) -> None:
        """Pass on what else the client says, until it hangs up."""
        while data := await self._reader.read(READ_BYTES):
            forth = await asyncio.shield(self._forth)
            forth.write(data)
            await forth.drain()

    async def _work(self, head: Head, asked: Asked) -> None:
        await self._front.stand(asked)
        if (handle := self._front.instead(asked)) is not None:
            await self._answer(handle, asked)
            return
        async with asyncio.timeout(UPSTREAM_S):
            back, forth = await asyncio.open_connection(*self._upstream, limit=MAX_HEAD_BYTES)
        try:
            head.once()
            if self._scheme == "https":
                head.put("X-Forwarded-Proto", "https")
            forth.write(head.to_bytes())
            self._forth.set_result(forth)
            await forth.drain()
            await self._pass_on(back, asked)
        finally:
            forth.close()
            with contextlib.suppress(OSError):
                await forth.wait_closed()

    async def _answer(self, handle: Handle, asked: Asked) -> None:
        act = handle.rule.act
        assert isinstance(act, Answered)
        head, body = act.made(with_body=asked.method != "HEAD")
        self._writer.write(head.to_bytes() + body)
        self._status, self._sent = act.status, len(body)
        handle.hit(asked, len(body))
        await self._writer.drain()

    async def _pass_on(self, back: asyncio.StreamReader, asked: Asked) -> None:
        while (head := await read_head(back)).status < 200:
            self._writer.write(head.to_bytes())  # "100 Continue": the client may send its body.
        status, size = head.status, head.length or 0
        if asked.method == "HEAD" or status in _BODILESS:
            self._say(head, status)
            await self._writer.drain()
            return
        content = asked.method == "GET" and status in (200, 206) and size > 0
        chunks = read_body(back, head)
        if content and status == 200 and asked.kind == "manifest":
            chunks = self._learned(chunks, asked)
        if content:
            for handle in self._front.on_the_way(asked):
                act, turn = handle.rule.act, Turn(asked, handle, size)
                act.head(head, turn)
                chunks = act.body(chunks, turn)
            if asked.kind == "blob":
                chunks = self._front.pulls.through(asked.repository, asked.reference, _start(head), chunks)
        self._say(head, status)
        async for chunk in chunks:
            self._writer.write(chunk)
            self._sent += len(chunk)
            await self._writer.drain()

    def _say(self, head: Head, status: int) -> None:
        """The head, for this connection, and with addresses that lead back here."""
        if head.chunked:
            head.put("Transfer-Encoding", None)  # It ends with the connection.
        for name in ("Location", "WWW-Authenticate"):
            if (said := head.get(name)) is not None:
                head.put(name, self._back_here(said))
        head.once()
        self._writer.write(head.to_bytes())
        self._status = status

    def _back_here(self, said: str) -> str:
        here = f"{self._scheme}://{self._host}/"
        said = said.replace(f"http://{self._front.upstream}/", here)
        return said.replace(f"http://{self._host}/", here)

    async def _learned(self, chunks: AsyncIterator[bytes], asked: Asked) -> AsyncIterator[bytes]:
        """A manifest, passed on whole once it is known which layers it names."""
        data = b"".join([chunk async for chunk in chunks])
        with contextlib.suppress(BlackstartError):
            document = manifests.parse_document(data, None)
            if isinstance(document, manifests.Manifest):
                layers = {layer.digest: layer.size for layer in document.layers}
                self._front.pulls.begin(asked.repository, sha256_of(data), layers)
        yield data


def _start(head: Head) -> int:
    """Where in the blob the answer's first byte lies."""
    said = (head.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0].strip()
    return int(said) if head.status == 206 and said.isascii() and said.isdigit() else 0
