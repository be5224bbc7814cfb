"""Faults of the power on a real device: they happen, they are undone, and nothing of them is left."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from chaos.faults.base import FaultError
from chaos.power.outages import DISK_BYTES
from reference.core.errors import InputError
from tests.chaos.power_ground import StandIn, alone, bare, given, ground, needs_faketime
from tests.power.conftest import needs_power

UNSYNCED = "unsynced"


async def until_on(made: StandIn, outages: int) -> None:
    """The agent runs again, after so many outages in all."""
    async with asyncio.timeout(30):
        while len(made.power_.outages) < outages or not made.on:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@needs_power
@alone
async def test_a_cut_loses_what_was_not_synced_and_a_kill_does_not(folder: Path) -> None:
    async with ground(folder, disk_bytes=DISK_BYTES) as made:
        synced, written = made.device.root / "synced", made.device.root / UNSYNCED
        synced.write_text("kept")
        await made.power_.settle()

        killed = made.fault("killed", lasts="50ms")
        written.write_text("written")
        await killed.begin()
        assert not made.on
        assert (await killed.fired()).startswith("edge-1 killed: 3 processes were ended")
        await killed.heal()
        assert made.on
        assert written.read_text() == "written", "the page cache survives"
        await made.answers()

        written.write_text("again")
        cut = made.fault("power-cut", lasts="50ms")
        await cut.begin()
        assert not made.on
        assert not made.device.config.exists(), "the disk is gone"
        assert "the disk answered EIO" in await cut.fired()
        await cut.heal()
        assert "what was written and not synced was lost" in await cut.fired()
        assert synced.read_text() == "kept"
        assert not written.exists() or written.read_text() == "written"
        await made.answers()
        await cut.heal()
        await killed.heal()
        assert len(made.power_.outages) == 2

        short = made.fault("killed", {"dark": "10ms"})
        await short.begin()
        await until_on(made, 3)
        assert await short.fired()
        await made.answers()
        told = [event.event for event in made.recorder.history().of("power")]
        assert told == ["killed", "boot", "cut", "boot", "killed", "boot"]


@needs_power
@alone
async def test_an_update_survives_cuts_and_the_power_comes_back_by_itself(folder: Path) -> None:
    async with ground(folder, disk_bytes=DISK_BYTES) as made:
        await made.publish("2.0.0")
        job = await made.order("2.0.0")
        flicker = made.fault("brown-out", {"cuts": 3, "within": "600ms"})
        await flicker.begin()
        await until_on(made, 3)
        said = await flicker.fired()
        assert said.count("the disk answered EIO") == 3
        assert said.count("was lost") == 3
        await made.job(job, "SUCCEEDED")
        await made.answers("2.0.0")
        await flicker.heal()

        early = made.fault("brown-out", {"cuts": 20, "within": "1h"}, lasts="1s")
        await early.begin()
        await early.heal()
        assert made.on
        assert len(made.power_.outages) == 4, "healed is healed"
        assert await early.fired() == "", "one cut is no flicker"


@needs_power
@alone
async def test_the_power_goes_again_in_the_recovery(folder: Path) -> None:
    async with ground(folder, disk_bytes=DISK_BYTES) as made:
        twice = made.fault("power-cut-twice", {"again": "50ms", "dark": "20ms"})
        await twice.begin()
        await until_on(made, 2)
        assert (await twice.fired()).count("the disk answered EIO") == 2
        await twice.heal()
        await made.answers()

        again = made.fault("power-cut-twice")
        await again.begin()
        await until_on(made, 3)
        assert await again.fired() == "", "only once yet"
        made.recorder.record("phase", "durable", "edge-1", phase="cleaning_up")
        await until_on(made, 4)
        assert (await again.fired()).count("the disk answered EIO") == 2
        await again.heal()
        await made.answers()

        both = made.fault("power-cut-twice", {"again": "20ms"}, lasts="1s")
        await both.begin()
        await both.heal()
        assert made.on
        assert len(made.power_.outages) == 6, "healed before the second one: it comes all the same"
        assert await both.fired()


@needs_faketime
@alone
async def test_a_device_is_off_for_an_hour_of_its_own(folder: Path) -> None:
    async with ground(folder, clock=True) as made:
        off = made.fault("device-off", {"clock": "1h"}, lasts="50ms")
        await off.begin()
        assert not made.on
        assert made.device.box.processes() == []
        assert await off.fired() == "", "nobody is there to say what time it is"
        await off.heal()
        await made.answers()
        said = await off.fired()
        assert "off: " in said
        assert "for edge-1 it is 60.0 minutes later" in said
        now_ms = await made.clock(made.device).told_ms()
        assert abs(now_ms - time.time() * 1000 - 3_600_000) < 1_000
        await off.heal()
        assert made.on


async def test_without_a_disk_of_its_own_there_is_no_cut_and_what_was_not_done_is_not_shown(
    tmp_path: Path,
) -> None:
    made = bare(tmp_path)
    cut = made.fault("power-cut")
    with pytest.raises(FaultError, match="needs a disk of the device's own"):
        await cut.begin()
    assert await cut.fired() == ""
    await cut.heal()
    assert made.power_.on
    killed = made.fault("killed", lasts="1s")
    await killed.begin()
    assert await killed.fired() == "", "there was nobody"
    with pytest.raises(FaultError, match="is off already"):
        await made.fault("killed").begin()
    await made.power_.boot()


def test_what_a_fault_takes_is_checked() -> None:
    assert given("power-cut-twice", {"again": "1s"}) == {"dark": 0, "again": 1_000}
    assert given("power-cut-twice", {}) == {"dark": 0, "again": "next-phase"}
    with pytest.raises(InputError, match="again"):
        given("power-cut-twice", {"again": "soon"})
    with pytest.raises(InputError, match="cuts"):
        given("brown-out", {"cuts": 1})
