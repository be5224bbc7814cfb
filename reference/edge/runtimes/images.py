"""Images on the device: blobs by digest, and one verified, unpacked folder per commanded digest.

blobs/sha256/HEX           complete blobs; believed only after their digest was computed again
images/HEX/image.json      what is in it, sealed; HEX is the digest as commanded
images/HEX/rootfs/         the files; the folder appears by rename, whole
partial/HEX                the beginning of a blob: a pull that was interrupted goes on there; few, and not for ever
tmp/                       whatever a cut or a cancelled pull left; emptied by the next one
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from reference.core.errors import EngineError, ImageError
from reference.core.model import ImageState
from reference.edge.runtimes.files import discard, seal, unseal
from reference.oci.digests import check_digest, is_digest, sha256_of_file

PARTIALS_KEPT = 8
"""Interrupted blobs that are kept, newest first."""
PARTIAL_AGE_S = 7 * 24 * 3600.0
"""One that nobody has gone on with for this long is dropped."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file by size and SHA-256, or a symbolic link by its target."""

    path: str
    size: int
    sha256: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What image.json holds."""

    digest: str
    manifest_digest: str
    config_digest: str
    blobs: tuple[str, ...]
    """Digests of all blobs it stands on: these are kept while it is."""
    argv: tuple[str, ...]
    """Entrypoint and Cmd, joined."""
    environment: Mapping[str, str]
    folder: str
    """WorkingDir."""
    overlaps: bool = False
    """Its label says that it may stand by beside another one."""


class ImageStore:
    """The folder of images. Everything here blocks; what takes long is called in a thread."""

    def __init__(self, state_dir: Path) -> None:
        self.blobs = state_dir / "blobs" / "sha256"
        self.images = state_dir / "images"
        self.temporary = state_dir / "tmp"
        self.partials = state_dir / "partial"
        for folder in (self.blobs, self.images, self.temporary, self.partials):
            folder.mkdir(parents=True, exist_ok=True)
        self._verified: dict[str, ImageState] = {}
        self._overlaps: dict[str, bool] = {}
        self.prune_partials()

    def blob(self, digest: str) -> Path:
        """Where the blob lies, or would lie."""
        return self.blobs / _hex(digest)

    def partial(self, digest: str) -> Path:
        """Where the beginning of the blob lies, or would lie."""
        return self.partials / _hex(digest)

    def rootfs(self, digest: str) -> Path:
        """Where its files lie, or would lie."""
        return self.images / _hex(digest) / "rootfs"

    def facts(self, digest: str) -> ImageFacts:
        """Raises EngineError if the image is not there or its description is damaged."""
        try:
            body = unseal((self.images / _hex(digest) / "image.json").read_bytes())
            del body["files"]
            return ImageFacts(**{**body, "blobs": tuple(body["blobs"]), "argv": tuple(body["argv"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EngineError(
                f"the image {digest} is not there or damaged: {error}", todo="Pull it again."
            ) from error

    def overlaps(self, digest: str) -> bool:
        """Whether it may stand by beside another one. What an image is never changes, so it is read once."""
        if digest not in self._overlaps:
            try:
                self._overlaps[digest] = self.facts(digest).overlaps
            except EngineError:
                return False
        return self._overlaps[digest]

    def states(self) -> dict[str, ImageState]:
        """Every image by digest. The first time in a process life each is read whole."""
        present = {f"sha256:{p.name}": p for p in self.images.iterdir() if is_digest(f"sha256:{p.name}")}
        for digest in self._verified.keys() - present.keys():
            self._verified.pop(digest, None)
            self._overlaps.pop(digest, None)
        for digest, path in present.items():
            if digest not in self._verified:
                self._verified[digest] = ImageState.PRESENT if _whole(path, digest) else ImageState.BROKEN
        return {digest: self._verified[digest] for digest in present if digest in self._verified}

    def present(self, digest: str) -> bool:
        """Whether this image is there and whole."""
        path = self.images / _hex(digest)
        if digest not in self._verified and path.is_dir():
            self._verified[digest] = ImageState.PRESENT if _whole(path, digest) else ImageState.BROKEN
        return path.is_dir() and self._verified.get(digest) is ImageState.PRESENT

    def describe(self, facts: ImageFacts, folder: Path) -> None:
        """Write image.json beside `folder`/rootfs, listing every file in it."""
        files = [asdict(entry) for entry in _list(folder / "rootfs")]
        (folder / "image.json").write_bytes(seal({**asdict(facts), "files": files}))

    def adopt(self, facts: ImageFacts, folder: Path) -> None:
        """Make a described folder the image, in place of a broken one. Not synced."""
        target = self.images / _hex(facts.digest)
        discard(target, self.temporary)
        folder.rename(target)
        self._verified[facts.digest] = ImageState.PRESENT

    def remove(self, digest: str) -> None:
        """Remove it and the blobs that no other image stands on."""
        discard(self.images / _hex(digest), self.temporary)
        self._verified.pop(digest, None)
        self.prune_partials()
        self._drop_blobs(set())

    def _drop_blobs(self, used: set[str]) -> None:
        """Remove the blobs that are not `used` and that no image stands on."""
        for path in self.images.iterdir():
            try:
                used.update(self.facts(f"sha256:{path.name}").blobs)
            except (EngineError, ImageError):
                continue  # broken: it is pulled whole again anyway
        for blob in self.blobs.iterdir():
            if f"sha256:{blob.name}" not in used:
                blob.unlink(missing_ok=True)

    def prune_partials(self, wanted: Iterable[str] = (), *, everything: bool = False) -> None:
        """Drop the beginnings of blobs that are not `wanted` and too old, too many, or, if so asked, all."""
        keep = {_hex(digest) for digest in wanted}
        found = [
            (facts.st_mtime, path)
            for path in self.partials.iterdir()
            if path.name not in keep and (facts := _facts_of(path)) is not None
        ]
        found.sort(reverse=True, key=lambda pair: pair[0])
        oldest = time.time() - PARTIAL_AGE_S
        for number, (changed_at, path) in enumerate(found):
            if everything or number >= PARTIALS_KEPT or changed_at < oldest:
                path.unlink(missing_ok=True)

    def reclaim(self, wanted: Iterable[str]) -> None:
        """Drop everything that is neither part of an image nor of the one to come."""
        wanted = set(wanted)
        self.prune_partials(wanted, everything=True)
        self._drop_blobs(wanted)

    def new_temporary(self) -> Path:
        """A name that nothing has yet, on the same file system."""
        return self.temporary / os.urandom(8).hex()

    def forget(self) -> None:
        """Believe nothing that was verified so far."""
        self._verified.clear()

    def sweep(self) -> None:
        """Remove what cuts and cancelled pulls left."""
        for path in self.temporary.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _hex(digest: str) -> str:
    return check_digest(digest, error=ImageError).partition(":")[2]


def _facts_of(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _list(root: Path) -> Iterable[FileEntry]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *linked]):
            path = Path(folder) / name
            relative = str(path.relative_to(root))
            if path.is_symlink():
                yield FileEntry(relative, 0, "", str(path.readlink()))
            else:
                digest, size = sha256_of_file(path)
                yield FileEntry(relative, size, digest.partition(":")[2])


def _whole(path: Path, digest: str) -> bool:
    """Whether every file that image.json lists is there with its content."""
    try:
        body = unseal((path / "image.json").read_bytes())
        if body["digest"] != digest:
            return False
        return all(_matches(path / "rootfs", FileEntry(**entry)) for entry in body["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _matches(root: Path, entry: FileEntry) -> bool:
    path = root / entry.path
    if entry.link:
        return path.is_symlink() and str(path.readlink()) == entry.link
    if path.is_symlink() or path.lstat().st_size != entry.size:
        return False
    return sha256_of_file(path)[0] == f"sha256:{entry.sha256}"
