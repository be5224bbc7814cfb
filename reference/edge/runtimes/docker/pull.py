"""One pull by the engine: every line of it is read, silence is ended, and a cancel ends it in the engine, too.

The SDK's stream cannot be ended while it waits for the engine's first word, so the call is made here, over the same
socket. Before it, the manifest is asked for by our own client: sizes and architecture are known before a layer comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from docker.auth import encode_header

from reference.core.errors import BlackstartError, EngineError, ImageError, Reason, RegistryError
from reference.core.model import Image
from reference.edge import disk
from reference.edge.credentials import Login
from reference.edge.runtimes.base import OnProgress, PullProgress
from reference.edge.runtimes.docker.engine import Document, Engine, EngineFacts
from reference.edge.runtimes.docker.words import engine_error, pull_error
from reference.edge.runtimes.pull import Access, PullLimits, unpacked_bytes
from reference.edge.runtimes.registry import Patience, Repository, opened
from reference.oci import manifests
from reference.oci.references import is_host, is_name

_ASK_MS = 5_000
"""How long the manifest may take that only tells sizes: the engine asks for it itself."""
_SHORT = 12
_JOIN_S = 5.0
_OF_THE_IMAGE = (Reason.WRONG_ARCHITECTURE, Reason.IMAGE_TOO_LARGE)


class _Connection(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path
        self._hung_up = False

    def connect(self) -> None:
        """See the base."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)
        if self._hung_up:
            raise ConnectionAbortedError

    def hang_up(self) -> None:
        """End it from another thread: whoever reads gets the end of the stream, and the engine drops its work."""
        self._hung_up = True
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


@dataclass
class Layers:
    """What the lines of a pull say of its layers. Sizes are the manifest's where that is known."""

    sizes: dict[str, int] = field(default_factory=dict)
    """By the first 12 digits of the digest."""
    base_bytes: int = 0
    """What comes beside the layers: the configuration."""
    done: dict[str, int] = field(default_factory=dict)
    fetched: dict[str, int] = field(default_factory=dict)
    last: str = ""
    """The engine's last word."""
    _seen: dict[str, tuple[str, int]] = field(default_factory=dict)

    def heard(self, line: Document) -> bool:
        """Take a line; answers whether it is progress: a countdown to the engine's own next try is none."""
        name, status = str(line.get("id", "")), str(line.get("status", ""))
        detail = line.get("progressDetail") or {}
        current = int(detail.get("current") or 0)
        self.last = status
        if status.startswith(("Retrying", "Waiting")):
            return False
        if status == "Downloading":
            self.sizes.setdefault(name, int(detail.get("total") or 0))
            self.done[name] = self.fetched[name] = current
        elif status in ("Download complete", "Verifying Checksum"):
            self.done[name] = self.fetched[name] = self.sizes.get(name, self.done.get(name, 0))
        elif status in ("Already exists", "Pull complete"):
            self.done[name] = self.sizes.get(name, self.done.get(name, 0))
        new = self._seen.get(name) != (status, current)
        self._seen[name] = (status, current)
        return new

    @property
    def progress(self) -> PullProgress:
        """How far it is."""
        total = sum(self.sizes.values()) + self.base_bytes
        return PullProgress(min(sum(self.done.values()), total), total or None)


