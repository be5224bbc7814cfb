"""Unpacking: whiteouts as specified, and nothing outside the folder whatever a layer says."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from reference.core.errors import ImageError, Reason
from reference.edge.runtimes.unpack import Layer, UnpackCancelledError, UnpackLimits, unpack
from tests.edge.runtimes.registry import LayerSource, digest, entry, layer_of, tar_of

SECRET = "untouched"


def run(tmp_path: Path, *layers: LayerSource, limits: UnpackLimits | None = None) -> dict[str, str]:
    """Unpack; answers the tree. Whatever happens, nothing beside the root may have changed."""
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "file").write_text(SECRET)
    blobs = []
    for number, source in enumerate(layers):
        data = layer_of(source)
        path = tmp_path / f"layer{number}"
        path.write_bytes(data)
        blobs.append(Layer(path, digest(data)))
    before = sorted(p.name for p in tmp_path.iterdir() if p.name != "root")
    root = tmp_path / "root"
    try:
        unpack(blobs, root, limits or UnpackLimits())
    finally:
        assert sorted(p.name for p in tmp_path.iterdir() if p.name != "root") == before
        assert [p.name for p in outside.iterdir()] == ["file"]
        assert (outside / "file").read_text() == SECRET
        for path in root.rglob("*"):
            assert Path(os.path.realpath(path)).is_relative_to(root), f"{path} leads out"
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_text()
    return found


def test_layers_are_applied_in_order(tmp_path: Path) -> None:
    found = run(tmp_path, {"a/x": b"1", "a/y": b"1"}, {"a/x": b"2", "./b/z": b"2"})
    assert found == {"a/x": "2", "a/y": "1", "b/z": "2"}


def test_whiteouts(tmp_path: Path) -> None:
    lower: LayerSource = {"a/x": b"1", "a/y": b"1", "b/z": b"1", "c/d/e": b"1", "c/f": b"1"}
    upper: LayerSource = {
        "a/.wh.x": b"",
        "b/new": b"2",
        "b/.wh..wh..opq": b"",
        ".wh.none": b"",
        "c/.wh.d": b"",
    }
    assert run(tmp_path, lower, upper) == {"a/y": "1", "b/new": "2", "c/f": "1"}


def test_a_whiteout_spares_its_own_layer(tmp_path: Path) -> None:
    assert run(tmp_path, {"a": b"1"}, {"a": b"2", ".wh.a": b"", ".wh..wh.plnk": b""}) == {"a": "2"}


@pytest.mark.parametrize("opaque_first", [True, False])
def test_an_opaque_whiteout_spares_its_own_layer(tmp_path: Path, opaque_first: bool) -> None:
    upper: list[tuple[str, bytes]] = [("d/.wh..wh..opq", b""), ("d/new", b"2"), ("d/sub/new", b"2")]
    entries = [(entry(name), data) for name, data in (upper if opaque_first else upper[::-1])]
    found = run(tmp_path, {"d/old": b"1", "d/sub/old": b"1"}, tar_of(entries))
    assert "d/old" not in found
    assert found["d/new"] == "2"


def test_a_file_replaces_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    upper = tar_of([(entry("a"), b"2"), (entry("b", tarfile.DIRTYPE), b""), (entry("b/x"), b"2")])
    assert run(tmp_path, {"a/x": b"1", "b": b"1"}, upper) == {"a": "2", "b/x": "2"}


def test_modes_keep_neither_setuid_nor_foreign_writers(tmp_path: Path) -> None:
    run(tmp_path, tar_of([(entry("x", mode=0o6777), b"1")]))
    mode = stat.S_IMODE((tmp_path / "root/x").stat().st_mode)
    assert mode == 0o755
    assert (tmp_path / "root/x").stat().st_uid == os.getuid()


def test_links_inside_are_kept_and_absolute_ones_mean_the_image(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        tar_of(
            [
                (entry("etc/real"), b"1"),
                (entry("a/rel", tarfile.SYMTYPE, "../etc/real"), b""),
                (entry("a/abs", tarfile.SYMTYPE, "/etc/real"), b""),
                (entry("a/hard", tarfile.LNKTYPE, "etc/real"), b""),
                (entry("lib", tarfile.SYMTYPE, "/usr/lib"), b""),
                (entry("usr/lib/x"), b"1"),
                (entry("lib/y"), b"2"),
            ]
        ),
    )
    assert found["a/rel"] == found["a/abs"] == "-> ../etc/real"
    assert found["a/hard"] == "1"
    assert found["usr/lib/y"] == "2"


ATTACKS = {
    "dot dot": [(entry("../outside/file"), b"evil")],
    "dot dot inside": [(entry("a/../../outside/file"), b"evil")],
    "absolute": [(entry("/tmp/evil-blackstart"), b"evil")],
    "link up": [(entry("x", tarfile.SYMTYPE, "../outside"), b""), (entry("x/file"), b"evil")],
    "link up twice": [
        (entry("deep/er/s", tarfile.SYMTYPE, "../.."), b""),
        (entry("deep/er/s/y", tarfile.SYMTYPE, "../outside"), b""),
    ],
    "hard link up": [(entry("x", tarfile.LNKTYPE, "../outside/file"), b"")],
    "hard link to a link": [
        (entry("x", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (entry("y", tarfile.LNKTYPE, "x"), b""),
    ],
    "device": [(entry("x", tarfile.CHRTYPE), b"")],
    "block device": [(entry("x", tarfile.BLKTYPE), b"")],
    "fifo": [(entry("x", tarfile.FIFOTYPE), b"")],
    "whiteout of the parent": [(entry("a/x"), b""), (entry("a/.wh..."), b"")],
    "whiteout of nothing": [(entry("a/.wh."), b"")],
    "whiteout of itself": [(entry("a/.wh.."), b"")],
    "whiteout above": [(entry("../.wh.outside"), b"")],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError) as caught:
        run(tmp_path, tar_of(ATTACKS[name]))
    assert caught.value.reason is Reason.IMAGE_UNSAFE


def test_a_link_is_never_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "outside" / "file"
    found = run(
        tmp_path,
        tar_of([(entry("x", tarfile.SYMTYPE, str(victim)), b""), (entry("x"), b"evil")]),
        tar_of([(entry("y", tarfile.SYMTYPE, str(victim.parent)), b"")]),
        tar_of([(entry("y/file"), b"evil")]),
    )
    assert found["x"] == "evil"


def test_a_link_that_is_moved_under_another_link_stays_inside(tmp_path: Path) -> None:
    """The target goes through a folder that a later layer replaces by a link to somewhere shallower."""
    run(
        tmp_path,
        tar_of([(entry("a/b/c/keep"), b""), (entry("l", tarfile.SYMTYPE, "a/b/c/../../../x"), b"")]),
        tar_of([(entry("a/b/c", tarfile.SYMTYPE, "/"), b"")]),
    )


@pytest.mark.parametrize(
    ("limits", "layers"),
    [
        (UnpackLimits(layers=1), [{"a": b""}, {"b": b""}]),
        (UnpackLimits(entries=3), [{"a": b"", "b": b"", "c/d": b"", "e": b""}]),
        (UnpackLimits(entries=3), [{"a/b/c/d/e": b""}]),
        (UnpackLimits(file_bytes=10), [{"a": b"x" * 11}]),
        (UnpackLimits(total_bytes=50_000), [{"a": b"x" * 30_000}, {"b": b"x" * 30_000}]),
    ],
)
def test_limits(tmp_path: Path, limits: UnpackLimits, layers: list[LayerSource]) -> None:
    with pytest.raises(ImageError) as caught:
        run(tmp_path, *layers, limits=limits)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


def _huge_header() -> bytes:
    info = entry("x", tarfile.XHDTYPE)
    info.size = 1 << 33
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def _nested_headers() -> bytes:
    buffer = io.BytesIO()
    for _ in range(3000):
        info = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME)
        info.size = 2
        buffer.write(info.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0"))
    return buffer.getvalue()


def _sparse() -> bytes:
    info = entry("x")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "x",
        "GNU.sparse.realsize": "9",
    }
    return tar_of([(info, b"1\n0\n1\n".ljust(512, b"\0") + b"x")])


@pytest.mark.parametrize(
    "data",
    [
        b"not a tar archive" * 100,
        layer_of({"a": b"x" * 5000})[:2000],
        _huge_header(),
        _nested_headers(),
        _sparse(),
        tar_of([(entry("n" * 300), b"")]),
        tar_of([(entry("/".join("d" * 150)), b"")]),
        tar_of(
            [
                (entry("a", tarfile.SYMTYPE, "b"), b""),
                (entry("b", tarfile.SYMTYPE, "a"), b""),
                (entry("a/x"), b""),
            ]
        ),
        tar_of([(entry("a"), b""), (entry("a/x"), b"")]),
        tar_of([(entry("a", tarfile.LNKTYPE, "missing"), b"")]),
    ],
    ids=["noise", "cut", "header", "nested", "sparse", "long", "deep", "loop", "under a file", "dangling"],
)
def test_what_cannot_be_unpacked_is_an_image_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        run(tmp_path, data)
    assert caught.value.reason in (Reason.IMAGE_INVALID, Reason.IMAGE_UNSAFE)


def test_it_stops_when_it_is_told(tmp_path: Path) -> None:
    data = layer_of({"a": b"x"})
    (tmp_path / "layer").write_bytes(data)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(UnpackCancelledError):
        unpack([Layer(tmp_path / "layer", digest(data))], tmp_path / "root", UnpackLimits(), cancelled)
