"""A look at an engine's data-root, over a small one that is made here, whole and then damaged in one place each."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reference.core.model import ImageState
from reference.power.engine_look import LABEL_GENERATION, LABEL_IMAGE, DataRoot, content_of
from reference.power.look import Files
from reference.power.versions import layer_content

DIFFS = ("sha256:" + "a" * 64, "sha256:" + "b" * 64)
DIGEST = "sha256:" + "c" * 64
BUILT = {DIGEST: DIFFS}
LAYERS: dict[str, Files] = {
    DIFFS[0]: {"usr/bin/python3": hashlib.sha256(b"elf").hexdigest(), "usr/bin/python": "-> python3"},
    DIFFS[1]: {"app/main.py": hashlib.sha256(b"print()").hexdigest()},
}
CONTAINER = "d" * 64


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def overlay(root: Path, name: str, *, lower: str = "") -> None:
    folder = root / "overlay2" / name
    (folder / "diff").mkdir(parents=True)
    write(folder / "link", f"L{name}")
    if lower:
        write(folder / "lower", lower)
    (root / "overlay2" / "l").mkdir(exist_ok=True)
    (root / "overlay2" / "l" / f"L{name}").symlink_to(f"../{name}/diff")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image of two layers, and a container of it."""
    root, store = tmp_path / "docker", tmp_path / "docker" / "image" / "overlay2"
    chain = hashlib.sha256(f"{DIFFS[0]} {DIFFS[1]}".encode()).hexdigest()
    for number, (entry, diff) in enumerate(((DIFFS[0].partition(":")[2], DIFFS[0]), (chain, DIFFS[1]))):
        layer = store / "layerdb" / "sha256" / entry
        for name, content in (
            ("diff", diff),
            ("size", "9"),
            ("tar-split.json.gz", "x"),
            ("cache-id", f"c{number}"),
        ):
            write(layer / name, content)
        overlay(root, f"c{number}", lower="l/Lc0" if number else "")
    write(root / "overlay2/c0/diff/usr/bin/python3", "elf")
    (root / "overlay2/c0/diff/usr/bin/python").symlink_to("python3")
    write(root / "overlay2/c1/diff/app/main.py", "print()")
    config = json.dumps({"rootfs": {"diff_ids": DIFFS}})
    image_id = hashlib.sha256(config.encode()).hexdigest()
    write(store / "imagedb/content/sha256" / image_id, config)
    tags = {"blackstart/a.b": {f"blackstart/a.b:{DIGEST.replace(':', '-')}": f"sha256:{image_id}"}}
    write(store / "repositories.json", json.dumps({"Repositories": tags}))
    labels = {LABEL_IMAGE: f"h/n@{DIGEST}", LABEL_GENERATION: "4"}
    write(root / "containers" / CONTAINER / "config.v2.json", json.dumps({"Config": {"Labels": labels}}))
    write(root / "containers" / CONTAINER / "hostconfig.json", "{}")
    for name in ("mount-id", "init-id"):
        overlay(root, f"{CONTAINER}-{name}", lower="l/Lc1")
        write(store / "layerdb/mounts" / CONTAINER / name, f"{CONTAINER}-{name}")
    write(store / "layerdb/mounts" / CONTAINER / "parent", "p")
    return root


def seen(root: Path) -> DataRoot:
    return DataRoot(root, LAYERS)


def test_what_is_whole_is_seen_whole(root: Path) -> None:
    images = seen(root).images(BUILT)
    assert {digest: (found.claimed, found.whole) for digest, found in images.items()} == {
        DIGEST: (ImageState.PRESENT, True)
    }
    assert [(c.id, c.generation, c.digest) for c in seen(root).containers()] == [(CONTAINER, 4, DIGEST)]


def empty(name: str) -> Callable[[Path], None]:
    return lambda root: write(next(root.glob(name)), "")


def gone(name: str) -> Callable[[Path], None]:
    return lambda root: next(root.glob(name)).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        empty("overlay2/c0/diff/usr/bin/python3"), gone("overlay2/c0/diff/usr/bin/python"), empty("overlay2/c1/link"),
        gone("overlay2/l/Lc0"), empty("overlay2/c1/lower"), gone("overlay2/c1/diff/app/main.py"),
        lambda root: write(root / "overlay2/c1/diff/app/more", "x"), empty("image/overlay2/layerdb/sha256/a*/cache-id"),
        empty("image/overlay2/layerdb/sha256/a*/diff"), empty("image/overlay2/layerdb/sha256/a*/tar-split.json.gz"),
        lambda root: shutil.rmtree(root / "overlay2/c1/diff"),
    ],
    ids=["a file is empty", "a link is gone", "a layer's link is empty", "a layer's short name is gone",
         "what is below is not named", "a file is gone", "a file is new", "no folder is named", "not listed",
         "half a description", "the files are gone"],
)  # fmt: skip
def test_an_image_that_is_listed_and_not_whole_is_seen(root: Path, damage: Callable[[Path], None]) -> None:
    damage(root)
    assert not seen(root).images(BUILT)[DIGEST].whole


def test_an_image_without_its_configuration_is_broken_and_one_without_a_tag_is_not_ours(root: Path) -> None:
    empty("image/overlay2/imagedb/content/sha256/*")(root)
    found = seen(root).images(BUILT)[DIGEST]
    assert (found.claimed, found.whole) == (ImageState.BROKEN, False)
    write(root / "image/overlay2/repositories.json", '{"Repositories": {}}')
    assert seen(root).images(BUILT) == {}
    empty("image/overlay2/repositories.json")(root)
    assert seen(root).images(BUILT) == {}


@pytest.mark.parametrize(
    "damage",
    [
        empty("containers/*/config.v2.json"), empty("containers/*/hostconfig.json"),
        empty("image/overlay2/layerdb/mounts/*/mount-id"), gone("image/overlay2/layerdb/mounts/*/parent"),
        empty("overlay2/*-mount-id/link"),
    ],
    ids=["not described", "no host part", "no layer of its own", "no layer below", "a layer without a link"],
)  # fmt: skip
def test_half_a_container_is_none_because_the_engine_will_not_load_it(
    root: Path, damage: Callable[[Path], None]
) -> None:
    damage(root)
    assert seen(root).containers() == []


def test_a_layer_says_of_itself_what_its_files_say_once_it_is_unpacked(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    with gzip.open(layer, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, kind, content in (
            ("a", tarfile.DIRTYPE, b""), ("a/file", tarfile.REGTYPE, b"content"), ("a/link", tarfile.SYMTYPE, b"file"),
            ("a/same", tarfile.LNKTYPE, b"a/file"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            member.linkname = "" if kind == tarfile.REGTYPE else content.decode()
            tar.addfile(member, io.BytesIO(content))
    with tarfile.open(layer) as tar:
        tar.extraction_filter = getattr(tarfile, "tar_filter", None)  # Debian's Python 3.11.2 has none
        tar.extractall(tmp_path / "out")
    assert content_of(tmp_path / "out") == layer_content(layer)
    assert layer_content(layer)["a/link"] == "-> file"
