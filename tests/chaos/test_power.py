"""The power of a device, taken from real processes on a real disk: what a cut loses, and what a kill does not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from chaos.faults.base import FaultError
from chaos.guard import Guard
from chaos.power import Power, engine_folder
from chaos.power.processes import alive, family, stand_still
from reference.engine import PrivateEngine, why_not
from reference.power.disk import SIZE_BYTES, Disk
from reference.power.engine import ENGINE_BYTES
from reference.stack.box import BoxMaker, ProcessBox
from reference.stack.device import Device
from reference.stack.docker_box import MARK, DockerBox
from tests.chaos.power_ground import alone
from tests.engine import static_image
from tests.power.conftest import needs_power

needs_engine = pytest.mark.skipif(bool(why_not()), reason=why_not() or "an engine can run here")
_WRITER = """
import os, sys
synced, said, loose = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for path in sys.argv[1:])
number = 0
while True:
    number += 1
    os.write(loose, b"x" * 100)
    os.write(synced, b"%d\\n" % number)
    os.fsync(synced)
    os.write(said, b"%d\\n" % number)
"""
"""Says a number elsewhere once it is on the disk, as a device that answers the broker does."""
_SLEEPS = "import time; time.sleep(1000)"
_FORKS = """
import os, sys, time
while True:
    if os.fork() == 0:
        time.sleep(0.02)
        os._exit(0)
    try:
        while True:
            os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass
