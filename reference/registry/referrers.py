"""Entries of the referrers list (OCI distribution specification 1.1, "Listing Referrers")."""

from __future__ import annotations

from dataclasses import dataclass

from reference.oci.fields import load_object
from reference.oci.manifests import MAX_MANIFEST_BYTES, OCI_INDEX, canonical
from reference.registry.documents import Document

PAGE_BYTES = MAX_MANIFEST_BYTES - (64 << 10)
"""A page is an index that every client has to be able to take."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """One manifest that has a subject. `entry` is its descriptor, as JSON text."""

    digest: str
    artifact_type: str
    entry: bytes


def referrer_of(digest: str, size: int, document: Document) -> bytes:
    """The descriptor of a manifest (size in bytes) in the list of its subject."""
    entry: dict[str, object] = {"mediaType": document.media_type, "digest": digest, "size": size}
    if document.artifact_type:
        entry["artifactType"] = document.artifact_type
    if document.annotations:
        entry["annotations"] = dict(document.annotations)
    return canonical(entry)


def parse_referrer(data: bytes) -> Referrer:
    """Read an entry that was stored. Raises ImageError."""
    fields = load_object(data, "referrers entry", limit_bytes=2 * MAX_MANIFEST_BYTES)
    return Referrer(fields.text("digest"), fields.text("artifactType", ""), data)


def page(entries: list[Referrer], after: str | None) -> tuple[bytes, str | None]:
    """An index of the entries behind `after` that fit, and after which the next page begins (None: all told)."""
    parts: list[bytes] = []
    size, last = 0, None
    for entry in entries:
        if after is not None and entry.digest <= after:
            continue
        size += len(entry.entry) + 1
        if size > PAGE_BYTES and parts:
            return _index(parts), last
        parts.append(entry.entry)
        last = entry.digest
    return _index(parts), None


def _index(parts: list[bytes]) -> bytes:
    head = b'{"schemaVersion":2,"mediaType":"' + OCI_INDEX.encode() + b'","manifests":['
    return head + b",".join(parts) + b"]}"
