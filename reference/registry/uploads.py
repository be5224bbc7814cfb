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

from reference.oci.digests import split_digest
from reference.registry.errors import Code, Refusal
from reference.registry.storage import Storage

WRITE_BYTES = 1 << 20
READ_BYTES = 1 << 20
MAX_UPLOADS = 600
"""Each is an open file, of which a process usually may have 1024."""
MAX_UPLOADS_EACH = 200
_VECTOR = 512
"""Most buffers of one write; the kernel takes 1024."""
IDLE_S = 3600.0
"""An upload that nothing was written to for so long is forgotten when the next one begins."""


@dataclass(slots=True, eq=False)
class Upload:
    """One upload of one repository. `offset` is how many bytes it has."""

    id: str
    name: str
    path: Path
    file: io.FileIO
    owner: str = ""
    """The account that began it; empty where there are none."""
    offset: int = 0
    algorithm: str = "sha256"
    hasher: hashlib._Hash = field(default_factory=hashlib.sha256)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used_at: float = field(default_factory=time.monotonic)

    def expect(self, algorithm: str) -> None:
        """Hash with this from the start, if it has not begun: what else is asked for costs another reading."""
        if self.offset == 0 and algorithm != self.algorithm:
            self.algorithm, self.hasher = algorithm, hashlib.new(algorithm)

    def write(self, pieces: list[bytes]) -> None:
        """Append and hash. Blocks. A write that fails leaves file and hash as they were."""
        count = sum(len(piece) for piece in pieces)
        try:
            self._write(pieces)
        except OSError:
            self._cut(self.offset)
            raise
        for piece in pieces:
            self.hasher.update(piece)
        self.offset += count

    def _write(self, pieces: list[bytes]) -> None:
        for at in range(0, len(pieces), _VECTOR):
            some = pieces[at : at + _VECTOR]
            written = os.writev(self.file.fileno(), some)
            if written == sum(len(piece) for piece in some):
                continue
            rest = memoryview(b"".join(some))[written:]
            while rest:
                rest = rest[self.file.write(rest) :]

    def _cut(self, offset: int) -> None:
        self.file.seek(offset)
        self.file.truncate()

    def back(self, offset: int, hasher: hashlib._Hash) -> None:
        """Forget what came behind `offset`, where the hash was `hasher`."""
        self._cut(offset)
        self.offset, self.hasher = offset, hasher

    def digest(self, algorithm: str) -> str:
        """The digest of what it has. Blocks: another algorithm than expected reads the file again."""
        if algorithm == self.algorithm:
            return f"{algorithm}:{self.hasher.hexdigest()}"
        hasher = hashlib.new(algorithm)
        with self.path.open("rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                hasher.update(piece)
        return f"{algorithm}:{hasher.hexdigest()}"

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

    def start(self, name: str, owner: str = "") -> Upload:
        """A new, empty upload. Raises Refusal when there are too many."""
        self._forget_idle()
        self._make_room(owner)
        upload_id = secrets.token_hex(16)
        path = self.storage.temporary / upload_id
        # Unbuffered: what was written is in the file, and a failed write is known at once.
        upload = Upload(upload_id, name, path, io.FileIO(path, "xb"), owner)
        self._open[upload_id] = upload
        return upload

    def _forget_idle(self) -> None:
        """What a client left behind would stay on the disk until the next start."""
        now = time.monotonic()
        for upload in list(self._open.values()):
            if not upload.lock.locked() and now - upload.used_at >= IDLE_S:
                self.drop(upload)

    def _make_room(self, owner: str) -> None:
        """One account takes no more than its part, so that the others can push."""
        own = sum(upload.owner == owner for upload in self._open.values())
        if len(self._open) >= MAX_UPLOADS or (owner and own >= MAX_UPLOADS_EACH):
            raise Refusal(Code.TOOMANYREQUESTS, "too many uploads at once", {"Retry-After": "10"})

    def find(self, name: str, upload_id: str, owner: str = "") -> Upload:
        """The upload of this repository and account, idle. Raises Refusal when it is unknown or being written to."""
        upload = self._open.get(upload_id)
        if upload is None or (upload.name, upload.owner) != (name, owner):
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

    async def append(self, upload: Upload, pieces: AsyncIterable[bytes], exactly: int | None = None) -> None:
        """Write what a request brings. The caller holds the upload's lock. Raises Refusal, OSError.

        Reading goes on while the piece before is hashed and written: at most two pieces are in memory. `exactly`: how
        many bytes the request promised; with another number (SIZE_INVALID) the upload is where it was before.
        """
        start, before = upload.offset, upload.hasher.copy()
        limit = self.max_blob_bytes if exactly is None else min(self.max_blob_bytes, start + exactly)
        writer = _Writer(upload)
        try:
            await writer.take(pieces, limit - start)
            too_much = writer.took > limit - start
        finally:
            await writer.end()
        writer.check()
        if too_much and (exactly is None or limit < start + exactly):
            raise Refusal(Code.TOO_LARGE, f"a blob has at most {self.max_blob_bytes} bytes here")
        if exactly is not None and (too_much or writer.took != exactly):
            upload.back(start, before)
            raise Refusal(Code.SIZE_INVALID, f"{exactly} bytes were promised, {writer.took} or more came")
        upload.used_at = time.monotonic()

    async def finish(self, upload: Upload, digest: str) -> None:
        """Make it a blob if it is what `digest` says; either way the upload is over. Raises Refusal."""
        try:
            found = await asyncio.to_thread(upload.digest, split_digest(digest)[0])
            if found != digest:
                raise Refusal(Code.DIGEST_INVALID, f"the content is {found}")
            await asyncio.to_thread(self._store, upload, digest)
        finally:
            self.drop(upload)

    def _store(self, upload: Upload, digest: str) -> None:
        os.fsync(upload.file.fileno())
        self.storage.add_blob(upload.name, digest, upload.path)


class _Writer:
    """Hands pieces of about WRITE_BYTES to a thread, one at a time."""

    def __init__(self, upload: Upload) -> None:
        self.upload, self.took = upload, 0
        self.writing: asyncio.Future[None] | None = None

    async def take(self, pieces: AsyncIterable[bytes], limit: int) -> None:
        """Write all, or up to the piece with which more than `limit` bytes have come."""
        waiting: list[bytes] = []
        size = 0
        async for piece in pieces:
            if not piece:
                continue
            waiting.append(piece)
            size += len(piece)
            self.took += len(piece)
            if self.took > limit:
                return
            if size >= WRITE_BYTES or len(waiting) >= _VECTOR:
                await self._write(waiting)
                waiting, size = [], 0
        if waiting:
            await self._write(waiting)

    async def _write(self, pieces: list[bytes]) -> None:
        await self.end()
        self.check()
        self.writing = asyncio.ensure_future(asyncio.to_thread(self.upload.write, pieces))

    async def end(self) -> None:
        """Wait for the thread, whatever happens: nobody may go on while it writes behind their back."""
        cancelled = None
        while self.writing is not None and not self.writing.done():
            try:
                await asyncio.wait([self.writing])
            except asyncio.CancelledError as error:
                cancelled = error
        if self.writing is not None and not self.writing.cancelled():
            self.writing.exception()  # Seen: `check` says it, if nothing worse is being said already.
        if cancelled is not None:
            raise cancelled

    def check(self) -> None:
        """Raises the OSError of the last write."""
        if self.writing is not None:
            self.writing.result()
