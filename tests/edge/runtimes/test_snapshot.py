"""Copies of volumes: whole or none, cut anywhere, and brought back in one step."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reference.core.errors import DeviceError, EngineError, Reason
from reference.core.model import SnapshotState
from reference.edge.runtimes import snapshot as module
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.snapshot import SnapshotStore
from tests.edge.runtimes.contract import until


class CutError(BaseException):
    """The power goes."""


class Device:
    """Two volumes and a configuration file, as a client has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volumes = [folder / "volumes" / name for name in ("data", "buffer")]
        for volume in self.volumes:
            volume.mkdir(parents=True)
        (folder / "client.json").write_text("{}")
        self.mounts = {f"/{v.name}": str(v) for v in self.volumes} | {"/etc/c": str(folder / "client.json")}
        self.store = SnapshotStore(folder / "state", 0)
        self.write("old")

    def write(self, word: str) -> None:
        for volume in self.volumes:
            (volume / "samples").write_text(word)

    def read(self) -> list[str]:
        return [(volume / "samples").read_text() for volume in self.volumes]

    def take(self) -> None:
        self.store.prepare(2, self.mounts)
        self.store.take(2, self.mounts, threading.Event())

    def beside(self) -> list[str]:
        return sorted(p.name for p in (self.folder / "volumes").iterdir() if p.name.startswith("."))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def cut_everywhere(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], None], again: Callable[[], None]
) -> int:
    """Do `work` cut before its first change of the disk, its second, and so on; each time `again` looks and repairs."""
    changes = [
        (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (module, "write_durably"), (module, "_exchange"),
        (module, "_copy_file"), (module, "fsync_dir"), (shutil, "rmtree"),
    ]  # fmt: skip
    number = 0
    while True:
        left = number

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **options: object) -> object:
                nonlocal left
                if left == 0:
                    raise CutError
                left -= 1
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for place, name in changes:
                patch.setattr(place, name, counted(getattr(place, name)))
            try:
                work()
            except CutError:
                cut = True
            else:
                cut = False
        again()
        if not cut:
            return number
        number += 1


def test_a_copy_has_all_that_the_volume_has(device: Device) -> None:
    data = device.volumes[0]
    (data / "deep" / "er").mkdir(parents=True)
    (data / "deep" / "er" / "file").write_bytes(b"x" * 3_000_000)
    (data / "deep").chmod(0o750)
    (data / "secret").write_text("s")
    (data / "secret").chmod(0o600)
    os.utime(data / "secret", ns=(1, 2))
    (data / "link").symlink_to("nowhere")
    os.mkfifo(data / "pipe")
    device.take()
    for path in sorted(data.rglob("*"), reverse=True):
        path.unlink() if not path.is_dir() or path.is_symlink() else path.rmdir()
    device.store.restore(2)
    assert (data / "deep" / "er" / "file").read_bytes() == b"x" * 3_000_000
    assert stat.S_IMODE((data / "deep").stat().st_mode) == 0o750
    assert stat.S_IMODE((data / "secret").stat().st_mode) == 0o600
    assert (data / "secret").stat().st_mtime_ns == 2
    assert (data / "link").readlink() == Path("nowhere")
    assert not (data / "pipe").exists(), "nobody waits at it"


