"""Hostile images: a good client with a layer on top that no updater may unpack.

Digests and sizes are all right, so nothing stands between such an image and the unpacking but its limits and checks.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from reference.client.images import write_client_folder
from reference.oci.base import python_base
from reference.oci.build import build_image
from reference.oci.digests import sha256_of
from reference.oci.layout import INDEX, REF_NAME, blob_path, read_layout
from reference.oci.manifests import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Index, parse_config

BLOCK_BYTES = 1 << 20
Way = Literal["up", "absolute", "link"]


@dataclass(frozen=True, slots=True)
class HostileLayer:
    """A layer as it travels, and what it is unpacked."""

    packed: bytes
    diff_id: str
    unpacked_bytes: int

    @property
    def digest(self) -> str:
        """Of the layer as it travels."""
        return sha256_of(self.packed)


def bomb(unpacked_bytes: int, file_bytes: int) -> HostileLayer:
    """Files of zeros, `unpacked_bytes` in all and `file_bytes` each: a thousand times as large as what travels.

    Made of gzip members that repeat (RFC 1952, section 2.2), so that it costs no time to pack.
    """
    zeros, digest = bytes(BLOCK_BYTES), hashlib.sha256()
    block, parts, left, number = gzip.compress(zeros, mtime=0), [], unpacked_bytes, 0

    def add(plain: bytes, packed: bytes | None = None) -> None:
        digest.update(plain)
        parts.append(packed if packed is not None else gzip.compress(plain, mtime=0))

    while left > 0:
        info = tarfile.TarInfo(f"app/zeros-{number}")
        info.size = size = min(left, file_bytes)
        add(info.tobuf(tarfile.PAX_FORMAT))
        for _ in range(size // BLOCK_BYTES):
            add(zeros, block)
        if rest := -(-(size % BLOCK_BYTES) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE:
            add(bytes(rest))
        left, number = left - size, number + 1
    add(bytes(2 * tarfile.BLOCKSIZE))
    return HostileLayer(b"".join(parts), f"sha256:{digest.hexdigest()}", unpacked_bytes)


def escape(way: Way, target: Path) -> HostileLayer:
    """A file that wants to be written to `target`, outside of the image: by `..`, by its whole path, or through a link.

    `target` is to lie in the run's folder: an updater that falls for it does no more harm than that.
    """
    up = "../" * 64 + str(target).lstrip("/")
    if way == "link":
        entries = [_link("app/way", str(Path(up).parent)), _file(f"app/way/{target.name}")]
    else:
        entries = [_file(up if way == "up" else str(target))]
    plain = _tar(entries)
    return HostileLayer(gzip.compress(plain, mtime=0), sha256_of(plain), len(plain))


def _file(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), b"written by a layer\n"


def _link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info, b""


def _tar(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def client_with(work: Path, version: str, layer: HostileLayer | None, *, on_base: bool) -> tuple[Path, str]:
    """A layout of that version of the client, with the layer on top of it; and its digest. Blocking. Raises InputError.

    Without a layer it is simply good. `on_base`: with Python in it, as a real engine needs it.
    """
    folder, layout = work / "folder", work / "layout"
    shutil.rmtree(work, ignore_errors=True)
    write_client_folder(folder, version)
    built = build_image(folder, layout, version=version, base=python_base() if on_base else None)
    return (layout, built.manifest_digest if layer is None else _put_on_top(layout, version, layer))


def _put_on_top(layout: Path, version: str, layer: HostileLayer) -> str:
    good = read_layout(layout)
    config = parse_config(good.blob(good.manifest.config.digest).read_bytes())
    config = replace(config, diff_ids=(*config.diff_ids, layer.diff_id))
    top = _add(layout, OCI_LAYER_GZIP, layer.packed)
    described = _add(layout, OCI_CONFIG, config.to_bytes())
    manifest = replace(good.manifest, config=described, layers=(*good.manifest.layers, top))
    listed = _add(layout, OCI_MANIFEST, manifest.to_bytes())
    index = Index((replace(listed, platform=config.platform, annotations={REF_NAME: version}),))
    (layout / INDEX).write_bytes(index.to_bytes())
    return listed.digest


def _add(layout: Path, media_type: str, data: bytes) -> Descriptor:
    digest = sha256_of(data)
    blob_path(layout, digest).write_bytes(data)
    return Descriptor(media_type, digest, len(data))
