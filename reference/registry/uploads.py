"""Blobs on their way in: a file in the temporary folder and a running hash. Memory stays flat.

Uploads live in memory and in files without names that anyone could ask for: a registry that stops forgets them, and
a client starts again (BLOB_UPLOAD_UNKNOWN), so that half a blob can never become visible.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import secrets
import time
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from pathlib import Path

from reference.registry.errors import Code, Refusal
from reference.registry.storage import Storage

WRITE_BYTES = 1 << 20
MAX_UPLOADS = 1000
IDLE_S = 3600.0
"""An upload that nothing was written to for so long is forgotten when room is needed."""


@dataclass(slots=True, eq=False)
class Upload:
    """One upload of one repository. `offset` is how many bytes it has."""

    id: str
    name: str
    path: Path
    file: io.FileIO
    offset: int = 0
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used_at: float = field(default_factory=time.monotonic)

    def write(self, data: bytes) -> None:
        """Append and hash. Blocks. A write that fails leaves file and hash as they were."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            self.file.seek(self.offset)
            self.file.truncate()
            raise
        self.hasher.update(data)
        self.offset += len(data)

    def discard(self) -> None:
        """Close and delete."""
        self.file.close()
        self.path.unlink(missing_ok=True)


class Uploads:
    """All uploads of a registry. Used from one event loop."""

    def __init__(self, storage: Storage, *, max_blob_bytes: int) -> None:
        self.storage = storage
        self.max_blob_bytes = max_blob_bytes
        self._open: dict[str, Upload] = {}

    def start(self, name: str) -> Upload:
        """A new, empty upload."""
        self._make_room()
        upload_id = secrets.token_hex(16)
        path = self.storage.temporary / upload_id
        # Unbuffered: what was written is in the file, and a failed write is known at once.
        upload = Upload(upload_id, name, path, io.FileIO(path, "xb"))
        self._open[upload_id] = upload
        return upload

    def _make_room(self) -> None:
        if len(self._open) < MAX_UPLOADS:
            return
        oldest = min(self._open.values(), key=lambda upload: (upload.lock.locked(), upload.used_at))
        if oldest.lock.locked() or time.monotonic() - oldest.used_at < IDLE_S:
            raise Refusal(Code.TOOMANYREQUESTS, "too many uploads at once", {"Retry-After": "10"})
        self.drop(oldest)

    def find(self, name: str, upload_id: str) -> Upload:
        """The upload of this repository, idle. Raises Refusal when it is unknown or being written to."""
        upload = self._open.get(upload_id)
        if upload is None or upload.name != name:
            raise Refusal(Code.BLOB_UPLOAD_UNKNOWN, "no such upload: start again")
        if upload.lock.locked():
            raise Refusal(Code.BLOB_UPLOAD_BUSY, "another request writes to this upload")
        return upload

    def drop(self, upload: Upload) -> None:
        """Forget it and delete what it has."""
        self._open.pop(upload.id, None)
        upload.discard()

    def close(self) -> None:
        """Drop all."""
        for upload in list(self._open.values()):
            self.drop(upload)

    async def append(self, upload: Upload, pieces: AsyncIterable[bytes]) -> None:
        """Write what a request brings. The caller holds the upload's lock. Raises Refusal, OSError."""
        waiting = bytearray()
        async for piece in pieces:
            waiting += piece
            if upload.offset + len(waiting) > self.max_blob_bytes:
                raise Refusal(Code.TOO_LARGE, f"a blob has at most {self.max_blob_bytes} bytes here")
            if len(waiting) >= WRITE_BYTES:
                await _to_thread(upload, bytes(waiting))
                waiting.clear()
        if waiting:
            await _to_thread(upload, bytes(waiting))
        upload.used_at = time.monotonic()

    async def finish(self, upload: Upload, digest: str) -> None:
        """Make it a blob if it is what `digest` says; either way the upload is over. Raises Refusal."""
        found = f"sha256:{upload.hasher.hexdigest()}"
        try:
            if found != digest:
                raise Refusal(Code.DIGEST_INVALID, f"the content is {found}")
            await asyncio.to_thread(self._store, upload, digest)
        finally:
            self.drop(upload)

    def _store(self, upload: Upload, digest: str) -> None:
        os.fsync(upload.file.fileno())
        self.storage.add_blob(upload.name, digest, upload.path)


async def _to_thread(upload: Upload, data: bytes) -> None:
    # Shielded: a request that is cancelled must not leave a thread writing behind the back of the next one.
    writing = asyncio.ensure_future(asyncio.to_thread(upload.write, data))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
