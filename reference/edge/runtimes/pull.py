"""Fetch an image by digest from a registry (OCI distribution specification 1.1, "Pull") into an ImageStore.

Nothing that arrives is believed: manifest, configuration and layers are compared with digest *and* size. The disk is
asked for room before the first layer comes, and again before it is unpacked.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reference.core.errors import ImageError, Reason
from reference.core.model import Image
from reference.edge import disk
from reference.edge.disk import FULL, FreeBytes, disk_full
from reference.edge.runtimes.base import OnProgress, PullProgress
from reference.edge.runtimes.bearer import Access
from reference.edge.runtimes.images import ImageFacts, ImageStore
from reference.edge.runtimes.partial import fetch
from reference.edge.runtimes.registry import Patience, Repository, opened
from reference.edge.runtimes.unpack import Layer, UnpackLimits, unpack
from reference.oci import manifests
from reference.oci.digests import sha256_of_file
from reference.oci.manifests import Descriptor
from reference.oci.references import is_host, is_name

__all__ = ["Access", "PullLimits", "Puller", "check_command", "disk_full", "unpacked_bytes"]

HANDOVER = "blackstart.handover"
"""Label of an image whose client knows the lease: `overlap`."""
UNPACKED_SIZE = "io.containers.estargz.uncompressed-size"
"""Annotation of a layer in which builders of eStargz say how large it is unpacked."""
GUESSED_RATIO = 3
"""How many times larger a packed layer is taken to be when its manifest does not say."""


@dataclass(frozen=True, slots=True)
class PullLimits:
    """Bounds on one pull: times in ms, sizes in bytes."""

    connect_ms: int = 10_000
    stall_ms: int = 30_000
    """The longest time without a single byte of an answer."""
    slow_bytes: int = 16 * 1024
    """What has to come in each `slow_ms` of an answer, at least."""
    slow_ms: int = 60_000
    download_bytes: int = 2 << 30
    """All layers and the configuration, as they travel."""
    margin_bytes: int = 16 << 20
    """What has to stay free on the disk beside the image."""
    unpack: UnpackLimits = field(default_factory=UnpackLimits)


def unpacked_bytes(layer: Descriptor) -> int:
    """How much room a layer will take when it is unpacked: as its manifest says, else an estimate."""
    if layer.media_type in manifests.TAR_LAYERS:
        return layer.size
    said = layer.annotations.get(UNPACKED_SIZE, "")
    if said.isascii() and said.isdigit() and len(said) < 19:
        return int(said)
    return layer.size * GUESSED_RATIO


class Puller:
    """Pulls for one store. `architecture` in OCI's words. `free` tells the bytes that are free below a path."""

    def __init__(
        self,
        store: ImageStore,
        access: Access,
        limits: PullLimits,
        architecture: str,
        free: FreeBytes = disk.free_bytes,
    ) -> None:
        self._store = store
        self._access = access
        self._limits = limits
        self._architecture = architecture
        self._free = free
        self.received_bytes = 0
        """Of layers and configurations, since this process began."""

    async def pull(self, image: Image, progress: OnProgress) -> None:
        """Fetch, check, unpack, adopt. Complete blobs are kept whatever happens, and so is the beginning of one.

        Raises RegistryError, ImageError, DeviceError(DISK_FULL).
        """
        host, _, name = image.repository.partition("/")
        if not is_host(host) or not is_name(name):
            raise ImageError(
                f"{image.repository!r} is not host[:port]/name", todo="Correct the version's image."
            )
        limits = self._limits
        patience = Patience(limits.connect_ms, limits.stall_ms, limits.slow_bytes, limits.slow_ms)
        try:
            async with opened(self._access, patience) as client:
                await self._pull(image, Repository(client, self._access, patience, host, name), progress)
        except OSError as error:
            if error.errno in FULL:
                raise disk_full(error.strerror) from error
            raise

    async def _pull(self, image: Image, repository: Repository, progress: OnProgress) -> None:
        parsed, manifest_digest = _parsed(*await repository.manifest(image.digest)), image.digest
        if isinstance(parsed, manifests.Index):
            chosen = manifests.choose_manifest(parsed, self._architecture)
            manifest_digest = chosen.digest
            parsed = _parsed(*await repository.manifest(manifest_digest, chosen.size))
            if isinstance(parsed, manifests.Index):
                raise ImageError("an index that lists an index", where="manifest", todo="Build it again.")
        manifests.check_runnable(parsed)
        if len(parsed.layers) > self._limits.unpack.layers:
            what = f"the image has {len(parsed.layers)} layers, {self._limits.unpack.layers} are allowed"
            raise ImageError(what, reason=Reason.IMAGE_TOO_LARGE, todo="Build it with fewer layers.")
        config = await self._contents(parsed, repository, progress)
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
            overlaps=config.labels.get(HANDOVER) == "overlap",
        )
        pairs = zip(parsed.layers, config.diff_ids, strict=True)
        await self._unpack(
            facts, [Layer(self._store.blob(layer.digest), diff_id) for layer, diff_id in pairs]
        )

    async def _contents(
        self, manifest: manifests.Manifest, repository: Repository, progress: OnProgress
    ) -> manifests.ImageConfig:
        """Have all blobs; the configuration first, because it may make the layers pointless."""
        total = manifest.size_bytes
        if manifest.config.size > manifests.MAX_CONFIG_BYTES or total > self._limits.download_bytes:
            what = f"the image is a download of {total} bytes, {self._limits.download_bytes} are allowed"
            raise ImageError(what, reason=Reason.IMAGE_TOO_LARGE, todo="Make it smaller or raise the limit.")
        unique = {blob.digest: blob for blob in manifest.layers if blob.digest != manifest.config.digest}
        missing = [blob for blob in unique.values() if not await asyncio.to_thread(self._have, blob)]
        await asyncio.to_thread(self._preflight, manifest, missing)
        done = total - sum(blob.size for blob in missing) - manifest.config.size
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

            self.received_bytes += await fetch(repository, blob, self._store, tell)
            done += blob.size
            if blob is manifest.config:
                self._config(manifest)
        return self._config(manifest)

    def _preflight(self, manifest: manifests.Manifest, missing: Sequence[Descriptor]) -> None:
        """See that the image fits, packed and unpacked, before anything of it comes. Raises DeviceError(DISK_FULL).

        What is left of other pulls goes first, if it comes to that.
        """
        wanted = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
        self._store.prune_partials(wanted)
        packed = manifest.config.size + sum(blob.size - self._begun(blob) for blob in missing)
        unpacked = sum(unpacked_bytes(layer) for layer in manifest.layers)
        if self._free(self._store.blobs) < packed + unpacked + self._limits.margin_bytes:
            self._store.reclaim(wanted)
        what = f"the image ({packed} bytes to fetch, about {unpacked} unpacked)"
        disk.require(
            self._store.blobs,
            packed + unpacked,
            what,
            margin_bytes=self._limits.margin_bytes,
            free=self._free,
        )

    def _begun(self, blob: Descriptor) -> int:
        try:
            return min(self._store.partial(blob.digest).stat().st_size, blob.size)
        except FileNotFoundError:
            return 0

    def _config(self, manifest: manifests.Manifest) -> manifests.ImageConfig:
        """The configuration, if the image can run here."""
        config = manifests.parse_config(self._store.blob(manifest.config.digest).read_bytes())
        manifests.check_platform(config, self._architecture)
        check_command(config.arguments)
        return config

    def _have(self, blob: Descriptor) -> bool:
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
            # What was estimated is known now to the byte: it stops there, not when the client has no room any more.
            room = self._free(self._store.blobs) - self._limits.margin_bytes
            folder.mkdir()
            unpack(layers, folder / "rootfs", self._limits.unpack, cancelled, room_bytes=room)
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


def _parsed(document: bytes, media_type: str | None) -> manifests.Manifest | manifests.Index:
    """What came, if it is what the registry says it is; a type that is none of an image's says nothing."""
    kind = (media_type or "").partition(";")[0].strip().lower()
    known = kind in manifests.MANIFEST_TYPES | manifests.INDEX_TYPES
    return manifests.parse_document(document, kind if known else None)


def check_command(argv: tuple[str, ...]) -> None:
    """Only a Python program can run here. Raises ImageError(IMAGE_INVALID)."""
    if not argv or Path(argv[0]).name not in ("python", "python3"):
        raise ImageError(
            f"the image starts {argv[0] if argv else 'nothing'!r}; the process runtime runs Python programs only",
            todo="Start it with python3, or use the Docker runtime.",
        )
