"""What a stack keeps in its folder, and how it shares it: lock, ports, passwords."""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from reference.core.errors import InputError
from reference.support.files import write_durably

HOST = "127.0.0.1"


@contextlib.contextmanager
def folder_errors(data: Path) -> Iterator[None]:
    """What the disk refuses is the folder's trouble, and so the caller's to change: OSError becomes InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot be used: {error.strerror or error}",
            where=str(error.filename2 or error.filename or data),
            todo="Move it away, or give --data another folder.",
        ) from None


_PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to whoever connects: one of these stays free while nobody listens on it."""


def free_port() -> int:
    """A port of loopback that nobody uses now, and that no connection is given by chance. Raises InputError."""
    for _ in range(100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, secrets.choice(_PORTS)))
            return int(probe.getsockname()[1])
    raise InputError("no port is free", where=HOST, todo="See what listens on them all: ss -ltn.")


def read_object(path: Path) -> dict[str, object]:
    """The JSON object of a file; empty for a file that is lost or damaged: it is made anew."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def kept_port(value: object) -> int:
    """A port that was kept, 0 for what is none."""
    return value if type(value) is int and 1 <= value <= 65_535 else 0


def locked(descriptor: int) -> bool:
    """Whether the lock on that file could be taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_secret(path: Path) -> str:
    """The password in a file; empty when there is none or it is damaged."""
    try:
        found = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return found if found.isascii() and found.isprintable() else ""


def secret(path: Path) -> str:
    """A password that is kept in a file, made when there is none that is good."""
    if not (found := read_secret(path)):
        found = secrets.token_urlsafe(24)
        write_durably(path, found.encode())
    return found
