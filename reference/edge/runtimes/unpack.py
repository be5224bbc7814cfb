"""Unpack image layers into a folder and nowhere else.

Layers are tar streams, plain or gzip, applied in order with whiteouts (OCI image specification, "Image Layer Filesystem
Changeset"). A layer is untrusted input: nothing it says may touch a path outside the folder, take more memory than a
block, or more disk than the limits. Owners, times, setuid bits and extended attributes are not kept.

How escapes are shut out: names with `..` or a leading `/` are refused; the folder of an entry is resolved physically
and has to lie inside; every symbolic link is rewritten to a normalised relative target (an absolute one means the
image's own root), and one that climbs above the root is refused; an existing entry is removed, never written through.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from reference.core.errors import ImageError, Reason
from reference.edge.disk import disk_full

_CHUNK = 1 << 18
_LONGEST_HEADER = 1 << 20
_GLOBAL_HEADERS = 1 << 16
_DEEPEST = 100
_BAD_NAMES = frozenset(
    {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ}
)
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Bounds on one image. Sizes in bytes."""

    layers: int = 128
    entries: int = 100_000
    file_bytes: int = 1 << 30
    total_bytes: int = 2 << 30
    ratio: int = 100
    """How many times larger than its blob a layer may become ..."""
    ratio_free_bytes: int = 64 << 20
    """... once it is larger than this: text and zeros pack well."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's blob on this disk; `diff_id` is the digest of the uncompressed tar, from the configuration."""

    path: Path
    diff_id: str


class UnpackCancelledError(Exception):
    """The caller asked to stop; never leaves the runtime."""


def unpack(
    layers: Sequence[Layer],
    root: Path,
    limits: UnpackLimits,
    cancelled: threading.Event | None = None,
    room_bytes: int | None = None,
) -> None:
    """Apply `layers` to the new folder `root`. Blocking; `cancelled` is looked at after every block.

    Raises ImageError (IMAGE_UNSAFE, IMAGE_TOO_LARGE, IMAGE_INVALID), DeviceError(DISK_FULL) when more than
    `room_bytes` would be written, and OSError (disk full); what was unpacked until then is for the caller to remove.
    """
    if len(layers) > limits.layers:
        raise _too_large(f"the image has {len(layers)} layers, at most {limits.layers} are taken")
    root.mkdir()
    root = Path(os.path.realpath(root))
    budget = _Budget(limits, cancelled or threading.Event(), room_bytes)
    for number, layer in enumerate(layers, 1):
        try:
            _apply(layer, root, budget)
        except (tarfile.TarError, zlib.error, EOFError, ValueError, RecursionError, OSError) as error:
            # Of what the system refuses only bad names, and gzip's own complaints, are the image's fault.
            if isinstance(error, OSError) and not (
                isinstance(error, gzip.BadGzipFile) or error.errno in _BAD_NAMES
            ):
                raise
            what = f"layer {number} cannot be unpacked: {error}"
            raise ImageError(what, todo="Build the image again.") from error


class _Budget:
    """What may still be spent on this image."""

    def __init__(self, limits: UnpackLimits, cancelled: threading.Event, room_bytes: int | None) -> None:
        self._limits = limits
        self._cancelled = cancelled
        self._room = room_bytes
        self._entries = 0
        self._bytes = 0
        self._layer_bytes = 0
        self._most_of_layer = 0

    def layer(self, packed_bytes: int) -> None:
        """Another one begins."""
        self._layer_bytes = 0
        self._most_of_layer = max(packed_bytes * self._limits.ratio, self._limits.ratio_free_bytes)

    def entry(self, size: int) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise _too_large(f"the image has more than {self._limits.entries} entries")
        if size < 0:
            raise ValueError("an entry of negative size")
        if size > self._limits.file_bytes:
            raise _too_large(f"a file of {size} bytes, at most {self._limits.file_bytes} are taken")

    def block(self, size: int) -> None:
        if self._cancelled.is_set():
            raise UnpackCancelledError
        self._bytes += size
        self._layer_bytes += size
        if self._bytes > self._limits.total_bytes:
            raise _too_large(f"the image unpacks to more than {self._limits.total_bytes} bytes")
        if self._layer_bytes > self._most_of_layer:
            raise _unsafe(f"a layer unpacks to more than {self._limits.ratio} times its size")
        if self._room is not None and self._bytes > self._room:
            raise disk_full(f"the image unpacks to more than the {self._room} bytes that there is room for")


