"""Hold, lock, snapshot and probation, as the running agent keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from reference.core.errors import DeviceError, Reason
from reference.core.model import ImageState, Outcome, Phase, Policy
from reference.core.update import UpdateRecord
from reference.edge import hold
from tests.edge import bench as edge_bench
from tests.edge.bench import Bench, benched, command, image, installed

ONE = UpdateRecord("epoch", floor=1, current=installed(1))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        bench.runtime.install(image(1), 1)
        yield bench


def at_rest(bench: Bench, generation: int) -> bool:
    record = bench.record
    return (
        record.phase is Phase.IDLE and record.current is not None and record.current.generation == generation
    )


def test_a_hold_outlives_its_maker_and_ends_once(tmp_path: Path) -> None:
    assert hold.taken_by(hold.hold_file(tmp_path)) is None
    hold.hold(tmp_path, "the night shift\nline 2\x07")
    hold.hold(tmp_path, "the night shift\nline 2\x07")
    assert hold.taken_by(hold.hold_file(tmp_path)) == "the night shift line 2"
    assert hold.release(tmp_path) is True
    assert hold.release(tmp_path) is False


def test_a_hold_that_cannot_be_made_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        hold.hold(tmp_path / "nowhere")
    (tmp_path / "hold").mkdir()
    with pytest.raises(DeviceError):
        hold.release(tmp_path)
    assert hold.taken_by(tmp_path / "hold") == "somebody (it cannot be read)", "in doubt it is taken"


async def test_a_held_agent_takes_commands_and_touches_nothing(bench: Bench) -> None:
    hold.hold(bench.folder)
    await bench.runtime.stop("c1", 0)
    bench.runtime.calls.clear()
    agent = bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: bench.record.reason is Reason.HELD)
    assert agent.hold and bench.record.phase is Phase.ACCEPTED
    assert agent.memory.outbox[-1].message == "held by the operator"
    assert bench.runtime.calls == [] and bench.runtime.running() == []
    hold.release(bench.folder)
    await bench.until(lambda: at_rest(bench, 2))
    assert not agent.hold


async def test_a_hold_stops_a_pull_that_runs(bench: Bench) -> None:
    import asyncio

    bench.runtime.hold["pull"] = asyncio.Event()
    bench.start(ONE)
    bench.order(command(2))
    async with asyncio.timeout(5):
        await bench.runtime.begun.wait()
    hold.hold(bench.folder)
    await bench.until(lambda: bench.runtime.cancelled == ["pull"])
    await bench.until(lambda: bench.record.reason is Reason.HELD)
    assert bench.record.phase is Phase.PULLING


async def test_a_lock_is_waited_for(bench: Bench) -> None:
    (bench.folder / "lock").write_text("batch 17")
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: bench.record.reason is Reason.UPDATE_LOCKED)
    assert bench.record.message == "the update lock is taken by batch 17"
    assert bench.runtime.running() == ["c1"]
    (bench.folder / "lock").unlink()
    await bench.until(lambda: at_rest(bench, 2))


async def test_a_lock_that_is_kept_ends_the_job_and_not_the_client(bench: Bench) -> None:
    (bench.folder / "lock").touch()
    bench.start(ONE)
    bench.order(replace(command(2), policy=Policy(lock_wait_ms=30)))
    await bench.until(lambda: bool(bench.agent.memory.finished) and bench.record.phase is Phase.IDLE)
    report = bench.agent.memory.finished[-1]
    assert (report.outcome, report.reason) == (Outcome.FAILED, Reason.UPDATE_LOCKED)
    assert report.message == "the update lock is taken by somebody; waited 30 ms for it"
    assert bench.runtime.running() == ["c1"] and "stop c1" not in bench.runtime.calls


async def test_a_snapshot_is_brought_back_before_the_old_version_starts(bench: Bench) -> None:
    bench.sick.add("c2")
    bench.start(ONE)
    bench.order(replace(command(2), policy=Policy(snapshot=True)))
    await bench.until(lambda: bool(bench.agent.memory.finished) and bench.record.phase is Phase.IDLE)
    assert bench.agent.memory.finished[-1].outcome is Outcome.ROLLED_BACK
    wanted = [
        "prepare_snapshot 2",
        "stop c1",
        "snapshot 2",
        "start c2",
        "stop c2",
        "restore_snapshot 2",
        "start c1",
    ]
    calls = [call for call in bench.runtime.calls if call in wanted]
    assert calls == wanted
    assert bench.runtime.snapshots == {}


async def test_a_version_that_turns_sick_on_probation_goes_by_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(edge_bench.LIMITS, probation_attempts=2, probation_step_ms=600_000)
    monkeypatch.setattr(edge_bench, "LIMITS", limits)
    bench.start(ONE)
    bench.order(replace(command(2), policy=Policy(probation_ms=3_600_000)))
    await bench.until(lambda: at_rest(bench, 2))
    told = bench.agent.memory.outbox
    bench.sick.add("c2")
    await bench.until(lambda: at_rest(bench, 1))
    await bench.until(lambda: bench.runtime.running() == ["c1"])
    assert bench.record.reason is Reason.PROBATION_FAILED
    assert bench.agent.memory.outbox == told, "the job has ended, and stays as it was"
    assert bench.runtime.calls.count("pull") == 1, "the old image was kept"
    assert bench.runtime.images[image(1).digest] is ImageState.PRESENT
    assert bench.journal.history()[-1].reason is Reason.PROBATION_FAILED


async def test_a_version_that_survives_its_probation_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_bench, "LIMITS", replace(edge_bench.LIMITS, probation_step_ms=40))
    bench.start(ONE)
    bench.order(replace(command(2), policy=Policy(probation_ms=150)))
    await bench.until(lambda: at_rest(bench, 2) and bench.record.probation_left_ms < 150)
    assert bench.record.probation_left_ms > 0, "it is counted in steps"
    await bench.until(lambda: bench.record.probation_left_ms == 0)
    assert bench.runtime.running() == ["c2"] and bench.record.boot_id is None
