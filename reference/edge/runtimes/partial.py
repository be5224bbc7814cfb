"""A blob on its way to the disk: continued where a pull, an agent or the power ended.

The bytes lie in `partial/HEX` and are believed no more than any others: only the digest over the whole decides, and a
whole that is wrong after a resume is fetched once more from the first byte, because a cut may have left holes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from reference.core.errors import Reason, RegistryError
from reference.edge.disk import FULL
from reference.edge.runtimes.images import ImageStore
from reference.edge.runtimes.registry import Content, RangeError, Repository, corrupt
from reference.oci.manifests import Descriptor

_CHUNK = 1 << 20


class _SoFar:
    """What is there of one blob."""

    def __init__(self, path: Path, blob: Descriptor) -> None:
        self.path = path
        self.blob = blob
        self.count = 0
        self.hash = hashlib.sha256()

    def read(self) -> None:
        """Take up what lies on the disk; what cannot be the beginning of this blob goes."""
        self.count, self.hash = 0, hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while data := file.read(_CHUNK):
                    self.hash.update(data)
                    self.count += len(data)
        except FileNotFoundError:
            return
        if self.count > self.blob.size:
            self.forget()

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.count, self.hash = 0, hashlib.sha256()

    @property
    def right(self) -> bool:
        return self.count == self.blob.size and f"sha256:{self.hash.hexdigest()}" == self.blob.digest


async def fetch(
    repository: Repository, blob: Descriptor, store: ImageStore, tell: Callable[[int], None]
) -> int:
    """Have the blob in the store, where it appears only when it is right. Answers the bytes that came over the wire.

    Raises RegistryError, and OSError: on a full disk what was there of it goes too, to make room.
    """
    so_far, came = _SoFar(store.partial(blob.digest), blob), 0
    url = repository.blob_url(blob.digest)
    await asyncio.to_thread(so_far.read)
    try:
        for resumed in (so_far.count > 0, False):
            try:
                came += await _rest(repository, so_far, tell)
            except RangeError:
                so_far.forget()
                continue
            if so_far.right:
                so_far.path.rename(store.blob(blob.digest))
                return came
            if so_far.count < blob.size:
                raise corrupt(url, f"it ends after {so_far.count} of {blob.size} bytes")
            so_far.forget()
            if not resumed:
                raise corrupt(url, f"{blob.size} bytes that do not match the digest")
    except OSError as error:
        if error.errno in FULL:
            so_far.forget()
        raise
    raise RegistryError(
        "the registry answers with another part than it was asked for", reason=Reason.PULL_CORRUPT, where=url
    )


async def _rest(repository: Repository, so_far: _SoFar, tell: Callable[[int], None]) -> int:
    """Fetch what is missing; answers how much came."""
    blob = so_far.blob
    if so_far.count == blob.size and blob.size > 0:
        return 0
    async with repository.blob(blob.digest, so_far.count, blob.size) as content:
        if content.start != so_far.count:
            so_far.forget()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        # Unbuffered: what a killed agent had received is in the file.
        handle = os.open(so_far.path, flags, 0o600)
        try:
            return await _receive(repository, content, so_far, handle, tell)
        finally:
            os.close(handle)


async def _receive(
    repository: Repository,
    content: Content,
    so_far: _SoFar,
    handle: int,
    tell: Callable[[int], None],
) -> int:
    blob, came = so_far.blob, 0
    async for chunk in content.chunks:
        came += len(chunk)
        if so_far.count + len(chunk) > blob.size:
            so_far.forget()
            where = repository.blob_url(blob.digest)
            raise corrupt(where, f"more than the {blob.size} bytes that the manifest says")
        view = memoryview(chunk)
        while view:
            view = view[os.write(handle, view) :]
        so_far.hash.update(chunk)
        so_far.count += len(chunk)
        tell(so_far.count)
    return came
