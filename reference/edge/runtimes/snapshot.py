"""Copies of a client's volumes, made and brought back while nothing runs on them.

A copy lies beside its volume, as `.NAME.snapshot-GENERATION`: on the same file system, so that bringing it back is one
exchange of two names (renameat2(2)), which takes no room and no time and is done or not done. What the exchange
replaced is kept as `.NAME.discarded-GENERATION` until the next snapshot is prepared. Nothing is ever written inside a
volume.

STATE/snapshots/GENERATION.json, sealed, says how far each is; a copy without it is worth nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import DeviceError, EngineError
from reference.core.model import SnapshotState
from reference.edge.disk import require
from reference.edge.runtimes.files import seal, unseal
from reference.support.files import fsync_dir, syncfs, write_durably

log = logging.getLogger("reference.edge")

_CHUNK = 1 << 20
_FICLONE = 0x40049409
_EXCHANGE = 2
_AT_FDCWD = -100
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_GENERATION = re.compile(r"[0-9]{1,19}")
MARGIN_BYTES = 16 << 20
"""What a copy has to leave free."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume and its copy. `inode` names the copy wherever it is called: after the exchange it is the volume."""

    path: Path
    copy: Path
    inode: int = 0


class SnapshotStore:
    """All snapshots of one client. Everything blocks: call it in a thread; `abort` ends a copy between two chunks."""

    def __init__(self, state_dir: Path, margin_bytes: int = MARGIN_BYTES) -> None:
        self._folder = state_dir / "snapshots"
        self._margin = margin_bytes

    def states(self) -> dict[int, SnapshotState]:
        """How far each is. One whose description is damaged is set aside, once and with a word in the log.

        Raises OSError when one cannot be read now: it must not be taken for none.
        """
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            if _GENERATION.fullmatch(path.stem) is None:
                continue  # somebody else's
            try:
                found[int(path.stem)] = self._seen(int(path.stem))[0]
            except EngineError as error:
                if path.exists():
                    self._set_aside(path, error)
        return found

    def _set_aside(self, path: Path, why: EngineError) -> None:
        """What it described stays beside the volume, for a person to look at."""
        _remove(self._folder.glob("*.damaged"))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.replace(path.with_name(f"{path.name}.damaged"))
        log.error("a snapshot is damaged and counts as none", extra={"path": str(path), "detail": str(why)})

    def prepare(self, generation: int, mounts: Mapping[str, str]) -> None:
        """See that a copy can be made: there is room for it, and it can lie beside its volume.

        What the last restore kept aside is removed for it. Raises DeviceError: DISK_FULL, CONFIGURATION_INVALID.
        """
        if generation in self.states():
            return
        volumes = [_beside(path, generation) for path in _volumes(mounts)]
        needed: dict[int, tuple[Path, int]] = {}
        for volume in volumes:
            parent = volume.path.parent
            if parent.stat().st_dev != volume.path.stat().st_dev:
                todo = "Let the volume be a folder of that file system."
                raise DeviceError(
                    "is a mount point and cannot be exchanged", where=str(volume.path), todo=todo
                )
            _remove(_discarded(volume))
            device = parent.stat().st_dev
            needed[device] = (parent, needed.get(device, (parent, 0))[1] + _size(volume.path))
        for parent, size in needed.values():
            require(parent, size, "a copy of the volume", margin_bytes=self._margin)
        self._write(generation, SnapshotState.PREPARED, volumes)

    def take(self, generation: int, mounts: Mapping[str, str], abort: threading.Event) -> None:
        """Copy every volume and put the copies on the disk; all are there, or none counts. Raises OSError."""
        begin = time.monotonic()
        if self.states().get(generation, SnapshotState.PREPARED) is not SnapshotState.PREPARED:
            return
        volumes: list[Volume] = []
        size = 0
        for path in _volumes(mounts):
            volume = _beside(path, generation)
            _remove([volume.copy])
            try:
                size += _copy_tree(volume.path, volume.copy, abort)
            except BaseException:
                # On a full disk half a copy is what keeps the journal from being written, and the client down.
                _remove([v.copy for v in (*volumes, volume)])
                raise
            syncfs(volume.path.parent)
            fsync_dir(volume.path.parent)
            volumes.append(Volume(volume.path, volume.copy, volume.copy.stat().st_ino))
        self._write(generation, SnapshotState.TAKEN, volumes)
        took_ms = round((time.monotonic() - begin) * 1000)
        log.info("snapshot taken", extra={"generation": generation, "bytes": size, "took_ms": took_ms})

    def restore(self, generation: int) -> None:
        """Have every volume as it was copied. Raises EngineError when a copy is gone, and OSError."""
        state, volumes = self._read(generation)
        if state is SnapshotState.RESTORED:
            return
        if state is not SnapshotState.TAKEN:
            raise EngineError(f"no snapshot of generation {generation} was taken")
        for volume in volumes:
            _bring_back(volume)
            fsync_dir(volume.path.parent)
        self._write(generation, SnapshotState.RESTORED, volumes)
        log.warning("snapshot restored", extra={"generation": generation})

    def remove(self, generation: int) -> None:
        """Remove the copies, or, of a restored one, put what it replaced aside. Raises OSError."""
        path = self._path(generation)
        if not path.exists():
            return
        try:
            state, volumes = self._seen(generation)
        except EngineError:
            path.unlink(missing_ok=True)
            return
        if state is SnapshotState.TAKEN:
            self._write(generation, SnapshotState.PREPARED, volumes)  # From here on it is worth nothing.
        for volume in volumes:
            parent, name, aside = volume.path.parent, volume.path.name, _aside(volume)
            # An exchange in two steps that was cut: the volume first, then what it replaced.
            if aside.exists():
                aside.rename(volume.copy if volume.path.exists() else volume.path)
            if state is SnapshotState.RESTORED and volume.copy.exists():
                kept = parent / f".{name}.discarded-{generation}"
                _remove(_discarded(volume))
                volume.copy.rename(kept)
                log.warning("what the failed version left is kept", extra={"path": str(kept)})
            _remove([volume.copy])
            fsync_dir(parent)
        path.unlink(missing_ok=True)
        fsync_dir(self._folder)

    def _path(self, generation: int) -> Path:
        return self._folder / f"{generation}.json"

    def _seen(self, generation: int) -> tuple[SnapshotState, list[Volume]]:
        """As `_read`; an exchange that a cut kept from being noted was made all the same: such a copy is none any more."""
        state, volumes = self._read(generation)
        exchanged = bool(volumes) and all(_inode(v.path) == v.inode for v in volumes)
        return (SnapshotState.RESTORED if state is SnapshotState.TAKEN and exchanged else state), volumes

    def _read(self, generation: int) -> tuple[SnapshotState, list[Volume]]:
        path = self._path(generation)
        try:
            body = unseal(path.read_bytes())
            volumes = [Volume(Path(v["path"]), Path(v["copy"]), v["inode"]) for v in body["volumes"]]
            return SnapshotState(body["state"]), volumes
        except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError) as error:
            what = f"the snapshot of generation {generation} cannot be read: {error}"
            raise EngineError(what, where=str(path)) from error

    def _write(self, generation: int, state: SnapshotState, volumes: Iterable[Volume]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        listed = [{"path": str(v.path), "copy": str(v.copy), "inode": v.inode} for v in volumes]
        write_durably(self._path(generation), seal({"state": str(state), "volumes": listed}))


def _volumes(mounts: Mapping[str, str]) -> list[Path]:
    """The folders among what is mounted, without those that lie in another: a file is configuration, not data."""
    folders = {Path(path).resolve() for path in mounts.values()}
    found = sorted(path for path in folders if path.is_dir())
    return [path for path in found if not any(other in path.parents for other in found)]


def _beside(path: Path, generation: int) -> Volume:
    return Volume(path, path.parent / f".{path.name}.snapshot-{generation}")


def _bring_back(volume: Volume) -> None:
    """Make the copy the volume. Done already, half done, and not begun are told apart by the copy's inode."""
    aside = _aside(volume)
    if _inode(volume.path) != volume.inode:
        if _inode(volume.copy) != volume.inode:
            raise EngineError("the copy of the volume is gone", where=str(volume.copy))
        if volume.path.exists() and _exchange(volume.copy, volume.path):
            return
        if volume.path.exists():
            volume.path.rename(aside)
        volume.copy.rename(volume.path)
    if aside.exists() and not volume.copy.exists():
        aside.rename(volume.copy)


def _aside(volume: Volume) -> Path:
    """Where the volume is for a moment, where names cannot be exchanged in one step."""
    return volume.copy.with_name(volume.copy.name + ".aside")


def _discarded(volume: Volume) -> Iterator[Path]:
    return volume.path.parent.glob(f".{glob.escape(volume.path.name)}.discarded-*")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the file system or the C library cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _NO_EXCHANGE:
        return False
    raise OSError(error, os.strerror(error), str(one))


def _size(folder: Path) -> int:
    """Bytes that its content takes on the disk."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # the client goes on working meanwhile
                total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 - of many files
    return total


def _copy_tree(source: Path, target: Path, abort: threading.Event) -> int:
    """Copy a folder with its modes, owners and times; answers the bytes. Sockets, pipes and devices are left out."""
    target.mkdir(mode=0o700)
    size = 0
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        here, there = source / entry.name, target / entry.name
        if entry.is_symlink():
            there.symlink_to(here.readlink())
            _like(here, there)
        elif entry.is_dir(follow_symlinks=False):
            size += _copy_tree(here, there, abort)
        elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            size += _copy_file(here, there, abort)
            _like(here, there)
    _like(source, target)
    return size


def _copy_file(source: Path, target: Path, abort: threading.Event) -> int:
    with source.open("rb") as reading, target.open("xb") as writing:
        with contextlib.suppress(OSError):
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
            return os.fstat(writing.fileno()).st_size
        size = os.fstat(reading.fileno()).st_size
        for start, end in _written(reading.fileno(), size):
            reading.seek(start)
            writing.seek(start)
            left = end - start
            while left > 0 and (chunk := reading.read(min(_CHUNK, left))):
                if abort.is_set():
                    raise EngineError("the copy was given up")
                writing.write(chunk)
                left -= len(chunk)
        writing.truncate(size)
        return size


def _written(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not holes: a copy of holes could take more room than there is (lseek(2))."""
    end = 0
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
            end = os.lseek(handle, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            start, end = end, size  # this file system does not tell
        yield start, end


def _like(source: Path, target: Path) -> None:
    found, made = source.lstat(), target.lstat()
    if (found.st_uid, found.st_gid) != (made.st_uid, made.st_gid):
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
