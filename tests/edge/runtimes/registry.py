"""A registry of a hundred lines on loopback that answers well, or fails in a declared way; and images to serve."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from reference.oci.manifests import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, machine_architecture

LayerSource = dict[str, bytes | str] | bytes
"""File name -> content; a `str` is a symbolic link's target. Or a ready tar."""


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_of(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def layer_of(source: LayerSource) -> bytes:
    if isinstance(source, bytes):
        return source
    return tar_of(
        [
            (entry(name, tarfile.SYMTYPE, data), b"") if isinstance(data, str) else (entry(name), data)
            for name, data in source.items()
        ]
    )


@dataclass
class Built:
    """An image as blobs and manifests, by digest."""

    digest: str
    content: dict[str, bytes]
    layers: list[str] = field(default_factory=list)


def build(
    layers: Sequence[LayerSource],
    *,
    argv: Sequence[str] = ("python3", "/app/main.py"),
    env: Sequence[str] = (),
    architecture: str | None = None,
    index: bool = False,
    diff_ids: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Built:
    tars = [layer_of(layer) for layer in layers]
    packed = [gzip.compress(tar, mtime=0) for tar in tars]
    platform = {"architecture": architecture or machine_architecture(), "os": "linux"}
    config = json.dumps(
        {
            **platform,
            "config": {
                "Entrypoint": list(argv[:1]),
                "Cmd": list(argv[1:]),
                "Env": list(env),
                "Labels": dict(labels or {}),
            },
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or [digest(t) for t in tars])},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": digest(p), "size": len(p)} for p in packed],
        }
    ).encode()
    content = {digest(data): data for data in (config, manifest, *packed)}
    name = digest(manifest)
    if index:
        listed = {"mediaType": OCI_MANIFEST, "digest": name, "size": len(manifest), "platform": platform}
        document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]}).encode()
        name = digest(document)
        content[name] = document
    return Built(name, content, [digest(p) for p in packed])


@dataclass
class Registry:
    """What it serves, how it misbehaves (by digest, or `*`), and what it was asked."""

    address: str = ""
    content: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """A status code, `stall`, `drip` (100 bytes a second), `cut` (connection dropped), `short` (ends cleanly too early), `corrupt`, `to:URL`,
    `long`; for ranges: `no-range` (ignored), `not-satisfiable`, `other-range` (not the one asked for)."""
    login: tuple[str, str] | None = None
    challenge: str = ""
    """What `WWW-Authenticate` says; with it only `tokens` open."""
    tokens: set[str] = field(default_factory=set)
    token_answer: bytes | str = b""
    """What `/token` answers; a str is a status code."""
    token_requests: list[tuple[str, str]] = field(default_factory=list)
    """Target and Authorization of each."""
    ranges: list[tuple[str, str]] = field(default_factory=list)
    """Digest and `Range` of each request that had one."""
    content_types: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, built: Built) -> str:
        self.content.update(built.content)
        return built.digest

    def _refusal(self, authorization: str) -> str | None:
        if self.challenge:
            return None if authorization.removeprefix("Bearer ") in self.tokens else "401"
        if self.login is None:
            return None
        wanted = "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
        return None if authorization == wanted else "401"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(1)
            if first == b"\x16":  # An engine tries TLS before it tries without.
                writer.close()
                return
            while head := first + await reader.readuntil(b"\r\n\r\n"):
                first = b""
                lines = head.decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
                target = lines[0].split(" ")[1]
                if target.startswith("/token"):
                    self._issue(target, headers.get("authorization", ""), writer)
                    continue
                name = target.rpartition("/")[2]
                if target == "/v2/":
                    self._welcome(headers.get("authorization", ""), writer)
                    continue
                self.asked.append(name)
                self.authorizations.append(headers.get("authorization", ""))
                if not await self._answer(name, headers, writer):
                    break
        writer.close()

    def _welcome(self, authorization: str, writer: asyncio.StreamWriter) -> None:
        """What an engine asks first: whether this is a registry, and how it wants to be asked."""
        if self._refusal(authorization):
            challenge = self.challenge or 'Basic realm="test"'
            writer.write(
                f"HTTP/1.1 401 x\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode()
            )
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def _issue(self, target: str, authorization: str, writer: asyncio.StreamWriter) -> None:
        self.token_requests.append((target, authorization))
        status, body = (
            (self.token_answer, b"") if isinstance(self.token_answer, str) else ("200", self.token_answer)
        )
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    async def _answer(self, name: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        fault = (
            self._refusal(headers.get("authorization", ""))
            or self.faults.get(name)
            or self.faults.get("*", "")
        )
        data = self.content.get(name)
        if fault.startswith("to:"):
            writer.write(
                f"HTTP/1.1 307 x\r\nLocation: {fault[3:]}{name}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            return True
        if data is None or fault.isdigit():
            more = f"WWW-Authenticate: {self.challenge}\r\n" if self.challenge else ""
            writer.write(f"HTTP/1.1 {fault or 404} x\r\n{more}Content-Length: 0\r\n\r\n".encode())
            return True
        if fault == "long":
            data, fault = data + b"x", ""
        if "range" in headers:
            return self._part(name, data, headers["range"], fault, writer)
        size = len(data) // 2 if fault == "short" else len(data)
        kind = f"Content-Type: {said}\r\n" if (said := self.content_types.get(name)) else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{kind}Content-Length: {size}\r\n\r\n".encode())
        if fault == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault in ("stall", "cut"):
            writer.write(data[: len(data) // 2])
            await writer.drain()
            self.stalled.set()
            if fault == "stall":
                await asyncio.sleep(3600)
            return False
        if fault == "drip":
            for byte in data[:1000]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.01)
            return False
        writer.write(data[:size])
        await writer.drain()
        return True

    def _part(self, name: str, data: bytes, asked: str, fault: str, writer: asyncio.StreamWriter) -> bool:
        self.ranges.append((name, asked))
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        said = f"Content-Range: bytes {start}-{len(data) - 1}/{len(data)}\r\n"
        if fault == "not-satisfiable":
            writer.write(b"HTTP/1.1 416 x\r\nContent-Length: 0\r\n\r\n")
            return True
        if fault == "no-range":
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            return True
        if fault == "other-range":
            said = f"Content-Range: bytes 0-{len(data) - start - 1}/{len(data)}\r\n"
        part = data[start:]
        if fault == "corrupt":
            part = part[:-1] + bytes([part[-1] ^ 1])
        length = len(part)
        if fault in ("cut", "short"):
            part = part[: len(part) // 2]
            length = len(part) if fault == "short" else length
        writer.write(f"HTTP/1.1 206 x\r\n{said}Content-Length: {length}\r\n\r\n".encode() + part)
        return fault != "cut"


@contextlib.asynccontextmanager
async def running_registry() -> AsyncIterator[Registry]:
    registry, tasks = Registry(), set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await registry.serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    registry.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield registry
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
