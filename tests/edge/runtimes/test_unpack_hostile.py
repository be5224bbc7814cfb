"""Archives and manifests made to hurt: refused by name, nothing outside the folder, memory bounded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reference.core.errors import BlackstartError, Reason
from reference.core.model import Image
from reference.oci.manifests import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from tests.edge.runtimes.conftest import ProcessBench
from tests.edge.runtimes.contract import SLEEPER, ignore
from tests.edge.runtimes.hostile import HEAVY, LAYERS, unpacked
from tests.edge.runtimes.registry import Built, build, digest

ROOT = Path(__file__).parents[3]
GROWTH_KB = 40_000
"""How much a process may grow over one hostile layer."""


def outside(folder: Path) -> dict[str, str]:
    """Everything below `folder` but what was unpacked, by content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_relative_to(folder / "root"):
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = f"{path.lstat().st_mode:o} {content}"
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_a_hostile_layer(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("untouched")
    data, expected = LAYERS[name][0](), LAYERS[name][1]
    (tmp_path / "blob").write_bytes(data)
    before = outside(tmp_path)
    assert unpacked(name, tmp_path, data) is expected
    assert outside(tmp_path) == before
    root = tmp_path / "root"
    for path in root.rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(root), f"{path} leads out"
        assert path.is_symlink() or path.is_dir() or path.is_file()


@pytest.mark.parametrize("name", HEAVY)
def test_memory_is_bounded(tmp_path: Path, name: str) -> None:
    data, expected = LAYERS[name][0](), LAYERS[name][1]
    (tmp_path / "layer").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "tests.edge.runtimes.hostile", name, str(tmp_path)],
        cwd=ROOT, text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["reason"] == expected
    assert found["grown_kb"] < GROWTH_KB, found


def document(**changes: object) -> bytes:
    """A manifest whose content is nowhere."""
    described = {"mediaType": OCI_LAYER_GZIP, "digest": "sha256:" + "1" * 64, "size": 10}
    body: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": "sha256:" + "2" * 64, "size": 10},
        "layers": [described],
        **changes,
    }
    return json.dumps(body).encode()


LAYER = {"mediaType": OCI_LAYER_GZIP, "digest": "sha256:" + "1" * 64, "size": 10}
MANIFESTS: dict[str, tuple[bytes, Reason]] = {
    "5 MB": (document(annotations={"a": "x" * 5_000_000}), Reason.IMAGE_TOO_LARGE),
    "10,000 layers": (document(layers=[LAYER] * 10_000), Reason.IMAGE_INVALID),
    "200 layers": (document(layers=[LAYER] * 200), Reason.IMAGE_TOO_LARGE),
    "nested 100,000 deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.IMAGE_INVALID),
    "a layer of a terabyte": (document(layers=[{**LAYER, "size": 1 << 40}]), Reason.IMAGE_TOO_LARGE),
    "a layer of negative size": (document(layers=[{**LAYER, "size": -1}]), Reason.IMAGE_INVALID),
    "a layer of a size in words": (document(layers=[{**LAYER, "size": "10"}]), Reason.IMAGE_INVALID),
    "a layer of a fraction": (document(layers=[{**LAYER, "size": 1.5}]), Reason.IMAGE_INVALID),
    "a digest that is a path": (document(layers=[{**LAYER, "digest": "sha256:../../x"}]), Reason.IMAGE_INVALID),
    "a digest of a kind that is none": (document(layers=[{**LAYER, "digest": "md5:" + "1" * 32}]), Reason.IMAGE_INVALID),
    "a configuration of a gigabyte": (
        document(config={"mediaType": OCI_CONFIG, "digest": "sha256:" + "2" * 64, "size": 1 << 30}),
        Reason.IMAGE_TOO_LARGE,
    ),
    "layers that cannot be unpacked here": (
        document(layers=[{**LAYER, "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd"}]),
        Reason.IMAGE_INVALID,
    ),
    "an artifact that is no image": (
        document(config={"mediaType": "application/x", "digest": "sha256:" + "2" * 64, "size": 2}),
        Reason.IMAGE_INVALID,
    ),
    "an unknown media type": (document(mediaType="text/html"), Reason.IMAGE_INVALID),
    "both a manifest and an index": (document(manifests=[]), Reason.IMAGE_INVALID),
    "not JSON": (b"<html>", Reason.IMAGE_INVALID),
    "nothing": (b"", Reason.IMAGE_INVALID),
    "a list": (b"[]", Reason.IMAGE_INVALID),
}  # fmt: skip


async def refusal(bench: ProcessBench, image: Image) -> BlackstartError:
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    return caught.value


@pytest.mark.parametrize("name", MANIFESTS)
async def test_a_hostile_manifest(bench: ProcessBench, name: str) -> None:
    data, reason = MANIFESTS[name]
    bench.registry.content[digest(data)] = data
    error = await refusal(bench, Image(f"{bench.registry.address}/opc", digest(data), "1"))
    assert error.reason is reason, error
    assert bench.registry.asked == [digest(data)], "no blob is asked for"
    assert (await bench.runtime.observe()).images == {}


async def test_an_index_in_an_index(bench: ProcessBench) -> None:
    inner = build([{"app/main.py": SLEEPER}], index=True)
    listed = json.loads(inner.content[inner.digest])["manifests"][0]
    size = len(inner.content[inner.digest])
    entry = {**listed, "mediaType": OCI_INDEX, "digest": inner.digest, "size": size}
    outer = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    built = Built(digest(outer), {**inner.content, digest(outer): outer}, inner.layers)
    assert (await refusal(bench, bench.image(built))).reason is Reason.IMAGE_INVALID


async def test_a_manifest_that_the_registry_calls_something_else(bench: ProcessBench) -> None:
    image = bench.publish(SLEEPER)
    bench.registry.content_types[image.digest] = OCI_INDEX
    assert (await refusal(bench, image)).reason is Reason.IMAGE_INVALID
    bench.registry.content_types[image.digest] = OCI_MANIFEST + "; charset=utf-8"
    await bench.runtime.pull(image, ignore)


@pytest.mark.parametrize("change", [-1, 1])
async def test_a_layer_of_another_size_than_said(bench: ProcessBench, change: int) -> None:
    built = build([{"app/main.py": SLEEPER}])
    body = json.loads(built.content[built.digest])
    body["layers"][0]["size"] += change
    data = json.dumps(body).encode()
    image = bench.image(Built(digest(data), {**built.content, digest(data): data}))
    assert (await refusal(bench, image)).reason is Reason.PULL_CORRUPT
    assert (await bench.runtime.observe()).images == {}
