"""Garbage collection: what no manifest refers to any more, and nobody has asked for lately, is removed.

Marks first, then content. A mark of a blob goes when no manifest of its repository refers to it; content goes when no
repository has a mark for it. Both only when older than the grace period, whose clock starts again whenever a client
pushes, mounts or asks for the blob: between a HEAD that finds a blob and the manifest that refers to it there is time.
Everything is looked at while requests go on; `pins.py` keeps the two from meeting. A cut at any moment leaves at most
garbage for the next time.

Manifests without a tag are kept, because devices pull by digest; `untagged` removes those that no tag, no index and
no subject that is kept leads to.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from reference.core.errors import ImageError
from reference.oci.durable import fsync_directory
from reference.registry.documents import Document, read_document
from reference.registry.storage import Storage, blob_key, content_key, digest_named, manifest_key

GRACE_S = 3600
"""How long a blob that nothing refers to is kept."""
_log = logging.getLogger("blackstart.registry")
Clock = Callable[[], float]


@dataclass(slots=True)
class Collected:
    """What a collection removed, or (dry run) would have; `freed_bytes` is the content's."""

    manifests: int = 0
    blobs: int = 0
    contents: int = 0
    freed_bytes: int = 0
    kept_contents: int = 0


class Stopped(Exception):  # noqa: N818 - not a fault
    """The collection was asked to end; what it did so far is good."""


@dataclass(slots=True)
class Collection:
    """One run over one storage. `clock` is compared with the times of files, in seconds since 1970."""

    storage: Storage
    grace_s: float = GRACE_S
    untagged: bool = False
    dry_run: bool = False
    clock: Clock = time.time
    stopping: Callable[[], bool] = lambda: False

    def run(self) -> Collected:
        """Collect. Blocks. Raises OSError, Stopped; what was removed until then was garbage."""
        done = Collected()
        with self.storage.pins.collection():
            for name in list(self.storage.repositories()):
                self._repository(name, done)
            self._contents(done)
        return done

    # ---- one repository

    def _repository(self, name: str, done: Collected) -> None:
        documents = self._documents(name)
        if documents is None:
            return
        if self.untagged:
            for digest in set(documents) - self._reachable(name, documents):
                mark = self.storage.mark(name, "_manifests", digest)
                if self._old(mark) and self._remove_manifest(name, digest):
                    done.manifests += 1
                    del documents[digest]
        wanted = {blob.digest for document in documents.values() for blob in document.blobs}
        for path, digest in self._marks(name, "_blobs"):
            if digest not in wanted and self._remove(blob_key(name, digest), path):
                done.blobs += 1

    def _documents(self, name: str) -> dict[str, Document] | None:
        """All manifests; None when one cannot be read: then nothing of this repository can be called garbage."""
        found: dict[str, Document] = {}
        for mark, digest in list(self._marks(name, "_manifests")):
            try:
                data = self.storage.blob_file(digest).read_bytes()
                found[digest] = read_document(data, mark.read_text())
            except FileNotFoundError:
                if mark.exists():
                    _log.error("%s: the content of manifest %s is missing", name, digest)
                    return None
            except (ImageError, UnicodeDecodeError) as error:
                _log.error("%s: manifest %s is damaged: %s", name, digest, error)
                return None
        return found

    def _reachable(self, name: str, documents: dict[str, Document]) -> set[str]:
        kept: set[str] = set()
        todo = list(self.storage.tagged(name).values())
        about: dict[str, list[str]] = {}
        for digest, document in documents.items():
            if document.subject is not None:
                about.setdefault(document.subject, []).append(digest)
        while todo:
            digest = todo.pop()
            if digest in kept or digest not in documents:
                continue
            kept.add(digest)
            todo += [child.digest for child in documents[digest].manifests]
            todo += about.get(digest, [])
        return kept

    def _remove_manifest(self, name: str, digest: str) -> bool:
        # A tag may have come since: requests that tag pin the manifest, so `remove` sees them.
        if self.dry_run:
            return True
        with self.storage.changing:
            return self.storage.pins.remove(
                manifest_key(name, digest), lambda: self.storage.drop_manifest(name, digest)
            )

    # ---- content

    def _contents(self, done: Collected) -> None:
        marked = {
            digest
            for name in self.storage.repositories()
            for kind in ("_blobs", "_manifests")
            for _, digest in self._marks(name, kind)
        }
        for path in sorted((self.storage.root / "blobs").glob("sha*/??/*")):
            digest = digest_named(path.name)
            if digest is None or digest in marked:
                done.kept_contents += 1
                continue
            size = path.stat().st_size
            if self._remove(content_key(digest), path):
                done.contents += 1
                done.freed_bytes += size
            else:
                done.kept_contents += 1

    # ---- small steps

    def _marks(self, name: str, kind: str) -> Iterator[tuple[Path, str]]:
        with contextlib.suppress(FileNotFoundError):
            for path in sorted((self.storage.repository(name) / kind).iterdir()):
                digest = digest_named(path.name)
                if digest is not None:
                    yield path, digest

    def _old(self, path: Path) -> bool:
        if self.stopping():
            raise Stopped
        try:
            changed = path.stat().st_mtime
        except FileNotFoundError:
            return False
        return self.clock() - changed >= self.grace_s

    def _remove(self, key: tuple[str, str], path: Path) -> bool:
        if not self._old(path):
            return False
        if self.dry_run:
            return True
        return self.storage.pins.remove(key, lambda: _unlink(path))


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    fsync_directory(path.parent)


class Periodic:
    """Collects every `every_s` seconds while it is open; 0: never."""

    def __init__(self, storage: Storage, *, every_s: float, grace_s: float) -> None:
        self.every_s = every_s
        self._stop = threading.Event()
        self._collection = Collection(storage, grace_s=grace_s, stopping=self._stop.is_set)
        self._thread = threading.Thread(target=self._run, name="registry-gc", daemon=True)

    def __enter__(self) -> None:
        if self.every_s > 0:
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            try:
                done = self._collection.run()
            except Stopped:
                return
            except OSError as error:
                _log.error("garbage was not collected: %s", error)
                continue
            if done.contents or done.blobs:
                _log.info("collected %d blobs, %d bytes", done.blobs, done.freed_bytes)
