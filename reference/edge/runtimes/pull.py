"""Fetch an image by digest from a registry (OCI distribution specification 1.1, "Pull") into an ImageStore.

Nothing that arrives is believed: manifest, configuration and layers are compared with digest *and* size. Credentials go
to their own host only, whatever it redirects to. Silence is ended by a watchdog: any byte of an answer feeds it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from reference.core.errors import DeviceError, ImageError, Reason, RegistryError
from reference.core.model import Image
from reference.edge.runtimes.base import OnProgress, PullProgress
from reference.edge.runtimes.images import ImageFacts, ImageStore
from reference.edge.runtimes.unpack import Layer, UnpackLimits, unpack
from reference.oci import manifests
from reference.oci.digests import sha256_of, sha256_of_file
from reference.oci.references import is_host, is_name

Credentials = Mapping[str, tuple[str, str]] | Callable[[str], tuple[str, str] | None]
"""`host[:port]` -> user and password."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_REDIRECTS = 3


@dataclass(frozen=True, slots=True)
class PullLimits:
    """Bounds on one pull: times in ms, sizes in bytes."""

    connect_ms: int = 10_000
    stall_ms: int = 30_000
    """The longest time without a single byte of an answer."""
    download_bytes: int = 2 << 30
    """All layers and the configuration, as they travel."""
    unpack: UnpackLimits = field(default_factory=UnpackLimits)


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached. Hosts in `plain_http_hosts` (`host:port`) are spoken to without TLS."""

    credentials: Credentials = field(default_factory=dict)
    plain_http_hosts: frozenset[str] = frozenset()
    ca_file: Path | None = None
    """Certificates that registries are checked against; None: the system's."""

    def auth(self, host: str) -> tuple[str, str] | None:
        """User and password for exactly this host."""
        return self.credentials(host) if callable(self.credentials) else self.credentials.get(host)


