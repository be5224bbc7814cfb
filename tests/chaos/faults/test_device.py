"""Faults of a device's disk, clock, descriptors, journal and certificate: they happen, and they are undone."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path

import pytest

from chaos.faults.base import Fault, FaultError
from chaos.needs import blkio_folder
from chaos.power.outages import DISK_BYTES
from reference.edge.inspect import look
from reference.edge.settings import load_settings
from tests.chaos.power_ground import StandIn, alone, bare, ground, needs_faketime
from tests.power.conftest import needs_power

needs_blkio = pytest.mark.skipif(blkio_folder() is None, reason="no control group that throttles disks")


async def shown(fault: Fault) -> str:
    """What it says, once it says something."""
    async with asyncio.timeout(20):
        while not (said := await fault.fired()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return said


async def connected(made: StandIn) -> None:
    """Wait until the agent says that it is."""
    settings = load_settings(made.device.config)
    async with asyncio.timeout(20):
        while True:
            live = (await asyncio.to_thread(look, settings, "status")).get("live")
            if isinstance(live, dict) and live["connected"]:
                return
            await asyncio.sleep(0.05)


@needs_power
@alone
async def test_a_full_disk_fails_the_update_and_the_room_comes_back(folder: Path) -> None:
    async with ground(folder, disk_bytes=DISK_BYTES) as made:
        await made.publish("2.0.0")
        free = os.statvfs(made.device.root).f_bavail
        full = made.fault("disk-full", {"leave": "1MiB"})
        await full.begin()
        found = os.statvfs(made.device.root)
        assert found.f_bavail * found.f_frsize <= 1 << 20
        assert await full.fired() == "", "nobody has met it yet"
        ended = await made.job(await made.order("2.0.0"), "FAILED")
        assert ended["reason"]["code"] == "disk_full"  # type: ignore[index]
        assert "that the disk is full" in await full.fired()
        await made.answers()
        await full.heal()
        await full.heal()
        assert os.statvfs(made.device.root).f_bavail > free * 0.9
        await made.job(await made.order("2.0.0"), "SUCCEEDED")


@needs_power
@needs_blkio
@alone
async def test_a_slow_disk_is_slow_for_the_device_and_nobody_else(folder: Path) -> None:
    async with ground(folder, disk_bytes=DISK_BYTES) as made:
        await made.publish("2.0.0")
        slow = made.fault("slow-disk", {"rate": "256KiB"})
        await slow.begin()
        [group] = (blkio_folder() or Path()).glob(f"blackstart-slow-{os.getpid()}-*")
        inside = {int(line) for line in (group / "cgroup.procs").read_text().split()}
        assert made.device.agent is not None
        assert {made.device.agent.pid, *made.device.box.processes()} <= inside
        assert os.getpid() not in inside
        await made.device.agent.kill()
        await made.start_agent(made.device)
        await made.job(await made.order("2.0.0"), "SUCCEEDED")
        said = await slow.fired()
        assert "128 KiB were written and synced" in said
        await slow.heal()
        await slow.heal()
        assert not group.exists()
        assert await slow.fired() == "", "it is over"
        await made.answers("2.0.0")


@pytest.mark.parametrize("name", ["disk-full", "slow-disk"])
async def test_a_fault_of_the_disk_needs_a_disk_of_its_own(name: str, tmp_path: Path) -> None:
    fault = bare(tmp_path).fault(name)
    with pytest.raises(FaultError, match="no disk of its own"):
        await fault.begin()
    assert await fault.fired() == ""
    await fault.heal()


@alone
async def test_without_descriptors_nothing_is_opened(folder: Path) -> None:
    async with ground(folder) as made:
        settings = load_settings(made.device.config)
        gone = made.fault("descriptors-gone")
        assert made.device.agent is not None
        before = resource.prlimit(made.device.agent.pid, resource.RLIMIT_NOFILE)
        await gone.begin()
        assert resource.prlimit(made.device.agent.pid, resource.RLIMIT_NOFILE)[0] < before[0]
        assert await gone.fired() == "", "nobody has opened anything yet"
        asked = asyncio.create_task(asyncio.to_thread(look, settings, "status"))
        assert "say that opening failed" in await shown(gone)
        await gone.heal()
        await gone.heal()
        assert resource.prlimit(made.device.agent.pid, resource.RLIMIT_NOFILE) == before
        await asyncio.gather(asked, return_exceptions=True)
        assert (await asyncio.to_thread(look, settings, "status"))["source"] == "agent"

        few = made.fault("descriptors-gone", {"leave": 3})
        await few.begin()
        await made.device.agent.kill()  # as one that does not survive it
        await few.heal()
        assert made.on, "it is started again, as whoever keeps it up does"
        await few.heal()


@alone
async def test_a_damaged_journal_is_set_aside_and_made_anew(folder: Path) -> None:
    async with ground(folder) as made:
        for how in ("flipped", "truncated", "zeroed"):
            fault = made.fault("journal-corrupted", {"how": how})
            assert await fault.fired() == ""
            await fault.begin()
            assert "was set aside" in await shown(fault), how
            await made.answers()
        lost = made.fault("journal-corrupted", {"how": "lost"})
        await lost.begin()
        assert "it was not there" in await shown(lost)
        await made.publish("2.0.0")
        await made.job(await made.order("2.0.0"), "SUCCEEDED")


@alone
async def test_an_expired_certificate_is_refused_until_the_good_one_is_back(folder: Path) -> None:
    async with ground(folder) as made:
        before = made.device.config.read_bytes()
        expired = made.fault("device-certificate-expired")
        assert await expired.fired() == ""
        await expired.begin()
        assert "the broker hangs up on it and not on the good one" in await shown(expired)
        await expired.heal()
        await expired.heal()
        assert made.device.config.read_bytes() == before
        await connected(made)
        await made.answers()


@needs_faketime
@alone
async def test_the_clock_of_the_agent_jumps_while_it_runs(folder: Path) -> None:
    async with ground(folder, clock=True) as made:
        await made.publish("2.0.0")
        assert made.device.agent is not None
        agent = made.device.agent.pid
        for direction, sign in (("forward", 1), ("backward", -1)):
            jump = made.fault("clock-jumped", {"by": "2h", "direction": direction})
            assert await jump.fired() == ""
            await jump.begin()
            assert f"now {sign * 7200:+}" in (await jump.fired()).replace(".0 s", "")
            if direction == "forward":
                await made.job(await made.order("2.0.0"), "SUCCEEDED")
                found = look(load_settings(made.device.config), "journal")["history"]
                assert isinstance(found, list)
                assert found[-1]["at_ms"] / 1000 - time.time() > 7000, "the journal is dated by it"
            await jump.heal()
            assert await jump.fired() == ""
        assert made.device.agent.pid == agent, "it was never restarted"
        await made.answers("2.0.0")
        jump = made.fault("clock-jumped", {"by": "2h"})
        await jump.begin()
        await made.device.agent.kill()
        assert await jump.fired() == "", "without an agent nobody's clock has jumped"
        await jump.heal()
