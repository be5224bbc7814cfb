"""Content digests, `sha256:<64 lower-case hex digits>` (OCI image specification 1.1, descriptor.md, "Digests").

The specification also registers sha512. A registry has to keep such content (`is_content_digest`, `digest_of`); no
image in the field uses it, so devices refuse it by name rather than half support it (`is_digest`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from reference.core.errors import BlackstartError, InputError

ALGORITHM = "sha256"
READ_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CONTENT_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def sha256_of(data: bytes) -> str:
    """The digest of `data`, as `sha256:<hex>`."""
    return f"{ALGORITHM}:{hashlib.sha256(data).hexdigest()}"


def sha256_of_file(path: Path) -> tuple[str, int]:
    """Digest and size in bytes of a file, read in pieces so that memory stays flat. Raises OSError."""
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            hasher.update(piece)
            size += len(piece)
    return f"{ALGORITHM}:{hasher.hexdigest()}", size


def is_digest(text: str) -> bool:
    """Whether `text` is a digest that Blackstart accepts."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: str, *, where: str = "", error: type[BlackstartError] = InputError) -> str:
    """`text` itself when it is a digest; otherwise raises `error` (InputError; ImageError for parsed content)."""
    if is_digest(text):
        return text
    shown = text if len(text) <= 80 else text[:77] + "..."
    raise error(f"{shown!r} is not a digest", where=where, todo="Use sha256: and 64 lower-case hex digits.")


def hex_of(digest: str) -> str:
    """The hex digits of a digest: safe as a file name. Raises InputError."""
    return check_digest(digest).partition(":")[2]


def is_content_digest(text: str) -> bool:
    """Whether `text` is a digest that a registry accepts: sha256 or sha512."""
    return _CONTENT_DIGEST.fullmatch(text) is not None


def split_digest(text: str) -> tuple[str, str]:
    """Algorithm and hex digits of a digest that a registry accepts: both safe as file names. Raises InputError."""
    if not is_content_digest(text):
        raise InputError("not a digest", todo="Use sha256: and 64, or sha512: and 128 lower-case hex digits.")
    algorithm, _, digits = text.partition(":")
    return algorithm, digits


def digest_of(data: bytes, algorithm: str = ALGORITHM) -> str:
    """The digest of `data` with one of the two algorithms, `sha256` or `sha512`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
