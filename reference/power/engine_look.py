"""A look at an engine's data-root while the engine does not run: Docker's overlay2 store, file by file.

The engine believes what it has listed. What it lists is compared here with what was built: every file of every layer,
the links by which overlay2 finds its layers, and each container's own layer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from reference.core.model import ImageState
from reference.power.judge import StoredContainer, StoredImage
from reference.power.look import Files

LABEL_IMAGE, LABEL_GENERATION = "blackstart.image", "blackstart.generation"
_KEEP = "sha256-"


class DataRoot:
    """The data-root of a Docker Engine with overlay2. `layers`: diff id -> what was put into it."""

    def __init__(self, root: Path, layers: Mapping[str, Files]) -> None:
        self._store = root / "image" / "overlay2"
        self._overlay = root / "overlay2"
        self._containers = root / "containers"
        self._layers = layers
        self._known: dict[str, str] = {}

    def images(self, built: Mapping[str, Sequence[str]]) -> dict[str, StoredImage]:
        """Images with a keep-tag. `built`: digest -> diff ids of its layers."""
        found = {}
        for tag, image_id in self._tags().items():
            _, _, kept = tag.rpartition(f":{_KEEP}")
            for digest, diffs in built.items():
                if kept == digest.partition(":")[2]:
                    claimed = ImageState.PRESENT if self._readable(image_id) else ImageState.BROKEN
                    found[digest] = StoredImage(claimed, not self.wrong(image_id, diffs))
        return found

    def wrong(self, image_id: str, diffs: Sequence[str]) -> str:
        """What of an image is not as it was built; empty: nothing."""
        if not self._readable(image_id):
            return f"the configuration {image_id} is not whole"
        chain = ""
        for diff in diffs:
            chain = diff if not chain else f"sha256:{hashlib.sha256(f'{chain} {diff}'.encode()).hexdigest()}"
            if chain not in self._known:
                self._known[chain] = self._layer(chain, diff)
            if self._known[chain]:
                return self._known[chain]
        return ""

    def _tags(self) -> dict[str, str]:
        try:
            text = (self._store / "repositories.json").read_text("utf-8")
            return {
                tag: str(of) for tags in json.loads(text)["Repositories"].values() for tag, of in tags.items()
            }
        except (OSError, ValueError, KeyError, AttributeError):
            return {}

    def _readable(self, image_id: str) -> bool:
        content = _read(self._store / "imagedb" / "content" / "sha256" / image_id.partition(":")[2])
        return f"sha256:{hashlib.sha256(content).hexdigest()}" == image_id

    def _layer(self, chain: str, diff: str) -> str:
        """What is wrong with a layer; empty: nothing."""
        entry = self._store / "layerdb" / "sha256" / chain.partition(":")[2]
        if _read(entry / "diff").decode("ascii", "replace") != diff:
            return f"layer {diff} is not listed"
        if not _read(entry / "size") or not _read(entry / "tar-split.json.gz"):
            return f"the description of layer {diff} is not whole"
        name = _read(entry / "cache-id").decode("ascii", "replace")
        if not name:
            return f"layer {diff} has no folder"
        if wrong := self._linked(name):
            return f"layer {diff}: {wrong}"
        here, wanted = content_of(self._overlay / name / "diff"), self._layers.get(diff, {})
        if here == wanted:
            return ""
        differ = sorted(path for path in {*here, *wanted} if here.get(path) != wanted.get(path))
        return f"layer {diff}: {len(differ)} of {len(wanted)} files differ, first {differ[0]}"

    def _linked(self, name: str) -> str:
        """What is wrong with the way overlay2 finds a layer."""
        folder = self._overlay / name
        if not (folder / "diff").is_dir():
            return "its files are gone"
        link = _read(folder / "link").decode("ascii", "replace")
        if not link or not (self._overlay / "l" / link).is_dir():
            return "its link is gone"
        if (folder / "lower").exists() and not _read(folder / "lower"):
            return "what it lies on is not named"
        return ""

    def containers(self) -> list[StoredContainer]:
        """Containers of ours that the engine will load, each with its own layer. Half of one is none: it is not loaded."""
        found = []
        for folder in sorted(self._containers.iterdir()) if self._containers.is_dir() else ():
            described = _object(folder / "config.v2.json")
            labels = (described or {}).get("Config", {}).get("Labels", {})
            if LABEL_IMAGE not in labels or _object(folder / "hostconfig.json") is None:
                continue
            if self._own_layer(folder.name):
                continue
            digest = str(labels[LABEL_IMAGE]).rpartition("@")[2]
            found.append(StoredContainer(folder.name, int(str(labels.get(LABEL_GENERATION, 0))), digest))
        return found

    def _own_layer(self, container: str) -> str:
        """What is wrong with a container's own layer; empty: nothing."""
        entry = self._store / "layerdb" / "mounts" / container
        names = [_read(entry / name).decode("ascii", "replace") for name in ("mount-id", "init-id")]
        if not all(names) or not _read(entry / "parent"):
            return "it is not listed"
        return next((wrong for name in names if (wrong := self._linked(name))), "")


def content_of(root: Path) -> Files:
    """Every file and link below `root`: what `layer_content` says of the layer that it was unpacked from."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*names, *(n for n in folders if Path(folder, n).is_symlink())):
            path = Path(folder, name)
            if path.is_symlink():
                content = f"-> {path.readlink()}"
            elif path.is_file():
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                content = "neither file nor link"
            found[str(path.relative_to(root))] = content
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _object(path: Path) -> dict[str, dict[str, dict[str, object]]] | None:
    try:
        found = json.loads(_read(path))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
