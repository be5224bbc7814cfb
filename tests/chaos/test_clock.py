"""A clock that jumps in one real process, and what does not jump with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos.clock import FakeClock, library
from chaos.faults.base import FaultError
from tests.chaos.power_ground import needs_faketime

HOUR_MS = 3_600_000
NEAR_S = 5.0
"""For a slow machine; what jumps, jumps by hours."""
_TELLING = """
import asyncio, datetime, json, os, sqlite3, ssl, subprocess, sys, threading, time

def told():
    began = time.monotonic()
    time.sleep(0.02)
    threading.Event().wait(0.02)
    child = subprocess.run([sys.executable, "-I", "-S", "-c", "import time; print(time.time())"], capture_output=True)
    return {
        "time": time.time(), "now": datetime.datetime.now().timestamp(),
        "sqlite": float(sqlite3.connect(":memory:").execute("SELECT strftime('%s', 'now')").fetchone()[0]),
        "waited": time.monotonic() - began, "stamp": os.stat(sys.argv[1]).st_mtime, "child": float(child.stdout),
        "pid": os.getpid(),
    }

async def main():
    for _ in sys.stdin:
        began = time.monotonic()
        try:
            async with asyncio.timeout(0.02):
                await asyncio.sleep(1000)
        except TimeoutError:
            pass
        found = await asyncio.to_thread(told)
        print(json.dumps({**found, "timeout": time.monotonic() - began}), flush=True)

asyncio.run(main())
"""
Told = dict[str, float]


class Telling:
    """A process with a clock of its own, which tells what it knows when it is asked."""

    def __init__(self, clock: FakeClock, folder: Path) -> None:
        stamped = folder / "stamped"
        stamped.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TELLING, str(stamped)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **clock.environment()},
        )  # fmt: skip

    def tell(self) -> Told:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: Told = json.loads(self.process.stdout.readline())
        return found


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[FakeClock]:
    made = FakeClock(tmp_path / "clock")
    yield made
    assert not list(Path("/dev/shm").glob(f"*{made.name}*"))


@asynccontextmanager
async def telling(clock: FakeClock, folder: Path) -> AsyncIterator[Telling]:
    made = await asyncio.to_thread(Telling, clock, folder)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


@needs_faketime
async def test_it_jumps_both_ways_in_one_process_and_nothing_else_does(
    clock: FakeClock, tmp_path: Path
) -> None:
    async with telling(clock, tmp_path) as one:
        for by_ms in (0, HOUR_MS, -24 * HOUR_MS, 1_500, 0):
            await clock.shift(by_ms)
            told, real = await asyncio.to_thread(one.tell), time.time()
            for name in ("time", "now", "sqlite"):
                assert abs(told[name] - real - by_ms / 1000) < NEAR_S, name
            for name in ("stamp", "child"):
                assert abs(told[name] - real) < 60, f"{name} is the machine's"
            assert 0.04 <= told["waited"] < NEAR_S, "sleep and wait take as long as ever"
            assert 0.02 <= told["timeout"] < NEAR_S
            assert told["pid"] == one.process.pid, "it was never restarted"


def remove(path: Path) -> None:
    path.unlink()


def exists(path: Path) -> bool:
    return path.exists()


@needs_faketime
async def test_the_process_itself_says_what_time_it_is(clock: FakeClock, tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="no agent runs"):
        await clock.told_ms()
    await clock.shift(-HOUR_MS)
    async with telling(clock, tmp_path) as one:
        await asyncio.to_thread(one.tell)
        said = tmp_path / "clock.told"
        assert abs(await clock.apart_ms() + HOUR_MS) < NEAR_S * 1000
        assert exists(said), "it was asked"
        os.kill(one.process.pid, signal.SIGSTOP)
        with pytest.raises(FaultError, match="does not say what time it is"):
            await clock.told_ms()
        os.kill(one.process.pid, signal.SIGCONT)
        await clock.shift(HOUR_MS)
        assert abs(await clock.apart_ms() - HOUR_MS) < NEAR_S * 1000
        await asyncio.to_thread(one.tell)
    remove(said)
    with pytest.raises(FaultError, match="no agent runs"):
        await clock.apart_ms()
    assert not exists(said), "it was killed, and nobody else speaks for it"


@needs_faketime
async def test_another_process_with_that_number_is_left_alone(clock: FakeClock, tmp_path: Path) -> None:
    async with telling(FakeClock(tmp_path / "other"), tmp_path) as other:
        await asyncio.to_thread(other.tell)
        (tmp_path / "clock.pid").write_text(str(other.process.pid))
        with pytest.raises(FaultError, match="no agent runs"):
            await clock.told_ms()
        assert not exists(tmp_path / "other.told")


@needs_faketime
def test_a_killed_one_leaves_nothing_that_the_next_one_waits_for(clock: FakeClock, tmp_path: Path) -> None:
    for _ in range(3):
        one = Telling(clock, tmp_path)
        try:
            assert one.tell()["pid"] == one.process.pid
        finally:
            one.process.kill()
            one.process.communicate()


@needs_faketime
def test_one_that_never_came_up_is_cleared_up_after(clock: FakeClock) -> None:
    given = clock.environment()["FAKETIME_SHARED"]
    assert clock.environment()["FAKETIME_SHARED"] != given, "each start has its own"
    assert len(list(Path("/dev/shm").glob(f"*{clock.name}*"))) == 4
    clock.close()


async def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.clock._FOLDERS", (str(tmp_path),))
    assert library() is None
    with pytest.raises(FaultError, match="Install the package libfaketime"):
        FakeClock(tmp_path / "clock").environment()