class Puller:
    """Pulls for one store. `architecture` in OCI's words."""

    def __init__(self, store: ImageStore, access: Access, limits: PullLimits, architecture: str) -> None:
        self._store = store
        self._access = access
        self._limits = limits
        self._architecture = architecture

    async def pull(self, image: Image, progress: OnProgress) -> None:
        """Fetch, check, unpack, adopt. Complete blobs are kept whatever happens.

        Raises RegistryError, ImageError, DeviceError(DISK_FULL).
        """
        host, _, name = image.repository.partition("/")
        if not is_host(host) or not is_name(name):
            raise ImageError(
                f"{image.repository!r} is not host[:port]/name", todo="Correct the version's image."
            )
        try:
            async with self._client() as client:
                await self._pull(image, _Registry(client, self._access, self._limits, host, name), progress)
        except OSError as error:
            if error.errno in _FULL:
                raise disk_full(error) from error
            raise

    async def _pull(self, image: Image, registry: _Registry, progress: OnProgress) -> None:
        document = await registry.manifest(image.digest)
        parsed, manifest_digest = manifests.parse_document(document), image.digest
        if isinstance(parsed, manifests.Index):
            chosen = manifests.choose_manifest(parsed, self._architecture)
            manifest_digest = chosen.digest
            parsed = manifests.parse_manifest(await registry.manifest(manifest_digest, chosen.size))
        manifests.check_runnable(parsed)
        config = await self._contents(parsed, registry, progress)
        if len(config.diff_ids) != len(parsed.layers):
            raise ImageError(
                f"{len(parsed.layers)} layers, but the configuration lists {len(config.diff_ids)}"
            )
        facts = ImageFacts(
            digest=image.digest,
            manifest_digest=manifest_digest,
            config_digest=parsed.config.digest,
            blobs=(parsed.config.digest, *(layer.digest for layer in parsed.layers)),
            argv=config.arguments,
            environment=dict(config.env),
            folder=config.working_dir,
        )
        pairs = zip(parsed.layers, config.diff_ids, strict=True)
        await self._unpack(
            facts, [Layer(self._store.blob(layer.digest), diff_id) for layer, diff_id in pairs]
        )

    async def _contents(
        self, manifest: manifests.Manifest, registry: _Registry, progress: OnProgress
    ) -> manifests.ImageConfig:
        """Have all blobs; the configuration first, because it may make the layers pointless."""
        total = manifest.size_bytes
        if manifest.config.size > manifests.MAX_CONFIG_BYTES or total > self._limits.download_bytes:
            what = f"the image is a download of {total} bytes, {self._limits.download_bytes} are allowed"
            raise ImageError(what, reason=Reason.IMAGE_TOO_LARGE, todo="Make it smaller or raise the limit.")
        free = shutil.disk_usage(self._store.blobs).free
        unique = {blob.digest: blob for blob in manifest.layers if blob.digest != manifest.config.digest}
        missing = [blob for blob in unique.values() if not await asyncio.to_thread(self._have, blob)]
        if free < (needed := sum(blob.size for blob in missing)):
            raise disk_full(f"the image needs {needed} bytes, {free} are free")
        done = total - needed - manifest.config.size
        if not self._have(manifest.config):
            missing.insert(0, manifest.config)
        else:
            done += manifest.config.size
            self._config(manifest)
        progress(PullProgress(done, total))
        for blob in missing:
            base = done

            def tell(count: int, base: int = base) -> None:
                progress(PullProgress(base + count, total))

            await registry.blob(blob.digest, blob.size, self._store, tell)
            done += blob.size
            if blob is manifest.config:
                self._config(manifest)
        return self._config(manifest)

    def _config(self, manifest: manifests.Manifest) -> manifests.ImageConfig:
        """The configuration, if the image can run here."""
        config = manifests.parse_config(self._store.blob(manifest.config.digest).read_bytes())
        manifests.check_platform(config, self._architecture)
        check_command(config.arguments)
        return config

    def _have(self, blob: manifests.Descriptor) -> bool:
        """Whether the blob lies there whole; a damaged one is removed."""
        path = self._store.blob(blob.digest)
        try:
            if sha256_of_file(path) == (blob.digest, blob.size):
                return True
        except FileNotFoundError:
            return False
        path.unlink(missing_ok=True)
        return False

    async def _unpack(self, facts: ImageFacts, layers: list[Layer]) -> None:
        folder = self._store.new_temporary()
        cancelled = threading.Event()

        def work() -> None:
            folder.mkdir()
            unpack(layers, folder / "rootfs", self._limits.unpack, cancelled)
            self._store.describe(facts, folder)

        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(task)
            self._store.adopt(facts, folder)
        except asyncio.CancelledError:
            cancelled.set()  # the thread ends at its next block; it must not write below the next pull
            await asyncio.wait([task], timeout=5)
            if task.done():
                task.exception()  # of no interest any more; asking for it keeps the loop quiet
            raise
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        try:
            ca_file = self._access.ca_file
            trust = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except OSError as error:
            what = f"the certificates of registries cannot be read: {error}"
            raise DeviceError(
                what, where=str(self._access.ca_file), todo="Correct registry.ca_file."
            ) from error
        connect_s = self._limits.connect_ms / 1000
        # Neither proxies nor .netrc from the environment: credentials go where the configuration says.
        async with httpx.AsyncClient(
            verify=trust,
            timeout=httpx.Timeout(None, connect=connect_s),
            trust_env=False,
            follow_redirects=False,
        ) as client:
            yield client


