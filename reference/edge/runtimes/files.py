"""Small files that are whole or absent, and JSON that tells when it was damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

MAX_LOG_BYTES, KEPT_LOG_BYTES = 8 << 20, 1 << 20
"""How long the log of a workload may become, and how much of it is left then."""


def write(path: Path, data: bytes) -> None:
    """Replace a file in one step, without syncing it: for what ends with the boot anyway."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.rename(path)


def trim(path: Path, most_bytes: int = MAX_LOG_BYTES, kept_bytes: int = KEPT_LOG_BYTES) -> None:
    """Shorten a log that somebody appends to (O_APPEND) to its end: a chatty one must not fill the memory of a boot.

    Lines that are written at the same moment may be lost. Never raises.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size <= most_bytes:
            return
        with path.open("r+b") as file:
            file.seek(-kept_bytes, os.SEEK_END)
            end = file.read(kept_bytes)
            file.truncate(0)
        with path.open("ab") as file:
            file.write(b"(the beginning was dropped)\n" + end)


def seal(body: dict[str, Any]) -> bytes:
    """JSON with a digest of its content, so that a flipped bit or a hole is seen."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({"body": body, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def unseal(data: bytes) -> dict[str, Any]:
    """What was sealed. Raises ValueError if it is not whole."""
    outer = json.loads(data)
    if not isinstance(outer, dict) or not isinstance(body := outer.get("body"), dict):
        raise ValueError("not a sealed file")  # noqa: TRY004 - of content, not of a caller
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(text.encode()).hexdigest() != outer.get("sha256"):
        raise ValueError("the content does not match its digest")
    return body


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of this boot; None if it is not there (yet) or not readable."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def discard(path: Path, graveyard: Path) -> None:
    """Remove a folder so that it is there or gone, never half: renamed away first."""
    grave = graveyard / f"{path.name}.{os.urandom(4).hex()}"
    try:
        path.rename(grave)
    except FileNotFoundError:
        return
    shutil.rmtree(grave, ignore_errors=True)
