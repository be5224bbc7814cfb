"""What a registry keeps, as files. Content is stored once; each repository says what it holds by small marks.

    lock                                  held while a registry runs on this folder
    temporary/                            halves of writes and uploads: emptied at every start
    blobs/sha256/ab/abcd...               content, whole and verified before it gets this name; also blobs/sha512
    repositories/NAME/_blobs/HEX          this repository has that blob; its time is when anyone last asked for it
    repositories/NAME/_manifests/HEX      ... that manifest; the file holds its media type
    repositories/NAME/_tags/TAG           the file holds a digest
    repositories/NAME/_referrers/HEX/HEX  a manifest (second) whose subject is the first; the file holds its descriptor

No part of a repository name starts with `_`, so these folders never meet a name. Every path is made from checked
names, tags and digests: there is no other way into this folder. The number of hex digits tells the algorithm. All
methods block; the application calls them from threads. What a change refers to is pinned while it is made: see
`pins.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import ImageError, InputError
from reference.oci.digests import digest_of, is_content_digest, split_digest
from reference.oci.durable import fsync_directory, make_directories, move_durably, write_durably
from reference.oci.references import is_name, is_tag
from reference.registry.documents import Document, read_document
from reference.registry.errors import Code, Refusal
from reference.registry.pins import Key, Pins
from reference.registry.referrers import Referrer, parse_referrer, referrer_of

LOCK_WAIT_S = 2.0
"""A registry that was just stopped may hold its folder this long."""
_ALGORITHMS = {64: "sha256", 128: "sha512"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it was pushed."""

    digest: str
    media_type: str
    data: bytes


def digest_named(digits: str) -> str | None:
    """The digest with these hex digits; None when a file name is none."""
    algorithm = _ALGORITHMS.get(len(digits))
    digest = f"{algorithm}:{digits}"
    return digest if algorithm is not None and is_content_digest(digest) else None