class _Registry:
    """One repository on one registry."""

    def __init__(
        self, client: httpx.AsyncClient, access: Access, limits: PullLimits, host: str, name: str
    ) -> None:
        self._client = client
        self._access = access
        self._limits = limits
        self._host = host
        scheme = "http" if host in access.plain_http_hosts else "https"
        self._base = f"{scheme}://{host}/v2/{name}"

    async def manifest(self, digest: str, size: int | None = None) -> bytes:
        """The manifest or index of this digest, checked."""
        data = bytearray()
        url = f"{self._base}/manifests/{digest}"
        async with self._get(url, {"Accept": manifests.ACCEPT}) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > manifests.MAX_MANIFEST_BYTES:
                    raise ImageError("the manifest is too large", reason=Reason.IMAGE_TOO_LARGE, where=url)
        if sha256_of(bytes(data)) != digest or size not in (None, len(data)):
            raise _corrupt(url, f"the manifest is not the one that was asked for ({len(data)} bytes)")
        return bytes(data)

    async def blob(self, digest: str, size: int, store: ImageStore, tell: Callable[[int], None]) -> None:
        """Fetch a blob into the store; it appears there only when it is right."""
        temporary, hasher, count = store.new_temporary(), hashlib.sha256(), 0
        url = f"{self._base}/blobs/{digest}"
        try:
            with temporary.open("xb") as file:
                async with self._get(url, {}) as chunks:
                    async for chunk in chunks:
                        count += len(chunk)
                        if count > size:
                            raise _corrupt(url, f"more than the {size} bytes that the manifest says")
                        hasher.update(chunk)
                        file.write(chunk)
                        tell(count)
            if count != size or "sha256:" + hasher.hexdigest() != digest:
                raise _corrupt(url, f"{count} bytes that do not match the digest; {size} were expected")
            temporary.rename(store.blob(digest))
        finally:
            temporary.unlink(missing_ok=True)

    @asynccontextmanager
    async def _get(self, url: str, headers: dict[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a body; every failure of the way comes out as a RegistryError."""
        stall_s = self._limits.stall_ms / 1000
        watchdog = asyncio.timeout(stall_s)
        try:
            async with watchdog, self._open(url, headers) as response:
                yield self._fed(response, watchdog)
        except TimeoutError as error:
            what = f"no byte came for {self._limits.stall_ms} ms"
            raise RegistryError(what, reason=Reason.PULL_STALLED, where=url) from error
        except httpx.HTTPError as error:
            what = f"the registry cannot be reached or broke off: {str(error) or type(error).__name__}"
            raise RegistryError(what, reason=Reason.REGISTRY_UNREACHABLE, where=url) from error
        except (httpx.InvalidURL, httpx.StreamError) as error:
            raise RegistryError(f"the registry's answer is unusable: {error}", where=url) from error

    async def _fed(self, response: httpx.Response, watchdog: asyncio.Timeout) -> AsyncIterator[bytes]:
        loop, stall_s = asyncio.get_running_loop(), self._limits.stall_ms / 1000
        async for chunk in response.aiter_raw():
            watchdog.reschedule(loop.time() + stall_s)
            yield chunk

    @asynccontextmanager
    async def _open(self, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer, after redirects: followed to TLS only, and without credentials once the host is another."""
        for _ in range(_MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            auth = self._access.auth(self._host) if self._is_home(url) else None
            if parts.scheme != "https" and parts.netloc not in self._access.plain_http_hosts:
                raise RegistryError("a redirect to a host without TLS was not followed", where=url)
            plain = {**headers, "Accept-Encoding": "identity"}
            async with self._client.stream("GET", url, headers=plain, auth=auth) as response:
                if not response.is_redirect:
                    _check_status(response, url)
                    yield response
                    return
                url = str(httpx.URL(url).join(response.headers["Location"]))
        raise RegistryError(f"more than {_MAX_REDIRECTS} redirects", where=url)

    def _is_home(self, url: str) -> bool:
        return url.startswith(self._base.split("/v2/", 1)[0] + "/")


_STATUS = {
    401: (Reason.REGISTRY_UNAUTHORIZED, "the registry wants other credentials", "Correct the device's credentials."),
    403: (Reason.REGISTRY_DENIED, "the registry refuses this image to this device", "Give the device's user the right."),
    404: (Reason.IMAGE_UNKNOWN, "the registry does not have it", "Push the image, or correct the version's digest."),
    429: (Reason.REGISTRY_THROTTLED, "the registry is asked too often", ""),
}  # fmt: skip


def _check_status(response: httpx.Response, url: str) -> None:
    if response.status_code == 200:
        return
    default = (Reason.REGISTRY_ERROR, f"the registry answers {response.status_code}", "")
    reason, what, todo = _STATUS.get(response.status_code, default)
    raise RegistryError(what, reason=reason, where=url, todo=todo)


def _corrupt(url: str, what: str) -> RegistryError:
    return RegistryError(f"what came is damaged: {what}", reason=Reason.PULL_CORRUPT, where=url)


def disk_full(cause: object) -> DeviceError:
    """The one error for a full disk."""
    return DeviceError(
        f"the disk is full: {cause}", reason=Reason.DISK_FULL, todo="Free space on the device."
    )


def check_command(argv: tuple[str, ...]) -> None:
    """Only a Python program can run here. Raises ImageError(IMAGE_INVALID)."""
    if not argv or Path(argv[0]).name not in ("python", "python3"):
        raise ImageError(
            f"the image starts {argv[0] if argv else 'nothing'!r}; the process runtime runs Python programs only",
            todo="Start it with python3, or use the Docker runtime.",
        )
