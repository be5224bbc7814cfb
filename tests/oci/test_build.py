"""Building an image: bit-identical, whole or not at all, and nothing in it that does not belong there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference.core.errors import BlackstartError, ImageError, InputError
from reference.oci import build
from reference.oci.build import BuiltImage, Healthcheck, build_image
from reference.oci.digests import sha256_of
from reference.oci.layout import blob_path, read_layout
from reference.oci.manifests import ImageConfig, machine_architecture, parse_config
from tests.oci.samples import app_folder


@pytest.fixture(autouse=True)
def _no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def _content(layout: Path) -> dict[str, bytes]:
    return {str(p.relative_to(layout)): p.read_bytes() for p in layout.rglob("*") if p.is_file()}


def _config(image: BuiltImage) -> ImageConfig:
    return parse_config(read_layout(image.layout).blob(image.config_digest).read_bytes())


def _members(image: BuiltImage) -> list[tarfile.TarInfo]:
    with tarfile.open(read_layout(image.layout).blob(image.layer_digest)) as tar:
        return tar.getmembers()


def test_the_image_is_what_the_folder_says(tmp_path: Path) -> None:
    image = build_image(app_folder(tmp_path), tmp_path / "out" / "image", version="2.1.0")
    layout = read_layout(image.layout)
    assert layout.descriptor.digest == image.manifest_digest == sha256_of(layout.manifest_bytes)
    assert layout.version == "2.1.0"
    config = _config(image)
    assert config.architecture == image.architecture == machine_architecture()
    assert config.arguments == ("python3", "/app/main.py")
    assert config.working_dir == "/app"
    assert config.labels["org.opencontainers.image.version"] == "2.1.0"
    found = {member.name: member for member in _members(image)}
    assert list(found) == [
        "app",
        "app/lib",
        "app/lib/part.py",
        "app/link",
        "app/main.py",
        "app/tool",
    ]
    assert {m.mtime for m in found.values()} == {0}
    assert {(m.uid, m.gid) for m in found.values()} == {(0, 0)}
    assert found["app/tool"].mode == 0o755
    assert found["app/main.py"].mode == 0o644
    assert found["app/link"].linkname == "lib/part.py"
    assert image.files == 3


def test_diff_id_is_of_the_unpacked_layer(tmp_path: Path) -> None:
    import gzip

    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1")
    packed = read_layout(image.layout).blob(image.layer_digest).read_bytes()
    assert packed[4:8] == bytes(4), "the time in gzip's header"
    assert _config(image).diff_ids == (sha256_of(gzip.decompress(packed)),)


@pytest.mark.usefixtures("_umask")
def test_two_builds_are_bit_identical(tmp_path: Path) -> None:
    first_folder = app_folder(tmp_path, "first")
    first = build_image(first_folder, tmp_path / "a", version="1")
    os.umask(0o077)
    second_folder = app_folder(tmp_path, "second")
    for path in second_folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1_700_000_000, 1_700_000_000))
    second = build_image(second_folder, tmp_path / "b", version="1")
    assert first.manifest_digest == second.manifest_digest
    assert _content(tmp_path / "a") == _content(tmp_path / "b")
    (second_folder / "main.py").write_text("print('other')\n")
    third = build_image(second_folder, tmp_path / "c", version="1")
    assert third.manifest_digest != first.manifest_digest


def test_the_epoch_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1")
    assert {m.mtime for m in _members(image)} == {1_000_000_000}
    assert _config(image).created == "2001-09-09T01:46:40Z"


@pytest.mark.parametrize("epoch", ["soon", "-1", "9" * 20, "999999999999", "\u0661"])
def test_a_bad_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        build_image(app_folder(tmp_path), tmp_path / "image", version="1")


def test_settings_of_the_folder_and_of_the_caller(tmp_path: Path) -> None:
    folder = app_folder(tmp_path)
    settings = {
        "entrypoint": ["/app/tool", "--serve"],
        "env": {"A": "1", "B": "1"},
        "labels": {"defect": "none"},
        "workingDir": "/app/lib",
        "architecture": "riscv64",
    }
    (folder / "blackstart-image.json").write_text(json.dumps(settings))
    image = build_image(folder, tmp_path / "image", version="1", env={"B": "2"}, architecture="arm64")
    config = _config(image)
    assert config.entrypoint == ("/app/tool", "--serve")
    assert config.env == {"A": "1", "B": "2"}
    assert config.labels["defect"] == "none"
    assert config.working_dir == "/app/lib"
    assert config.architecture == "arm64"
    assert not any("blackstart-image" in member.name for member in _members(image))


def _run_of(image: BuiltImage) -> dict[str, object]:
    """The part of the configuration that an engine runs."""
    found = json.loads(blob_path(image.layout, image.config_digest).read_bytes())["config"]
    assert isinstance(found, dict)
    return found


def test_what_only_an_engine_reads(tmp_path: Path) -> None:
    folder = app_folder(tmp_path)
    check = {"test": ["python3", "/app/check.py"], "intervalMs": 5_000, "retries": 2}
    (folder / "blackstart-image.json").write_text(json.dumps({"cmd": ["--fast"], "healthcheck": check}))
    found = _run_of(
        build_image(folder, tmp_path / "image", version="1", more={"User": "9", "StopSignal": "SIGINT"})
    )
    assert found["Cmd"] == ["--fast"]
    assert (found["User"], found["StopSignal"]) == ("9", "SIGINT")
    assert found["Healthcheck"] == {
        "Test": ["CMD", "python3", "/app/check.py"],
        "Interval": 5_000_000_000,
        "Timeout": 30_000_000_000,
        "StartPeriod": 0,
        "Retries": 2,
    }
    own = Healthcheck(("true",), start_period_ms=7)
    found = _run_of(build_image(folder, tmp_path / "image", version="1", cmd=["--slow"], healthcheck=own))
    assert found["Cmd"] == ["--slow"]
    assert found["Healthcheck"] == own.as_config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"healthcheck": {}}', "is empty"),
        ('{"healthcheck": {"test": ["x"], "every": 1}}', "'every' is not known"),
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"entry": []}', "'entry' is not known"),
        ('{"entrypoint": "python3"}', "not a list"),
        ('{"entrypoint": []}', "is empty"),
        ('{"entrypoint": [""]}', "not in the folder"),
        ('{"entrypoint": ["/app/absent"]}', "not in the folder"),
        ('{"env": {"A": 1}}', "not text"),
        ('{"env": {"A=B": "1"}}', "name of an environment variable"),
        ('{"workingDir": "app"}', "absolute path"),
        ('{"architecture": "pdp11"}', "not an architecture"),
        ('{"env": {}, "env": {}}', "twice"),
    ],
)
def test_bad_settings_leave_nothing(tmp_path: Path, text: str, says: str) -> None:
    folder = app_folder(tmp_path)
    (folder / "blackstart-image.json").write_text(text)
    with pytest.raises(InputError, match=says):
        build_image(folder, tmp_path / "image", version="1")
    assert [p.name for p in tmp_path.iterdir()] == ["app"]


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../secret", "lib/../../secret", "out/secret", "lib/.."], ids=str
)
def test_links_stay_inside(tmp_path: Path, target: str) -> None:
    folder = app_folder(tmp_path)
    (tmp_path / "secret").write_text("secret")
    if target.startswith("out"):
        (folder / "out").symlink_to("..")
    (folder / "bad").symlink_to(target)
    if target == "lib/..":
        build_image(folder, tmp_path / "image", version="1")  # The folder itself is inside.
        return
    with pytest.raises(InputError, match="outside the folder"):
        build_image(folder, tmp_path / "image", version="1")
    assert not (tmp_path / "image").exists()


def test_links_that_only_seem_to_stay_inside(tmp_path: Path) -> None:
    folder = app_folder(tmp_path)
    absolute = folder / "absolute"
    absolute.symlink_to(folder / "main.py")  # Inside now, but not where the image will be unpacked.
    with pytest.raises(InputError, match="absolute: is a link"):
        build_image(folder, tmp_path / "image", version="1")
    absolute.unlink()
    (tmp_path / "secret").write_text("secret")
    (folder / "lib" / "up").symlink_to("..")
    (folder / "lib" / "detour").symlink_to("up/../secret")
    with pytest.raises(InputError, match="detour: is a link"):
        build_image(folder, tmp_path / "image", version="1")


def test_what_an_image_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = app_folder(tmp_path)
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="device, a socket or a pipe"):
        build_image(folder, tmp_path / "image", version="1")
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)  # The name of a socket may have 108 bytes.
        listener.bind("socket")
        with pytest.raises(InputError, match="device, a socket or a pipe"):
            build_image(folder, tmp_path / "image", version="1")
    (folder / "socket").unlink()
    (folder / os.fsdecode(b"bad-\xff")).touch()
    with pytest.raises(InputError, match="not UTF-8"):
        build_image(folder, tmp_path / "image", version="1")


def test_bad_folders_and_places(tmp_path: Path) -> None:
    folder = app_folder(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        build_image(tmp_path / "absent", tmp_path / "image", version="1")
    with pytest.raises(InputError, match="its own folder"):
        build_image(folder, folder / "image", version="1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    for place in (tmp_path / "full", folder / ".." / "full" / "precious"):
        with pytest.raises(InputError, match="not an OCI image layout"):
            build_image(folder, place, version="1")
    with pytest.raises(InputError, match="cannot be written"):
        build_image(folder, tmp_path / "full" / "precious" / "image", version="1")
    for version in ("", "2.1.0+build", "a" * 129, ".1"):
        with pytest.raises(InputError, match="cannot be a version"):
            build_image(folder, tmp_path / "image", version=version)
    (folder / "main.py").unlink()
    with pytest.raises(InputError, match="there is no main"):
        build_image(folder, tmp_path / "image", version="1")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="empty"):
        build_image(empty, tmp_path / "image", version="1")
    assert (tmp_path / "full" / "precious").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app", "empty", "full"]


def test_a_layout_is_replaced(tmp_path: Path) -> None:
    folder = app_folder(tmp_path)
    build_image(folder, tmp_path / "image", version="1")
    (folder / "main.py").write_text("print(2)\n")
    second = build_image(folder, tmp_path / "image", version="2")
    assert read_layout(tmp_path / "image").descriptor.digest == second.manifest_digest
    build_image(folder, tmp_path / "clean", version="2")
    assert _content(tmp_path / "image") == _content(tmp_path / "clean")


def test_an_error_in_the_middle_leaves_the_old_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = app_folder(tmp_path)
    first = build_image(folder, tmp_path / "image", version="1")
    before = _content(tmp_path / "image")
    (folder / "main.py").write_text("print(2)\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_add", full)
    with pytest.raises(InputError, match="No space left"):
        build_image(folder, tmp_path / "image", version="2")
    assert _content(tmp_path / "image") == before
    assert read_layout(tmp_path / "image").descriptor.digest == first.manifest_digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app", "image"]


def test_a_damaged_layout_is_refused(tmp_path: Path) -> None:
    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1")
    with pytest.raises(InputError, match="not an OCI image layout"):
        read_layout(tmp_path)
    blob = read_layout(image.layout).blob(image.manifest_digest)
    whole = blob.read_bytes()
    for damage in (whole[:-1], whole.replace(b'"size":', b'"size" ', 1)):
        blob.write_bytes(damage)
        with pytest.raises(ImageError, match="does not match its digest"):
            read_layout(image.layout)
    blob.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        read_layout(image.layout)
    shutil.rmtree(image.layout / "blobs")
    with pytest.raises(BlackstartError):
        read_layout(image.layout)
