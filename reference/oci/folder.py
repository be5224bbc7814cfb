"""What of a folder goes into an image: names sorted, modes normalised, and nothing that leads out of the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import InputError

SETTINGS_FILE = "blackstart-image.json"
MAX_ENTRIES = 100_000
MAX_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory, a file or a link. `name` is relative to the folder, with `/`."""

    name: str
    path: Path
    kind: str
    """`directory`, `file` or `link`."""
    mode: int = 0o755
    size: int = 0
    target: str = ""


def list_folder(folder: Path) -> list[Entry]:
    """All entries in the order in which they enter the layer.

    Left out: `blackstart-image.json` at the top, and `__pycache__` everywhere (it holds times, so two builds would
    differ). Raises InputError for what an image must not hold: devices, sockets, pipes, links out of the folder.
    """
    if not folder.is_dir():
        raise InputError("not a folder", where=str(folder), todo="Give the folder with the program to pack.")
    entries, total = [], 0
    for entry in _walk(folder):
        entries.append(entry)
        total += entry.size
        if len(entries) > MAX_ENTRIES or total > MAX_BYTES:
            raise InputError(
                f"more than {MAX_ENTRIES} files or {MAX_BYTES >> 30} GiB",
                where=str(folder),
                todo="Give a folder that holds the program only.",
            )
    if not entries:
        raise InputError("the folder is empty", where=str(folder), todo="Put the program into it.")
    return sorted(entries, key=lambda entry: entry.name.encode().split(b"/"))


def _walk(folder: Path) -> Iterator[Entry]:
    root = os.path.realpath(folder)
    pending = [folder]
    while pending:
        directory = pending.pop()
        for path in _children(directory):
            if path.name == "__pycache__" or (directory == folder and path.name == SETTINGS_FILE):
                continue
            entry = _entry(folder, path, root)
            if entry.kind == "directory":
                pending.append(path)
            yield entry


def _children(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(directory)) from error


def _entry(folder: Path, path: Path, root: str) -> Entry:
    name = path.relative_to(folder).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError("its name is not UTF-8", where=ascii(str(path)), todo="Rename it.") from error
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, path, "directory")
    if stat.S_ISREG(status.st_mode):
        # Only the owner's execute bit counts: the rest is the umask of whoever copied the file.
        return Entry(name, path, "file", 0o755 if status.st_mode & stat.S_IXUSR else 0o644, status.st_size)
    if stat.S_ISLNK(status.st_mode):
        return Entry(name, path, "link", 0o777, 0, _link_target(folder, path, root))
    raise InputError("is a device, a socket or a pipe", where=str(path), todo="Remove it from the folder.")


def _link_target(folder: Path, path: Path, root: str) -> str:
    target = str(path.readlink())
    lexical = os.path.normpath(path.parent.relative_to(folder) / target)
    real = os.path.realpath(path)
    outside = target.startswith("/") or lexical == ".." or lexical.startswith("../")
    if outside or os.path.commonpath([root, real]) != root:
        raise InputError(
            f"is a link to {target!r}, outside the folder",
            where=str(path),
            todo="Copy the file, or use a relative link that stays inside.",
        )
    return target