class Storage:
    """One data folder, owned by one process."""

    def __init__(self, root: Path) -> None:
        """Open or make the folder. Raises InputError when it cannot be used or another registry holds it."""
        self.root = root
        self.temporary = root / "temporary"
        self.pins = Pins()
        # Tags, manifests and referrers change together; blobs do not wait for this.
        self.changing = threading.RLock()
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
            raise InputError(
                f"cannot keep images here: {error.strerror}",
                where=str(root),
                todo="Choose another folder.",
            ) from error

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
        algorithm, digits = split_digest(digest)
        return self.root / "blobs" / algorithm / digits[:2] / digits

    def repository(self, name: str) -> Path:
        """The folder of a repository, there or not. Raises Refusal."""
        if not is_name(name):
            raise Refusal(Code.NAME_INVALID, "not a repository name")
        return self.root / "repositories" / name

    def mark(self, name: str, kind: str, digest: str) -> Path:
        """The file that says that a repository has this; `kind` is `_blobs` or `_manifests`."""
        return self.repository(name) / kind / split_digest(digest)[1]

    def repositories(self) -> Iterator[str]:
        """Names of all repositories, unordered."""
        top = self.root / "repositories"
        for folder, below, _ in os.walk(top):
            if any(inner in below for inner in ("_blobs", "_manifests")):
                yield str(Path(folder).relative_to(top))
            below[:] = [inner for inner in below if not inner.startswith("_")]

    # ---- blobs

    def find_blob(self, name: str, digest: str) -> Path | None:
        """The file of a blob that this repository has. Asking keeps it from the collector for a while."""
        mark, path = self.mark(name, "_blobs", digest), self.blob_file(digest)
        with self.pins.hold([blob_key(name, digest)]):
            try:
                os.utime(mark)
            except FileNotFoundError:
                return None
        return path if path.is_file() else None

    def add_blob(self, name: str, digest: str, verified: Path) -> None:
        """Take over a file that was verified and fsynced. Content first, then the name that shows it."""
        with self.pins.hold([blob_key(name, digest), content_key(digest)]):
            move_durably(verified, self.blob_file(digest))
            self._mark_blob(name, digest)

    def mount_blob(self, name: str, digest: str, sources: Iterator[str] | list[str]) -> bool:
        """Let `name` have the blob of the first of `sources` that has it. Answers whether one did."""
        with self.pins.hold([blob_key(name, digest), content_key(digest)]):
            if not self.blob_file(digest).is_file():
                return False
            if not any(self.mark(source, "_blobs", digest).is_file() for source in sources):
                return False
            self._mark_blob(name, digest)
            return True

    def _mark_blob(self, name: str, digest: str) -> None:
        mark = self.mark(name, "_blobs", digest)
        try:
            os.utime(mark)
        except FileNotFoundError:
            self._write(mark, b"")

    def delete_blob(self, name: str, digest: str) -> bool:
        """Take a blob from a repository; the content stays until the collector finds it unused."""
        return _unlink(self.mark(name, "_blobs", digest))

    # ---- manifests

    def find_manifest(self, name: str, reference: str) -> Stored | None:
        """By tag or digest."""
        digest = reference if is_content_digest(reference) else self._tagged(name, reference)
        if digest is None:
            return None
        with self.pins.hold([manifest_key(name, digest)]):
            try:
                media_type = self.mark(name, "_manifests", digest).read_text()
                return Stored(digest, media_type, self.blob_file(digest).read_bytes())
            except FileNotFoundError:
                return None

    def has_manifest(self, name: str, digest: str) -> bool:
        """Whether this repository has that manifest."""
        return self.mark(name, "_manifests", digest).is_file()

    def add_manifest(
        self, name: str, data: bytes, document: Document, algorithm: str, tags: tuple[str, ...]
    ) -> str:
        """Store a manifest with all that it needs, and let `tags` mean it. Answers its digest.

        Raises Refusal (MANIFEST_BLOB_UNKNOWN, MANIFEST_INVALID) when something it needs is not here.
        """
        digest = digest_of(data, algorithm)
        keys = [blob_key(name, blob.digest) for blob in document.blobs]
        keys += [manifest_key(name, child.digest) for child in document.manifests]
        with self.pins.hold([*keys, manifest_key(name, digest), content_key(digest)]), self.changing:
            self._check_references(name, document)
            if not self.blob_file(digest).is_file():
                self._write(self.blob_file(digest), data)
            if document.subject is not None:
                # Before the mark: a manifest that can be seen is in its subject's list.
                entry = referrer_of(digest, len(data), document)
                self._write(self._referrer_file(name, document.subject, digest), entry)
            self._write(self.mark(name, "_manifests", digest), document.media_type.encode())
            for tag in tags:
                self._write(self._tag_file(name, tag), digest.encode())
        return digest

    def _check_references(self, name: str, document: Document) -> None:
        for child in document.manifests:
            if not self.has_manifest(name, child.digest):
                raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, f"there is no manifest {child.digest}")
        for blob in document.blobs:
            found = self.find_blob(name, blob.digest)
            if found is None:
                if blob.needed:
                    raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, f"there is no blob {blob.digest}")
            elif found.stat().st_size != blob.size:
                raise Refusal(Code.MANIFEST_INVALID, f"{blob.digest} does not have {blob.size} bytes")

    def delete_manifest(self, name: str, digest: str) -> bool:
        """Take a manifest and the tags that mean it from a repository. Answers whether it was there."""
        with self.changing:
            for tag, meant in self.tagged(name).items():
                if meant == digest:
                    _unlink(self._tag_file(name, tag))
            return self.drop_manifest(name, digest)

    def drop_manifest(self, name: str, digest: str) -> bool:
        """Take away a manifest that has no tag. The caller holds `changing`."""
        mark, subject = self.mark(name, "_manifests", digest), self._subject(name, digest)
        found = _unlink(mark)
        if subject is not None:
            _unlink(self._referrer_file(name, subject, digest))
        return found

    def _subject(self, name: str, digest: str) -> str | None:
        """Read without a pin: the collector asks this while it removes."""
        with contextlib.suppress(FileNotFoundError, ImageError):
            media_type = self.mark(name, "_manifests", digest).read_text()
            return read_document(self.blob_file(digest).read_bytes(), media_type).subject
        return None

    # ---- referrers

    def _referrer_file(self, name: str, subject: str, digest: str) -> Path:
        return self.repository(name) / "_referrers" / split_digest(subject)[1] / split_digest(digest)[1]

    def referrers(self, name: str, subject: str) -> list[Referrer]:
        """All manifests of the repository that refer to `subject`, by digest; whether it exists does not matter."""
        folder = self.repository(name) / "_referrers" / split_digest(subject)[1]
        found: list[Referrer] = []
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                digest = digest_named(path.name)
                if digest is not None and self.has_manifest(name, digest):
                    found.append(parse_referrer(path.read_bytes()))
        return sorted(found, key=lambda entry: entry.digest)

    # ---- tags

    def _tag_file(self, name: str, tag: str) -> Path:
        if not is_tag(tag):
            raise Refusal(Code.MANIFEST_INVALID, "neither a tag nor a digest")
        return self.repository(name) / "_tags" / tag

    def _tagged(self, name: str, tag: str) -> str | None:
        try:
            digest = self._tag_file(name, tag).read_text()
        except FileNotFoundError:
            return None
        return digest if is_content_digest(digest) else None

    def tagged(self, name: str) -> dict[str, str]:
        """Tag to digest, of all tags that mean something."""
        found = {tag: self._tagged(name, tag) for tag in self.tags(name) or []}
        return {tag: digest for tag, digest in found.items() if digest is not None}

    def tags(self, name: str) -> list[str] | None:
        """All tags in lexical order; None when nothing was ever pushed there."""
        repository = self.repository(name)
        if not (repository / "_manifests").is_dir():
            return None
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in (repository / "_tags").iterdir())
        return []

    def delete_tag(self, name: str, tag: str) -> bool:
        """Take a tag away; what it meant stays. Answers whether it was there."""
        with self.changing:
            return _unlink(self._tag_file(name, tag))

    def _write(self, target: Path, data: bytes) -> None:
        write_durably(target, data, temporary=self.temporary)


def content_key(digest: str) -> Key:
    """The pin of content itself."""
    return ("", digest)


def blob_key(name: str, digest: str) -> Key:
    """The pin of a blob in a repository."""
    return (name, "_blobs/" + digest)


def manifest_key(name: str, digest: str) -> Key:
    """The pin of a manifest in a repository."""
    return (name, "_manifests/" + digest)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    fsync_directory(path.parent)
    return True