class _Stream(io.RawIOBase):
    """The uncompressed tar: counted, hashed, read block by block."""

    def __init__(self, source: IO[bytes], budget: _Budget) -> None:
        self._source = source
        self._budget = budget
        self.hash = hashlib.sha256()
        self._count = 0
        self.content_end = 0
        """Behind the last byte so far that is not zero."""

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(min(size, _CHUNK) if size >= 0 else _CHUNK)
        self._budget.block(len(data))
        self.hash.update(data)
        if content := len(data.rstrip(b"\0")):
            self.content_end = self._count + content
        self._count += len(data)
        return data


class _Entry(tarfile.TarInfo):
    """A tar header that cannot make the reader take unbounded memory: tarfile's documented place to intervene."""

    _HEADERS = (
        tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
    )  # fmt: skip

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.size < 0:  # tarfile would go back, and read the same for ever
            raise _unsafe(f"a tar header of {self.size} bytes")
        if self.type in self._HEADERS and self.size > _LONGEST_HEADER:
            raise _unsafe(f"a tar header of {self.size} bytes")
        if self.type == tarfile.XGLTYPE:
            # These are remembered until the end of the archive.
            seen = getattr(archive, "global_bytes", 0) + self.size
            if seen > _GLOBAL_HEADERS:
                raise _unsafe(f"more than {_GLOBAL_HEADERS} bytes of global tar headers")
            archive.global_bytes = seen  # type: ignore[attr-defined]
        if self.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse()
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_gnusparse_00(self, *_: object) -> NoReturn:
        _refuse_sparse()

    def _proc_gnusparse_01(self, *_: object) -> NoReturn:
        _refuse_sparse()

    def _proc_gnusparse_10(self, *_: object) -> NoReturn:
        _refuse_sparse()


def _refuse_sparse() -> NoReturn:
    raise ImageError("a layer holds a sparse file, which images do not need", reason=Reason.IMAGE_INVALID)


def _apply(layer: Layer, root: Path, budget: _Budget) -> None:
    with layer.path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        budget.layer(os.fstat(raw.fileno()).st_size)
        stream = _Stream(gzip.GzipFile(fileobj=raw) if packed else raw, budget)  # type: ignore[arg-type]
        made: set[Path] = set()
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry) as archive:
            for entry in archive:
                archive.members = []  # type: ignore[attr-defined]  # the reader remembers every entry otherwise
                budget.entry(entry.size)
                _place(archive, entry, root, made, budget)
            end = archive.offset
        while stream.read(_CHUNK):
            pass
        if stream.content_end > end:
            raise ImageError("a layer goes on behind its end", todo="Build the image again.")
        if (found := "sha256:" + stream.hash.hexdigest()) != layer.diff_id:
            raise ImageError(f"a layer unpacks to {found}, its configuration says {layer.diff_id}")


def _place(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, root: Path, made: set[Path], budget: _Budget
) -> None:
    parts = _parts(entry.name)
    if not parts:
        return
    folder = _folder(root, parts[:-1], made, budget)
    name = parts[-1]
    if name.startswith(_WHITEOUT):
        _white_out(folder, name, made)
        return
    path = folder / name
    _clear(path, keep_folder=entry.isdir())
    if entry.isdir():
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    elif entry.isfile():
        _write(archive, entry, path)
    elif entry.issym():
        path.symlink_to(_inside(root, folder, entry.linkname))
    elif entry.islnk():
        os.link(_link_source(root, entry.linkname), path, follow_symlinks=False)
    else:
        raise _unsafe(f"{entry.name!r} is a device or a pipe")
    made.add(path)


