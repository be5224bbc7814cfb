"""Room on the disk: what is missing is said, and the ballast is let go and made again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference.core.delivery import Memory
from reference.core.errors import DeviceError, JournalError, Reason
from reference.core.model import Image, ImageState
from reference.core.update import UpdateRecord
from reference.edge.disk import Ballast, free_bytes, require
from reference.edge.journal import Journal
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.pull import Access, PullLimits
from tests.edge.bench import command
from tests.edge.runtimes.registry import build, running_registry

SIZE = 1 << 20


class Disk:
    """A disk of a stated size: what is free depends on the ballast that really lies there."""

    def __init__(self, ballast: Path, free: int) -> None:
        self.ballast = ballast
        self.free = free

    def __call__(self, _: Path) -> int:
        return self.free - (self.ballast.stat().st_size if self.ballast.exists() else 0)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "ballast", 10 * SIZE)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert require(tmp_path, 60, "the image", margin_bytes=30, free=lambda _: 100) == 10
    with pytest.raises(DeviceError) as caught:
        require(tmp_path, 80, "the image", margin_bytes=30, free=lambda _: 100)
    assert caught.value.reason is Reason.DISK_FULL
    assert "10 are missing" in str(caught.value)
    assert free_bytes(tmp_path) > 0


def test_ballast_is_real_blocks(disk: Disk) -> None:
    ballast = Ballast(disk.ballast, SIZE, disk)
    ballast.tend()
    assert ballast.held
    facts = disk.ballast.stat()
    assert (facts.st_size, facts.st_blocks * 512 >= SIZE, facts.st_mode & 0o777) == (SIZE, True, 0o600)


def test_it_goes_when_the_disk_is_full_and_comes_back_when_there_is_room(disk: Disk) -> None:
    ballast = Ballast(disk.ballast, SIZE, disk)
    ballast.tend()
    disk.free = SIZE + SIZE // 8
    ballast.tend()
    assert not ballast.held
    assert not disk.ballast.exists()
    for free in (SIZE, SIZE + SIZE // 2, 2 * SIZE - 1):
        disk.free = free
        ballast.tend()
        assert not ballast.held, "it would come and go"
    disk.free = 2 * SIZE
    ballast.tend()
    assert ballast.held
    ballast.tend()
    assert ballast.held, "what it takes itself is not what lets it go"


def test_what_a_cut_left_of_it_is_made_whole_or_goes(disk: Disk) -> None:
    ballast = Ballast(disk.ballast, SIZE, disk)
    disk.ballast.write_bytes(b"half")
    disk.ballast.with_name("ballast.new").write_bytes(b"half")
    ballast.tend()
    assert ballast.held
    disk.ballast.write_bytes(b"half")
    disk.free = 0
    ballast.tend()
    assert not disk.ballast.exists()


def test_none_is_none(disk: Disk) -> None:
    disk.ballast.write_bytes(b"of another configuration")
    Ballast(disk.ballast, 0, disk).tend()
    assert not disk.ballast.exists()


def test_a_disk_that_fails_does_not_end_the_watch(tmp_path: Path) -> None:
    def broken(_: Path) -> int:
        raise OSError(5, "Input/output error")

    Ballast(tmp_path / "absent" / "ballast", SIZE, broken).tend()
    Ballast(tmp_path / "absent" / "ballast", SIZE, lambda _: 10 * SIZE).tend()


async def test_it_is_watched(disk: Disk) -> None:
    ballast = Ballast(disk.ballast, SIZE, disk)
    task = asyncio.create_task(ballast.watch(0.005))
    try:
        async with asyncio.timeout(5):
            while not ballast.held:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.005)
            disk.free = SIZE
            while ballast.held:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_journal_on_a_disk_that_is_really_full_writes_again_without_a_restart(small: Path) -> None:
    ballast = Ballast(small / "ballast", SIZE)
    Journal.create(small / "journal.db", UpdateRecord("epoch"))
    journal = Journal.open(small / "journal.db")
    try:
        ballast.tend()
        assert ballast.held
        with (small / "hog").open("wb") as hog, contextlib.suppress(OSError):
            while True:
                os.write(hog.fileno(), bytes(4096))
        memory = journal.memory
        with pytest.raises(JournalError) as caught:
            for number in range(1, 1000):
                memory = Memory(UpdateRecord("epoch", floor=number, queued=command(number)), number)
                journal.write(memory)
        assert caught.value.reason is Reason.DISK_FULL
        journal.reload()
        ballast.tend()
        assert not ballast.held
        journal.write(memory)
        assert journal.memory == memory
        (small / "hog").unlink()
        ballast.tend()
        assert ballast.held
    finally:
        journal.close()


async def test_a_pull_on_a_full_disk_is_refused_and_works_once_there_is_room(small: Path) -> None:
    """In one life of the runtime: nothing has to be started again."""
    async with running_registry() as registry:
        built = build([{"app/main.py": b"", "app/noise": os.urandom(600_000)}])
        image = Image(f"{registry.address}/opc", registry.publish(built), "1")
        access, limits = Access({}, frozenset({registry.address})), PullLimits(margin_bytes=100_000)
        runtime = ProcessRuntime(small / "state", small / "run", access, limits)
        hog = small / "hog"
        hog.write_bytes(bytes(3 << 20))
        with pytest.raises(DeviceError, match="are missing") as caught:
            await runtime.pull(image, lambda _: None)
        assert caught.value.reason is Reason.DISK_FULL
        assert registry.asked == [image.digest], "nothing of it was fetched"
        hog.unlink()
        await runtime.pull(image, lambda _: None)
        assert (await runtime.observe()).images == {image.digest: ImageState.PRESENT}
        await runtime.close()
