"""What a registry keeps, as files. Content is stored once; each repository says what it holds by empty names.

    lock                                  held while a registry runs on this folder
    temporary/                            halves of writes and uploads: emptied at every start
    blobs/sha256/ab/abcd...               content, whole and verified before it gets this name
    repositories/NAME/_blobs/HEX          this repository has that blob
    repositories/NAME/_manifests/HEX      ... that manifest; the file holds its media type
    repositories/NAME/_tags/TAG           the file holds a digest

No part of a repository name starts with `_`, so the three folders never meet a name. Every path is made from checked
names, tags and digests: there is no other way into this folder. All methods block; the application calls them from
threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

from reference.core.errors import InputError
from reference.oci.digests import hex_of, is_digest, sha256_of
from reference.oci.durable import make_directories, move_durably, write_durably
from reference.oci.references import is_name, is_tag
from reference.registry.errors import Code, Refusal

LOCK_WAIT_S = 2.0
"""A registry that was just stopped may hold its folder this long."""


class Storage:
    """One data folder, owned by one process."""

    def __init__(self, root: Path) -> None:
        """Open or make the folder. Raises InputError when it cannot be used or another registry holds it."""
        self.root = root
        self.temporary = root / "temporary"
        self._lock: int | None = None
        try:
            make_directories(root.absolute())
            self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take_lock()
            # Halves of a former life: no name leads to them any more.
            shutil.rmtree(self.temporary, ignore_errors=True)
            make_directories(self.temporary.absolute())
        except OSError as error:
            self.close()
            raise InputError(f"cannot keep images here: {error.strerror}", where=str(root)) from error

    def _take_lock(self) -> None:
        assert self._lock is not None
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.close()
                    raise InputError(
                        "another registry uses this folder",
                        where=str(self.root),
                        todo="Stop it, or choose another folder.",
                    ) from None
                time.sleep(0.05)

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- paths

    def blob_file(self, digest: str) -> Path:
        """Where the content with this digest is or would be."""
        digits = hex_of(digest)
        return self.root / "blobs" / "sha256" / digits[:2] / digits

    def _repository(self, name: str) -> Path:
        if not is_name(name):
            raise Refusal(Code.NAME_INVALID, "not a repository name")
        return self.root / "repositories" / name

    def _blob_mark(self, name: str, digest: str) -> Path:
        return self._repository(name) / "_blobs" / hex_of(digest)

    def _manifest_mark(self, name: str, digest: str) -> Path:
        return self._repository(name) / "_manifests" / hex_of(digest)

    # ---- blobs

    def find_blob(self, name: str, digest: str) -> Path | None:
        """The file of a blob that this repository has."""
        path = self.blob_file(digest)
        return path if self._blob_mark(name, digest).is_file() and path.is_file() else None

    def add_blob(self, name: str, digest: str, verified: Path) -> None:
        """Take over a file that was verified and fsynced. Content first, then the name that shows it."""
        mark = self._blob_mark(name, digest)
        move_durably(verified, self.blob_file(digest))
        if not mark.exists():
            self._write(mark, b"")

    # ---- manifests

    def find_manifest(self, name: str, reference: str) -> tuple[str, str, bytes] | None:
        """Digest, media type and content, by tag or digest."""
        digest = reference if is_digest(reference) else self._tagged(name, reference)
        if digest is None:
            return None
        try:
            media_type = self._manifest_mark(name, digest).read_text()
            return digest, media_type, self.blob_file(digest).read_bytes()
        except FileNotFoundError:
            return None

    def has_manifest(self, name: str, digest: str) -> bool:
        """Whether this repository has that manifest."""
        return self._manifest_mark(name, digest).is_file()

    def add_manifest(self, name: str, data: bytes, media_type: str, tag: str | None) -> str:
        """Store a checked manifest, and let `tag` mean it. Answers its digest."""
        digest = sha256_of(data)
        self._write(self.blob_file(digest), data)
        self._write(self._manifest_mark(name, digest), media_type.encode())
        if tag is not None:
            self._write(self._tag_file(name, tag), digest.encode())
        return digest

    # ---- tags

    def _tag_file(self, name: str, tag: str) -> Path:
        if not is_tag(tag):
            raise Refusal(Code.MANIFEST_INVALID, "neither a tag nor a digest")
        return self._repository(name) / "_tags" / tag

    def _tagged(self, name: str, tag: str) -> str | None:
        try:
            digest = self._tag_file(name, tag).read_text()
        except FileNotFoundError:
            return None
        return digest if is_digest(digest) else None

    def tags(self, name: str) -> list[str] | None:
        """All tags in lexical order; None when nothing was ever pushed there."""
        repository = self._repository(name)
        if not (repository / "_manifests").is_dir():
            return None
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in (repository / "_tags").iterdir())
        return []

    def _write(self, target: Path, data: bytes) -> None:
        write_durably(target, data, temporary=self.temporary)