"""


def python(program: str, *arguments: Path) -> subprocess.Popen[bytes]:
    """A process that names these on its command line."""
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)])


def device(folder: Path, box: BoxMaker = ProcessBox) -> Device:
    """A device without an agent."""
    made = Device("acme", "edge-1", folder / "edge-1", 4_840, box)
    made.run_dir.mkdir(parents=True)
    return made


def last(path: Path) -> int:
    """The last number in it."""
    lines = path.read_text().splitlines() if path.exists() else []
    return int(lines[-1]) if lines else 0


async def told(path: Path, least: int) -> None:
    """Wait until so much was said."""
    async with asyncio.timeout(20):
        while await asyncio.to_thread(last, path) < least:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@needs_power
@alone
async def test_whatever_was_said_to_be_on_the_disk_is_there_after_a_cut(folder: Path) -> None:
    disk = Disk(folder / "disk.img", folder / "edge-1", SIZE_BYTES)
    disk.format()
    disk.mount()
    one = device(folder)
    power = Power(one, Guard(folder), disk)
    kept, loose, said = one.root / "kept", one.root / "loose", folder / "said"
    for cut in range(5):
        before = last(said)
        with python(_WRITER, kept, said, loose) as writer:
            await told(said, 10)
            await power.cut()
            assert writer.wait() == -signal.SIGKILL
        assert not power.on
        assert list(one.root.iterdir()) == [], "the disk is away"
        await power.boot()
        assert last(kept) >= last(said) >= 10, "a number was said that is not on the disk"
        assert power.outages[-1].lost is True
        assert power.outages[-1].dead_disk
        assert power.outages[-1].processes == 1
        said.unlink()
        kept.unlink()
        assert before == 0, cut
    await power.close()
    disk.release()


@needs_power
@alone
async def test_where_nothing_could_be_written_nobody_knows_what_was_lost(folder: Path) -> None:
    disk = Disk(folder / "disk.img", folder / "edge-1", SIZE_BYTES)
    disk.format()
    disk.mount()
    one = device(folder)
    (one.root / ".written-as-the-power-went").mkdir()  # It is in the way, as a full disk is.
    power = Power(one, Guard(folder), disk)
    await power.settle()
    await power.cut()
    await power.boot()
    assert power.outages[-1].dead_disk
    assert power.outages[-1].lost is None
    assert "lost" not in power.outages[-1].told()
    disk.release()


@needs_power
@alone
async def test_a_kill_loses_nothing_and_a_shutdown_is_clean(folder: Path) -> None:
    disk = Disk(folder / "disk.img", folder / "edge-1", SIZE_BYTES)
    disk.format()
    disk.mount()
    one = device(folder)
    power = Power(one, Guard(folder), disk)
    for take in (power.kill, power.switch_off):
        (one.root / "loose").write_text("written")
        (one.run_dir / "boot-id").write_text("this boot")
        named, other = python(_SLEEPS, one.root / "main"), python(_SLEEPS, folder / "edge-10" / "main")
        assert power.processes() == {named.pid}, "what names the device's folder, and what descends from such"
        await take()
        assert other.poll() is None
        other.kill()
        other.wait()
        assert named.wait() in (-signal.SIGKILL, -signal.SIGTERM)
        await power.boot()
        assert (one.root / "loose").read_text() == "written"
        assert not (one.run_dir / "boot-id").exists(), "what a boot forgets"
        assert power.outages[-1].lost is None
    await power.boot()
    assert [outage.how for outage in power.outages] == ["killed", "off"], "on already: nothing"
    disk.release()


@needs_power
@alone
async def test_a_device_that_is_off_at_the_end_gets_its_disk_back(folder: Path) -> None:
    disk = Disk(folder / "disk.img", folder / "edge-1", SIZE_BYTES)
    disk.format()
    disk.mount()
    one = device(folder)
    (one.root / "kept").write_text("kept")
    power = Power(one, Guard(folder), disk)
    await power.settle()
    await power.cut()
    with pytest.raises(FaultError, match="is off already"):
        await power.cut()
    await power.close()
    await power.close()
    assert (one.root / "kept").read_text() == "kept"
    await one.box.clear()
    disk.release()


def test_all_stand_still_even_those_that_are_just_being_made(tmp_path: Path) -> None:
    forking = python(_FORKS, tmp_path / "main")
    find = partial(family, os.fsencode(f"{tmp_path}/"))
    try:
        end = time.monotonic() + 20
        while len(find()) < 2:
            assert time.monotonic() < end
        stopped = stand_still(find)
        assert forking.pid in stopped
        before = find()
        time.sleep(0.1)
        assert find() == before <= stopped, "nothing is forked any more"
        states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in before}
        assert states == {"T"}
    finally:
        for pid in find():
            os.kill(pid, signal.SIGKILL)
        forking.wait()
    assert not alive(forking.pid)


async def test_what_is_not_of_the_run_is_not_touched(tmp_path: Path) -> None:
    one = device(tmp_path / "elsewhere")
    power = Power(one, Guard(tmp_path / "run"), None)
    with pytest.raises(FaultError, match="is not of this run"):
        await power.kill()
    assert power.on
    engine = PrivateEngine(tmp_path / "run" / "shared")
    other = device(tmp_path / "run", partial(DockerBox, engine=engine))
    with pytest.raises(FaultError, match="shares its engine"):
        await Power(other, Guard(tmp_path / "run"), None).kill()
    assert engine_folder(other.root) == other.root / "engine"


@needs_power
@needs_engine
@alone
async def test_an_engine_loses_its_power_with_the_device(folder: Path) -> None:
    root = folder / "edge-1"
    disk = Disk(folder / "disk.img", root, ENGINE_BYTES)
    disk.format()
    disk.mount()
    engine = PrivateEngine(engine_folder(root))
    engine.start()
    try:
        one = device(folder, partial(DockerBox, engine=engine, alone=True))
        power = Power(one, Guard(folder), disk)
        image = static_image(engine, "box:1")
        client = engine.client()
        client.containers.run(
            image, ["/bin/busybox", "sh", "-c", "echo here >/data/loose; sleep 1000"], detach=True,
            environment={MARK: str(root)}, network_mode="host", restart_policy={"Name": "always"},
            volumes=[f"{root}/volume:/data"],
        )  # fmt: skip
        client.close()
        await power.settle()
        (root / "volume" / "later").write_text("not synced")
        [before] = one.box.processes()
        await power.cut()
        assert power.outages[-1].processes >= 4, "dockerd, containerd, a shim, and the client"
        assert one.box.processes() == []
        assert engine.pid is None
        await power.boot()
        assert power.outages[-1].lost is True
        async with asyncio.timeout(20):
            while not (after := one.box.processes()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert after != [before]
        assert not (root / "volume" / "later").exists() or (root / "volume" / "later").read_text() == ""
        await power.cut()
        await power.close()
        await one.box.clear()
        assert engine.pid is None, "it was taken down, and nobody starts it again"
    finally:
        engine.stop()
        disk.release()
