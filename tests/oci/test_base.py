"""The layer with Python: the same bytes each time, small, whole, and kept."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.oci import base
from reference.oci.base import BaseLayer, python_base
from reference.oci.build import build_image
from reference.oci.layout import blob_path
from reference.oci.manifests import parse_config, parse_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BaseLayer:
    return python_base(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def unpacked(made: BaseLayer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    with tarfile.open(made.path) as tar:
        tar.extraction_filter = getattr(tarfile, "tar_filter", None)  # Debian's Python 3.11.2 has none
        tar.extractall(root)
    return root


def test_the_digests_are_those_of_the_bytes(made: BaseLayer) -> None:
    data = made.path.read_bytes()
    assert (made.digest, made.size) == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    assert made.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}"


def test_the_same_python_gives_the_same_bytes(made: BaseLayer, tmp_path: Path) -> None:
    again = python_base(tmp_path)
    assert again.path != made.path
    assert (again.digest, again.diff_id) == (made.digest, made.diff_id)


def test_it_is_kept_and_made_anew_when_it_is_damaged(tmp_path: Path) -> None:
    first = python_base(tmp_path)
    before = first.path.stat().st_mtime_ns
    assert python_base(tmp_path) == first
    assert first.path.stat().st_mtime_ns == before
    first.path.write_bytes(first.path.read_bytes()[:-1])
    assert python_base(tmp_path) == first
    assert first.path.stat().st_size == first.size


def test_it_is_small_and_nothing_in_it_is_of_this_machine(made: BaseLayer) -> None:
    with tarfile.open(made.path) as tar:
        members = tar.getmembers()
    assert sum(member.size for member in members) < 60 << 20, "34 MB with Debian's Python"
    assert made.size < 25 << 20
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    names = [member.name for member in members]
    assert len(names) == len(set(names))
    assert not [n for n in names if re.search(r"/(test|tests|idlelib|tkinter|site-packages|__pycache__)/", n)]
    assert not [n for n in names if n.endswith(".py")], "nothing is compiled at a start"


def test_folders_come_before_what_is_in_them(made: BaseLayer) -> None:
    with tarfile.open(made.path) as tar:
        known = {"."}
        for member in tar:
            assert str(Path(member.name).parent) in known, member.name
            if member.isdir():
                known.add(member.name)


def test_it_runs_by_itself(unpacked: Path) -> None:
    """Only what is in the layer: the loader and the libraries, too. In a chroot, where that may be made."""
    code = "import asyncio, hashlib, http.server, json, sqlite3, ssl, zlib, sys; print(sys.prefix, sys.version_info[:2] >= (3, 11))"
    command = ["chroot", str(unpacked), "/usr/local/bin/python3", "-I", "-S", "-c", code]
    if subprocess.run(["chroot", "/", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("chroot: needs root")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "/usr/local True\n", done.stderr


def test_an_image_on_it_has_two_layers(made: BaseLayer, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text("print('here')")
    alone = build_image(tmp_path / "app", tmp_path / "alone", version="1")
    built = build_image(tmp_path / "app", tmp_path / "out", version="1", base=made)
    manifest = parse_manifest(blob_path(built.layout, built.manifest_digest).read_bytes())
    config = parse_config(blob_path(built.layout, built.config_digest).read_bytes())
    assert [layer.digest for layer in manifest.layers] == [made.digest, built.layer_digest]
    assert config.diff_ids[0] == made.diff_id
    assert len(config.diff_ids) == 2
    assert config.entrypoint == ("python3", "-I", "-S", "/app/main.py")
    assert blob_path(built.layout, made.digest).stat().st_size == made.size
    assert built.layer_digest == alone.layer_digest, "the program's own layer is the same with and without"


def test_no_python_that_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_facts", lambda executable: None)
    with pytest.raises(InputError, match=r"no Python 3\.11 or newer .* Install it"):
        python_base(tmp_path)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="BLACKSTART_CACHE"):
        python_base(tmp_path / "file")
