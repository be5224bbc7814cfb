"""Files that survive a power cut: what has been written is there whole afterwards, or the old one is."""

from __future__ import annotations

import ctypes
import os
import resource
import tempfile
from pathlib import Path


def fsync_dir(path: Path) -> None:
    """Put a folder's entries on the disk: without it a new name, or a rename, may be gone after a cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `content`: temp file, fsync, rename, fsync of the folder.

    Once it returns the content is on the disk; when it raises (`OSError`, a full disk for one) the old file is
    untouched and no temp file is left. Only a kill leaves one, named `.NAME.*.tmp`.
    """
    fd, temp = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
        Path(temp).replace(path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def syncfs(path: Path) -> None:
    """Put all that the filesystem of `path` holds on the disk; all filesystems, where there is no syncfs(2).

    Raises `OSError` when the disk says that it could not.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        os.sync()
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if call(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(fd)


def allow_many_files(most: int = 65_536) -> int:
    """Let this process have as many open files as it may, up to `most`: each connection is one. The limit then.

    Usually it is 1024 until somebody asks for more (`getrlimit(2)`), and a service without a file left can neither
    answer nor go back to its broker.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
