"""An OCI image layout on the disk: `oci-layout`, `index.json`, `blobs/sha256/...` (image specification 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import ImageError, InputError
from reference.oci.digests import hex_of, sha256_of
from reference.oci.manifests import (
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    parse_index,
    parse_manifest,
)

MARKER = "oci-layout"
MARKER_TEXT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX = "index.json"
REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Layout:
    """The one image of a layout folder. `version` is its name in the index, empty if it has none."""

    path: Path
    descriptor: Descriptor
    manifest: Manifest
    manifest_bytes: bytes
    version: str

    def blob(self, digest: str) -> Path:
        """Where the content with this digest is. Raises InputError for what is no digest."""
        return blob_path(self.path, digest)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All that has to be at the registry before the manifest: layers, then the configuration."""
        return (*self.manifest.layers, self.manifest.config)


def blob_path(layout: Path, digest: str) -> Path:
    """Where the content with this digest is. Raises InputError for what is no digest."""
    return layout / "blobs" / "sha256" / hex_of(digest)


def is_layout(path: Path) -> bool:
    """Whether the folder says that it is an image layout."""
    return (path / MARKER).is_file()


def read_layout(path: Path) -> Layout:
    """Read and check a layout with exactly one image. Raises InputError (no layout), ImageError (a bad one)."""
    if not is_layout(path):
        raise InputError(
            "not an OCI image layout",
            where=str(path),
            todo="Make one with `blackstart image build FOLDER --out DIR`.",
        )
    index = parse_index(_read(path / INDEX))
    if len(index.manifests) != 1:
        raise ImageError(f"holds {len(index.manifests)} images where one is wanted", where=str(path / INDEX))
    descriptor = index.manifests[0]
    blob = blob_path(path, descriptor.digest)
    data = _read(blob)
    if len(data) != descriptor.size or sha256_of(data) != descriptor.digest:
        raise ImageError("does not match its digest", where=str(blob), todo="Build the image again.")
    manifest = parse_manifest(data, descriptor.media_type)
    return Layout(path, descriptor, manifest, data, descriptor.annotations.get(REF_NAME, ""))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", where=str(path)) from error