def _parts(name: str) -> tuple[str, ...]:
    """The components of a name in a layer, none of which may lead out."""
    if name.startswith("/") or "\0" in name:
        raise _unsafe(f"the name {name!r} is absolute")
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise _unsafe(f"the name {name!r} leads out of the image")
    return parts


def _folder(root: Path, parts: tuple[str, ...], made: set[Path], budget: _Budget) -> Path:
    """The real folder of an entry: links on the way are followed, but only inside."""
    folder = root
    for part in parts:
        step = _resolved(root, folder / part)
        if not step.exists():
            budget.entry(0)
            step.mkdir(parents=True)  # a link may have led several folders down
            made.add(step)
        elif not step.is_dir():
            raise ImageError(f"an entry lies below {'/'.join(parts)!r}, which is not a folder")
        folder = step
        if len(folder.parts) - len(root.parts) >= _DEEPEST:
            raise ImageError(f"an entry lies more than {_DEEPEST} folders deep")
    return folder


def _resolved(root: Path, path: Path) -> Path:
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise _unsafe(f"{path.relative_to(root)} leads out of the image")
    return real


def _inside(root: Path, folder: Path, target: str) -> str:
    """A link target that cannot leave the root: relative, `..` only at its start, no higher than the root."""
    if not target or "\0" in target:
        raise ImageError("a symbolic link without a target")
    here = PurePosixPath(folder.relative_to(root))
    if target.startswith("/"):
        return os.path.relpath(os.path.normpath("/" + target.lstrip("/")), "/" / here)
    target = os.path.normpath(target)
    if os.path.normpath(here / target).split("/")[0] == "..":
        raise _unsafe(f"a symbolic link to {target!r} leads out of the image")
    return target


def _link_source(root: Path, name: str) -> Path:
    parts = _parts(name)
    if not parts:
        raise _unsafe("a hard link to the root")
    source = _resolved(root, root.joinpath(*parts[:-1])) / parts[-1]
    try:
        regular = stat.S_ISREG(source.lstat().st_mode)
    except OSError as error:
        raise ImageError(f"a hard link to {name!r}, which is not there") from error
    if not regular:
        raise _unsafe(f"a hard link to {name!r}, which is not a file")
    return source


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    source = archive.extractfile(entry)
    assert source is not None, "a regular file has content"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as target:  # noqa: PTH123 - a descriptor
        shutil.copyfileobj(source, target, _CHUNK)
        os.fchmod(fd, (entry.mode & 0o755) | 0o600)
    if path.lstat().st_size != entry.size:
        raise EOFError(f"{entry.name!r} is cut short")


def _white_out(folder: Path, name: str, made: set[Path]) -> None:
    """Remove what lower layers put there; what this layer made stays, whatever the order of its entries."""
    if name == _OPAQUE:
        _empty(folder, made)
        return
    if name.startswith(_WHITEOUT * 2):
        return  # notes that a storage driver made for itself
    hidden = name.removeprefix(_WHITEOUT)
    if hidden in ("", ".", ".."):
        raise _unsafe(f"the whiteout {name!r} leads out of its folder")
    if folder / hidden not in made:
        _clear(folder / hidden, keep_folder=False)


def _empty(folder: Path, made: set[Path]) -> None:
    for child in list(folder.iterdir()):
        if child not in made:
            _clear(child, keep_folder=False)
        elif child.is_dir() and not child.is_symlink():
            _empty(child, made)


def _clear(path: Path, *, keep_folder: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        if not keep_folder:
            shutil.rmtree(path)
    else:
        path.unlink()


def _unsafe(what: str) -> ImageError:
    return ImageError(what, reason=Reason.IMAGE_UNSAFE, todo="Do not use this image; find out who made it.")


def _too_large(what: str) -> ImageError:
    return ImageError(
        what, reason=Reason.IMAGE_TOO_LARGE, todo="Make it smaller or raise the device's limits."
    )