class Puller:
    """Pulls for one client."""

    def __init__(
        self, engine: Engine, access: Access, limits: PullLimits, free: disk.FreeBytes = disk.free_bytes
    ) -> None:
        self._engine = engine
        self._access = access
        self._limits = limits
        self._free = free
        self.received_bytes = 0
        """Of layers, since this process began."""

    async def pull(self, image: Image, known: EngineFacts, progress: OnProgress) -> None:
        """Have the engine pull it. Raises RegistryError, ImageError, DeviceError(DISK_FULL), EngineError."""
        host, _, name = image.repository.partition("/")
        if not is_host(host) or not is_name(name):
            raise ImageError(
                f"{image.repository!r} is not host[:port]/name", todo="Correct the version's image."
            )
        login = await self._access.login(host)
        layers = await self._preflight(image, host, name, known)
        progress(layers.progress)
        try:
            await self._pull(image, host, login, known, layers, progress)
        except RegistryError as error:
            if error.reason is not Reason.REGISTRY_UNAUTHORIZED:
                raise
            renewed = await self._access.login(host, renewed=True)  # They may have been short-lived ones.
            if renewed == login:
                raise
            await self._pull(image, host, renewed, known, layers, progress)
        total = layers.progress.total_bytes
        if total is not None:
            progress(PullProgress(total, total))

    async def _preflight(self, image: Image, host: str, name: str, known: EngineFacts) -> Layers:
        """See that the image is for this device and fits on its disk, as far as the registry tells us.

        The engine may have a way to the registry that we do not have: what fails here for any other reason is left to it.
        """
        layers = Layers()
        patience = Patience(_ASK_MS, _ASK_MS)
        try:
            async with opened(self._access, patience) as client:
                repository = Repository(client, self._access, patience, host, name)
                manifest, config = await _manifest(repository, image.digest, known.architecture)
        except BlackstartError as error:
            if error.reason in _OF_THE_IMAGE:
                raise
            return layers
        manifests.check_platform(config, known.architecture)
        layers.base_bytes = manifest.config.size
        layers.sizes = {blob.digest.partition(":")[2][:_SHORT]: blob.size for blob in manifest.layers}
        if manifest.size_bytes > self._limits.download_bytes:
            what = f"the image is a download of {manifest.size_bytes} bytes, {self._limits.download_bytes} are allowed"
            raise ImageError(what, reason=Reason.IMAGE_TOO_LARGE, todo="Make it smaller or raise the limit.")
        if known.data_root.is_dir():
            packed, unpacked = manifest.size_bytes, sum(unpacked_bytes(layer) for layer in manifest.layers)
            what = f"the image ({packed} bytes to fetch, about {unpacked} unpacked)"
            margin = self._limits.margin_bytes
            disk.require(known.data_root, packed + unpacked, what, margin_bytes=margin, free=self._free)
        return layers

    async def _pull(
        self,
        image: Image,
        host: str,
        login: Login | None,
        known: EngineFacts,
        layers: Layers,
        progress: OnProgress,
    ) -> None:
        before = sum(layers.fetched.values())
        async with self._lines(image, login) as lines:
            while True:
                try:
                    line = await self._next(lines, layers)
                except TimeoutError:
                    raise self._stalled(layers, host) from None
                if line is None:
                    break
                if "error" in line:
                    raise pull_error(str(line["error"]), host)
                self.received_bytes += (now := sum(layers.fetched.values())) - before
                before = now
                progress(layers.progress)
                self._room(known)

    def _stalled(self, layers: Layers, host: str) -> RegistryError:
        what = (
            f"no progress within {self._limits.stall_ms} ms; the engine's last word: {layers.last or 'none'}"
        )
        # It tries by itself for a minute or more, and says why only in the end.
        failing = layers.last.startswith("Retrying")
        return RegistryError(
            what, reason=Reason.REGISTRY_ERROR if failing else Reason.PULL_STALLED, where=host
        )

    async def _next(
        self, lines: asyncio.Queue[Document | Exception | None], layers: Layers
    ) -> Document | None:
        """The next line that is progress. Raises TimeoutError when none comes."""
        async with asyncio.timeout(self._limits.stall_ms / 1000):
            while True:
                line = await lines.get()
                if isinstance(line, Exception):
                    raise line
                if line is None or "error" in line or layers.heard(line):
                    return line

    def _room(self, known: EngineFacts) -> None:
        """What was estimated may have been wrong: stop while the client has room yet."""
        if not known.data_root.is_dir():
            return
        free = self._free(known.data_root)
        if free < self._limits.margin_bytes // 2:
            raise disk.disk_full(f"only {free} bytes are left while the image is unpacked")

    @contextlib.asynccontextmanager
    async def _lines(
        self, image: Image, login: Login | None
    ) -> AsyncIterator[asyncio.Queue[Document | Exception | None]]:
        """The engine's lines as they come, None after the last. Leaving ends the pull."""
        lines: asyncio.Queue[Document | Exception | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(line: Document | Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(lines.put_nowait, line)

        version = await self._engine.ask("ask for the engine's version", lambda api: str(api.api_version))
        connection = _Connection(self._engine.socket.removeprefix("unix://"))
        host = image.repository.partition("/")[0]
        work = threading.Thread(
            target=_read, args=(connection, version, image, login, put, host), name="docker-pull", daemon=True
        )
        work.start()
        try:
            yield lines
        finally:
            connection.hang_up()
            await asyncio.shield(asyncio.to_thread(work.join, _JOIN_S))


def _read(
    connection: _Connection,
    version: str,
    image: Image,
    login: Login | None,
    put: Callable[[Document | Exception | None], None],
    host: str,
) -> None:
    """In a thread: ask, and hand on line by line."""
    credentials = (
        {"username": login.username, "password": login.secret, "serveraddress": host} if login else {}
    )
    header = encode_header(credentials).decode()
    query = urlencode({"fromImage": image.repository, "tag": image.digest})
    try:
        headers = {"X-Registry-Auth": header}
        connection.request("POST", f"/v{version}/images/create?{query}", headers=headers)
        response = connection.getresponse()
        if response.status >= http.client.BAD_REQUEST:
            put({"error": _message(response.read())})
            return
        while line := response.readline():
            if line.strip():
                put(json.loads(line))
        put(None)
    except (OSError, http.client.HTTPException, ValueError) as error:
        put(engine_error(f"pull {image.digest}", _as_os_error(error), connection.host))
    finally:
        connection.close()


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else ConnectionError(f"{type(error).__name__}: {error}")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip() or "the engine said nothing"


async def _manifest(
    repository: Repository, digest: str, architecture: str
) -> tuple[manifests.Manifest, manifests.ImageConfig]:
    """The manifest for this device, and the configuration that it names."""
    data, kind = await repository.manifest(digest)
    parsed = manifests.parse_document(data, _known(kind))
    if isinstance(parsed, manifests.Index):
        chosen = manifests.choose_manifest(parsed, architecture)
        data, kind = await repository.manifest(chosen.digest, chosen.size)
        parsed = manifests.parse_document(data, _known(kind))
    if isinstance(parsed, manifests.Index):
        raise ImageError("an index that lists an index", where="manifest", todo="Build it again.")
    if parsed.config.size > manifests.MAX_CONFIG_BYTES:
        raise EngineError("a configuration too large to look at")
    config = b""
    async with repository.blob(parsed.config.digest, 0, parsed.config.size) as content:
        async for chunk in content.chunks:
            config += chunk
            if len(config) > parsed.config.size:
                raise EngineError("a configuration longer than its manifest says")
    return parsed, manifests.parse_config(config)


def _known(media_type: str | None) -> str | None:
    kind = (media_type or "").partition(";")[0].strip().lower()
    return kind if kind in manifests.MANIFEST_TYPES | manifests.INDEX_TYPES else None
