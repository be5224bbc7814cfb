"""Files that survive a power cut whole or not at all: temp, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directories(path: Path) -> None:
    """Like `mkdir -p`, with every new name durable before what is put inside it. Raises OSError."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
        fsync_directory(directory.parent)


def move_durably(source: Path, target: Path) -> None:
    """Rename a file that has been fsynced to its final name, replacing what was there. Raises OSError."""
    make_directories(target.parent)
    source.replace(target)
    fsync_directory(target.parent)


def write_durably(target: Path, data: bytes, *, temporary: Path | None = None, mode: int = 0o644) -> None:
    """Write a whole file at once. `temporary` is a folder on the same file system. Raises OSError."""
    staged = (temporary or target.parent) / f".{secrets.token_hex(8)}.tmp"
    try:
        handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor: its mode is right from the start
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move_durably(staged, target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
