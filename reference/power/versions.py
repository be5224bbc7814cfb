"""The versions that a run plays with: built once, pushed, and remembered file by file, so that a disk can be compared."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reference.client.images import write_client_folder
from reference.oci.base import python_base
from reference.oci.build import PREFIX, build_image
from reference.oci.layout import Layout, read_layout
from reference.oci.push import push_image
from reference.oci.references import parse_reference
from reference.power.bench import NAME
from reference.power.look import Files, files_of
from reference.power.stories import OLD_VERSION, UNKNOWN, Story

_BULK_BYTES = 24 << 10
_BULK_FILES, _BULK_FILES_ON_BASE = 24, 240
"""An image has some weight, so that what was not synced is missed, and a pull some length."""


@dataclass(slots=True)
class Versions:
    """What was built and pushed."""

    digests: dict[str, str] = field(default_factory=dict)
    """Version -> digest."""
    files: dict[str, Files] = field(default_factory=dict)
    """Digest, or diff id of a layer -> what lies in it."""
    layers: dict[str, list[str]] = field(default_factory=dict)
    """Digest -> diff ids of its layers, lowest first."""


def push_all(folder: Path, host: str, stories: Sequence[Story], *, with_base: bool) -> Versions:
    """Build each version once and push it. `with_base`: on a layer with Python, as an engine needs it."""
    wanted: dict[str, Story | None] = {OLD_VERSION: None}
    wanted.update({story.version: story for story in stories if story.defect != UNKNOWN})
    found, base = Versions(), python_base() if with_base else None
    for version, story in wanted.items():
        app, layout = folder / "built" / version, folder / "built" / f"{version}.oci"
        app.parent.mkdir(exist_ok=True)
        defect, after_ms = (None, None) if story is None else (story.defect, story.after_ms)
        write_client_folder(app, version, defect, after_ms=after_ms)
        stream = random.Random(version)  # noqa: S311 - some weight, no secret
        for number in range(_BULK_FILES_ON_BASE if with_base else _BULK_FILES):
            (app / f"part-{number:03}").write_bytes(stream.randbytes(stream.randrange(_BULK_BYTES)))
        built = build_image(app, layout, version=version, base=base)
        found.digests[version] = push_image(
            layout, parse_reference(f"{host}/{NAME}:{version}"), plain_http=True
        )
        if with_base:
            _note_layers(found, read_layout(layout))
        else:
            held = {path: digest for path, digest in files_of(app).items() if path != "blackstart-image.json"}
            found.files[built.manifest_digest] = {f"{PREFIX}/{path}": digest for path, digest in held.items()}
    return found


def _note_layers(found: Versions, layout: Layout) -> None:
    """Keep what is in each layer. Two images may stand on one."""
    config = json.loads(layout.blob(layout.manifest.config.digest).read_bytes())
    diffs = [str(diff) for diff in config["rootfs"]["diff_ids"]]
    found.layers[layout.descriptor.digest] = diffs
    for diff, layer in zip(diffs, layout.manifest.layers, strict=True):
        if diff not in found.files:
            found.files[diff] = layer_content(layout.blob(layer.digest))


def layer_content(blob: Path) -> Files:
    """Every file and link in a layer: what `reference.power.engine_look.content_of` says of it once it is unpacked."""
    found: dict[str, str] = {}
    with tarfile.open(blob) as layer:
        for member in layer:
            path = member.name.removeprefix("./").rstrip("/")
            if member.issym():
                found[path] = f"-> {member.linkname}"
            elif member.islnk():
                found[path] = found[member.linkname.removeprefix("./")]
            elif member.isfile():
                file = layer.extractfile(member)
                assert file is not None, "a regular member has content"
                found[path] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return found
