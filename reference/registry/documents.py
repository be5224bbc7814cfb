"""What a registry has to know of a manifest: what it refers to. Everything else in it is its owner's business.

More tolerant than `reference.oci.manifests`, which reads images to run them: here any artifact may be kept (OCI image
specification 1.1, manifest.md and image-index.md; Docker's schema 2 of the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reference.core.errors import ImageError
from reference.oci.digests import is_content_digest
from reference.oci.fields import Fields, load_object
from reference.oci.manifests import INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST

MAX_REFERENCES = 10_000
"""Most layers, or most manifests of an index: all of them are looked up at the push."""
_ELSEWHERE = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)
"""Layers that their owner does not let anyone distribute: they need not be here."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A descriptor inside a manifest: digest and size in bytes. `needed`: the registry must have it."""

    digest: str
    size: int
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index, as a registry sees it."""

    media_type: str
    blobs: tuple[Reference, ...] = ()
    manifests: tuple[Reference, ...] = ()
    subject: str | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


def read_document(data: bytes, media_type: str | None = None) -> Document:
    """Read a manifest or an index. `media_type`: what it was pushed as, None when nobody said.

    Raises ImageError; also for a document that could be read as both (CVE-2021-41190).
    """
    fields = load_object(data, "manifest", limit_bytes=MAX_MANIFEST_BYTES)
    guess = OCI_INDEX if fields.has("manifests") else OCI_MANIFEST
    kind = fields.text("mediaType", media_type or guess)
    if media_type is not None and media_type != kind:
        raise ImageError(f"says it is {kind[:100]!r}, but was given as {media_type!r}", where="manifest")
    if fields.has("manifests") and (fields.has("layers") or fields.has("config")):
        raise ImageError("is a manifest and an index at once", where="manifest")
    if fields.size("schemaVersion") != 2:
        fields.refuse("schemaVersion", "is not 2")
    if kind in MANIFEST_TYPES:
        return _manifest(fields, kind)
    if kind in INDEX_TYPES:
        return _index(fields, kind)
    raise ImageError(f"has the unknown media type {kind[:100]!r}", where="manifest")


def _manifest(fields: Fields, kind: str) -> Document:
    for key in ("config", "layers"):
        if not fields.has(key):
            fields.refuse(key, "is missing")
    config = fields.child("config")
    layers = [_reference(layer) for layer in fields.children("layers", at_most=MAX_REFERENCES)]
    artifact_type = fields.text("artifactType", "") or config.text("mediaType")
    return _document(fields, kind, artifact_type, blobs=(_reference(config), *layers))


def _index(fields: Fields, kind: str) -> Document:
    if not fields.has("manifests"):
        fields.refuse("manifests", "is missing")
    found = tuple(_reference(child) for child in fields.children("manifests", at_most=MAX_REFERENCES))
    return _document(fields, kind, fields.text("artifactType", ""), manifests=found)


def _document(
    fields: Fields,
    kind: str,
    artifact_type: str,
    blobs: tuple[Reference, ...] = (),
    manifests: tuple[Reference, ...] = (),
) -> Document:
    subject = _reference(fields.child("subject")).digest if fields.has("subject") else None
    return Document(kind, blobs, manifests, subject, artifact_type, fields.mapping("annotations"))


def _reference(fields: Fields) -> Reference:
    digest, size, kind = fields.text("digest"), fields.size("size"), fields.text("mediaType")
    if not is_content_digest(digest):
        fields.refuse("digest", "is not a digest")
    return Reference(digest, size, not kind.startswith(_ELSEWHERE))