def test_a_copy_that_is_cut_is_none_and_is_made_anew(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def again() -> None:
        assert device.store.states().get(2, SnapshotState.PREPARED) is not SnapshotState.RESTORED
        assert device.read() == ["old", "old"], "making a copy changes no volume"
        device.take()
        device.write("new")
        device.store.restore(2)
        assert device.read() == ["old", "old"]
        device.store.remove(2)

    assert cut_everywhere(monkeypatch, device.take, again) >= 8


@pytest.mark.parametrize("exchange", [True, False])
def test_a_restore_that_is_cut_anywhere_is_continued(
    device: Device, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(module, "_exchange", lambda *_: False)

    def work() -> None:
        device.write("old")
        with monkeypatch.context():
            device.take()
        device.write("new")
        device.store.restore(2)

    def again() -> None:
        state = device.store.states().get(2)
        if state is SnapshotState.TAKEN:
            device.store.restore(2)
            assert device.read() == ["old", "old"], "all of it or, with the next call, all of it"
        elif state is SnapshotState.RESTORED:
            assert device.read() == ["old", "old"]
        device.store.remove(2)
        device.store.remove(2)
        assert not [name for name in device.beside() if "snapshot" in name]

    assert cut_everywhere(monkeypatch, work, again) >= 12


def test_a_removal_that_is_cut_leaves_nothing_that_could_be_brought_back(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        device.take()
        device.write("new")
        device.store.remove(2)

    def again() -> None:
        device.store.remove(2)
        assert device.store.states() == {}
        for volume in device.volumes:
            assert volume.is_dir()
        device.write("old")

    assert cut_everywhere(monkeypatch, work, again) >= 10


def test_what_the_failed_version_left_is_kept_until_the_next_trial(device: Device) -> None:
    for generation in (2, 3):
        device.store.prepare(generation, device.mounts)
        assert device.beside() == []
        device.store.take(generation, device.mounts, threading.Event())
        device.write(f"new {generation}")
        device.store.restore(generation)
        device.store.remove(generation)
        assert device.beside() == [f".buffer.discarded-{generation}", f".data.discarded-{generation}"]
        aside = device.folder / "volumes" / f".data.discarded-{generation}" / "samples"
        assert aside.read_text() == f"new {generation}"


def test_no_room_is_said_before_anything_is_copied(device: Device) -> None:
    store = SnapshotStore(device.folder / "state", 1 << 60)  # A reserve that no disk can keep.
    with pytest.raises(DeviceError) as caught:
        store.prepare(2, device.mounts)
    assert caught.value.reason is Reason.DISK_FULL
    assert store.states() == {} and device.beside() == []


def test_a_volume_that_is_a_mount_point_is_refused(device: Device) -> None:
    with pytest.raises(DeviceError) as caught:
        device.store.prepare(2, {"/dev": "/dev/shm"})
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    assert "is a mount point" in str(caught.value)


def test_a_volume_in_another_one_is_copied_with_it(device: Device) -> None:
    inner = device.volumes[0] / "inner"
    inner.mkdir()
    device.mounts["/inner"] = str(inner)
    device.take()
    assert device.beside() == [".buffer.snapshot-2", ".data.snapshot-2"]


def test_a_copy_that_somebody_removed_is_named(device: Device) -> None:
    device.take()
    module._remove([device.folder / "volumes" / ".data.snapshot-2"])
    with pytest.raises(EngineError, match="the copy of the volume is gone"):
        device.store.restore(2)


def test_a_damaged_description_is_no_snapshot(device: Device) -> None:
    device.take()
    path = device.folder / "state" / "snapshots" / "2.json"
    path.write_bytes(path.read_bytes().replace(b"data", b"atad"))
    assert device.store.states() == {}
    with pytest.raises(EngineError):
        device.store.restore(2)
    device.store.remove(2)
    assert not path.exists()


async def test_a_copy_is_ended_by_a_cancel_and_leaves_no_thread(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FICLONE", 0)
    monkeypatch.setattr(module, "_CHUNK", 1)
    (device.volumes[0] / "big").write_bytes(b"x" * (8 << 20))
    runtime = ProcessRuntime(device.folder / "engine", device.folder / "run")
    task = asyncio.create_task(runtime.snapshot(2, device.mounts))
    await until((device.folder / "volumes" / ".data.snapshot-2" / "big").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await runtime.observe()).snapshots == {}


async def test_a_disk_that_is_full_after_all_has_its_name(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy_file", full)
    runtime = ProcessRuntime(device.folder / "engine", device.folder / "run")
    with pytest.raises(DeviceError) as caught:
        await runtime.snapshot(2, device.mounts)
    assert caught.value.reason is Reason.DISK_FULL
    assert device.read() == ["old", "old"]


def test_strange_files_among_the_descriptions_are_left_alone(device: Device) -> None:
    device.take()
    folder = device.folder / "state" / "snapshots"
    (folder / "foo.json").write_text("{}")
    (folder / "7.json").mkdir()
    assert device.store.states() == {2: SnapshotState.TAKEN}
    assert sorted(p.name for p in folder.iterdir()) == ["2.json", "foo.json"]


def test_a_damaged_description_is_said_once_and_its_copy_kept(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.take()
    path = device.folder / "state" / "snapshots" / "2.json"
    path.write_bytes(b"\xff" * 40)
    for _ in range(20):
        assert device.store.states() == {}
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    assert [p.name for p in path.parent.iterdir()] == ["2.json.damaged"]
    assert device.beside() == [".buffer.snapshot-2", ".data.snapshot-2"]


def test_a_description_that_cannot_be_read_now_is_not_taken_for_none(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.take()

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        with pytest.raises(OSError, match="Too many"):
            device.store.states()
    assert device.store.states() == {2: SnapshotState.TAKEN}


def test_holes_take_no_room_in_a_copy(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FICLONE", 0)
    sparse = device.volumes[0] / "sparse"
    with sparse.open("wb") as file:
        file.seek(1 << 30)
        file.write(b"in the middle")
        file.truncate(2 << 30)
    if sparse.stat().st_blocks > 4096:
        pytest.skip("this file system has no holes")
    device.take()
    copy = device.folder / "volumes" / ".data.snapshot-2" / "sparse"
    assert copy.stat().st_size == 2 << 30 and copy.stat().st_blocks <= sparse.stat().st_blocks + 64
    with copy.open("rb") as file:
        file.seek(1 << 30)
        assert file.read(20) == b"in the middle" + bytes(7)


def test_half_a_copy_gives_its_room_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._copy_file

    def fills_up(source: Path, target: Path, abort: threading.Event) -> int:
        if "data" in str(source):  # the second volume
            target.write_bytes(b"x")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target, abort)

    monkeypatch.setattr(module, "_copy_file", fills_up)
    with pytest.raises(OSError, match="No space"):
        device.take()
    assert device.beside() == []


def test_what_was_discarded_goes_whatever_the_volume_is_called(tmp_path: Path) -> None:
    volume = tmp_path / "volumes" / "data[1]*"
    volume.mkdir(parents=True)
    other = tmp_path / "volumes" / ".data1x.discarded-1"
    other.mkdir()
    store = SnapshotStore(tmp_path / "state", 0)
    for generation in (2, 3, 4):
        store.prepare(generation, {"/d": str(volume)})
        store.take(generation, {"/d": str(volume)}, threading.Event())
        store.restore(generation)
        store.remove(generation)
    beside = sorted(p.name for p in volume.parent.iterdir())
    assert beside == [".data1x.discarded-1", ".data[1]*.discarded-4", "data[1]*"]


def test_an_exchange_that_a_cut_kept_from_being_noted_is_listed_as_made(device: Device) -> None:
    """Else the next trial would take that copy for one of its own, and bring nothing back from it."""
    device.take()
    described = device.folder / "state" / "snapshots" / "2.json"
    taken = described.read_bytes()
    device.write("new")
    device.store.restore(2)
    described.write_bytes(taken)
    assert device.store.states() == {2: SnapshotState.RESTORED}
    assert device.read() == ["old", "old"]
    device.store.remove(2)
    assert device.store.states() == {} and device.read() == ["old", "old"]
    assert sum("discarded" in name for name in device.beside()) == 2, "what it replaced is kept for a person"


def test_a_volume_that_is_aside_for_a_moment_is_never_removed(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names cannot be exchanged, a cut may leave no volume at its place."""
    device.take()
    volume = device.volumes[0]
    volume.rename(volume.with_name(f".{volume.name}.snapshot-2.aside"))
    device.store.remove(2)
    assert device.read() == ["old", "old"] and device.store.states() == {}
