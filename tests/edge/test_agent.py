"""The loop: it journals before it acts, holds on to nothing that is stale, and never harms the client by its own end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from reference.core import delivery
from reference.core.delivery import Verdict
from reference.core.errors import (
    BlackstartError,
    DeviceError,
    EngineError,
    JournalError,
    Reason,
    RegistryError,
)
from reference.core.job import JobStatus
from reference.core.model import ImageState, Outcome, Phase
from reference.core.steps import Start, Sync
from reference.core.update import UpdateRecord
from reference.edge import agent as agent_module
from reference.edge.journal import Journal
from reference.edge.main import journal_path, open_journal
from reference.edge.observe import Eyes
from reference.edge.runtimes.base import EngineView
from tests.edge.bench import LIMITS, Bench, benched, command, image, installed

FRESH = UpdateRecord("epoch", floor=0)
ONE = UpdateRecord("epoch", floor=1, current=installed(1))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        yield bench


def idle(bench: Bench, generation: int) -> bool:
    current = bench.record.current
    return bench.record.phase is Phase.IDLE and current is not None and current.generation == generation


async def test_a_first_install_and_an_update(bench: Bench) -> None:
    bench.start(FRESH)
    assert bench.order(command(1)) is Verdict.ACCEPTED
    await bench.until(lambda: idle(bench, 1))
    assert bench.runtime.running() == ["c1"]
    assert bench.order(command(2)) is Verdict.ACCEPTED
    await bench.until(lambda: idle(bench, 2))
    assert bench.runtime.running() == ["c2"]
    assert list(bench.runtime.containers) == ["c2"]
    assert set(bench.runtime.images) == {image(1).digest, image(2).digest}, "the old image is kept"
    assert bench.runtime.most_running == 1
    assert [r.status for r in bench.agent.memory.outbox] == [JobStatus.SUCCEEDED, JobStatus.SUCCEEDED]
    assert [e.phase for e in bench.journal.history()][-8:] == [
        Phase.ACCEPTED, Phase.PULLING, Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING, Phase.COMMITTING,
        Phase.CLEANING_UP, Phase.IDLE,
    ]  # fmt: skip


async def test_a_sick_candidate_is_rolled_back(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    bench.sick.add("c2")
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: bool(bench.agent.memory.finished) and bench.record.phase is Phase.IDLE)
    report = bench.agent.memory.finished[-1]
    assert (report.outcome, report.reason) == (Outcome.ROLLED_BACK, Reason.CANDIDATE_NEVER_HEALTHY)
    assert bench.runtime.running() == ["c1"]
    assert bench.runtime.most_running == 1


async def test_what_is_done_was_journaled_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.runtime.install(image(1), 1)
    real = Journal.write

    def write(self: Journal, memory: delivery.Memory) -> None:
        real(self, memory)
        bench.runtime.calls.append(f"journaled {memory.record.phase}")

    monkeypatch.setattr(Journal, "write", write)
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: idle(bench, 2))
    calls = bench.runtime.calls
    order = [
        "journaled pulling", "pull", "sync", "journaled staged", "create", "journaled switching", "stop c1",
        "start c2", "journaled verifying", "journaled committing", "remove c1",
    ]  # fmt: skip
    places = [calls.index(what) for what in order]
    assert places == sorted(places), calls


async def test_nothing_is_stopped_while_the_journal_cannot_be_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.runtime.install(image(1), 1)
    monkeypatch.setattr(agent_module, "JOURNAL_RETRY_S", 0.005)
    real, refusals = Journal.write, 5

    def write(self: Journal, memory: delivery.Memory) -> None:
        nonlocal refusals
        if memory.record.phase is Phase.SWITCHING and refusals:
            refusals -= 1
            assert bench.runtime.running() == ["c1"]
            raise JournalError("the disk is full", reason=Reason.DISK_FULL)
        real(self, memory)

    monkeypatch.setattr(Journal, "write", write)
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: idle(bench, 2))
    assert refusals == 0
    assert bench.runtime.calls.count("stop c1") == 1


def arriving(monkeypatch: pytest.MonkeyPatch) -> list[delivery.Memory]:
    """From here on every write raises and is on the disk all the same; answers what was written, in order."""
    real, written = Journal.write, []

    def write(self: Journal, memory: delivery.Memory) -> None:
        before = self.memory
        real(self, memory)
        self.memory = before
        written.append(memory)
        raise JournalError("the disk said no, and had it")

    monkeypatch.setattr(Journal, "write", write)
    return written


class Told:
    """An onlooker."""

    def __init__(self) -> None:
        self.changes: list[tuple[delivery.Memory, delivery.Memory]] = []
        self.failures: list[Reason] = []

    def changed(self, before: delivery.Memory, after: delivery.Memory) -> None:
        self.changes.append((before, after))

    def failed(self, error: BlackstartError) -> None:
        self.failures.append(error.reason)


async def test_a_write_that_raised_and_arrived_is_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, told = bench.open(FRESH), Told()
    agent.onlookers.append(told)
    before, written = agent.memory, arriving(monkeypatch)
    assert bench.order(command(1)) is Verdict.ACCEPTED
    assert agent.memory.record.queued == command(1)
    assert told.changes == [(before, written[0])], "it is news, once"
    assert told.failures == [Reason.JOURNAL_CORRUPT], "and that the disk said no is told, too"
    await agent.outbox_changed(0)  # Whoever tells the service is woken.
    assert agent.memory.outbox[0].job_id == "job-1"


async def test_a_write_that_raised_and_did_not_arrive_is_not_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, told = bench.open(FRESH), Told()
    agent.onlookers.append(told)
    before = agent.memory

    def write(self: Journal, memory: delivery.Memory) -> None:
        raise JournalError("the disk is full", reason=Reason.DISK_FULL)

    monkeypatch.setattr(Journal, "write", write)
    with pytest.raises(JournalError):
        bench.order(command(1))
    assert (agent.memory, told.changes, told.failures) == (before, [], [Reason.DISK_FULL])


async def test_what_a_write_counts_that_raised_and_arrived_is_counted_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one failed pull would use up two tries on a disk that says no after it has written."""
    bench.runtime.install(image(1), 1)
    bench.runtime.fail["pull"] = [RegistryError("down", reason=Reason.REGISTRY_UNREACHABLE) for _ in range(2)]
    written = arriving(monkeypatch)
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: idle(bench, 2))
    pulling = [m.record.attempts for m in written if m.record.phase is Phase.PULLING]
    assert pulling == [0, 1, 2], "each failure once, and no record twice"
    assert bench.runtime.calls.count("pull") == 3
    assert all(a != b for a, b in pairwise(written))


async def test_a_cancel_ends_a_pull_that_hangs(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    bench.runtime.hold["pull"] = asyncio.Event()
    bench.start(ONE)
    bench.order(command(2))
    await asyncio.wait_for(bench.runtime.begun.wait(), 5)
    bench.agent.change(delivery.receive_cancel(bench.agent.memory, "job-2", 2))
    await bench.until(lambda: bench.record.phase is Phase.IDLE)
    assert bench.runtime.cancelled == ["pull"]
    assert bench.agent.memory.finished[-1].status is JobStatus.CANCELED
    assert bench.runtime.running() == ["c1"]


async def test_a_newer_generation_takes_over_a_pull_that_hangs(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    gate = bench.runtime.hold["pull"] = asyncio.Event()
    bench.start(ONE)
    bench.order(command(2))
    await asyncio.wait_for(bench.runtime.begun.wait(), 5)
    bench.order(command(3))
    await bench.until(lambda: bench.runtime.cancelled == ["pull"])
    gate.set()
    await bench.until(lambda: idle(bench, 3))
    first, second = bench.agent.memory.finished
    assert (first.job_id, first.reason) == ("job-2", Reason.SUPERSEDED)
    assert (second.job_id, second.status) == ("job-3", JobStatus.SUCCEEDED)


async def test_a_long_pull_is_one_pull(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    gate = bench.runtime.hold["pull"] = asyncio.Event()
    bench.start(ONE)
    bench.order(command(2))
    await asyncio.wait_for(bench.runtime.begun.wait(), 5)
    await asyncio.sleep(LIMITS.watch_ms * 4 / 1000)  # several turns of the loop
    gate.set()
    await bench.until(lambda: idle(bench, 2))
    assert bench.runtime.calls.count("pull") == 1
    assert bench.runtime.cancelled == []


async def test_failures_are_tried_again_and_counted(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    unreachable = Reason.REGISTRY_UNREACHABLE
    bench.runtime.fail["pull"] = [RegistryError("down", reason=unreachable) for _ in range(3)]
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: idle(bench, 2))
    bench.runtime.fail["pull"] = [RegistryError("down", reason=unreachable) for _ in range(99)]
    bench.order(command(3))
    await bench.until(lambda: bench.agent.memory.finished[-1].job_id == "job-3")
    assert bench.agent.memory.finished[-1].reason is unreachable
    assert 99 - len(bench.runtime.fail["pull"]) == LIMITS.pull_attempts_many


@pytest.mark.parametrize("method", ["pull", "create", "sync"])
async def test_an_error_without_a_name_is_the_engine_s(bench: Bench, method: str) -> None:
    bench.runtime.install(image(1), 1)
    bench.start(ONE)
    await bench.until(lambda: bench.agent.running == image(1))
    bench.runtime.fail[method] = [KeyError("surprise") for _ in range(99)]
    bench.order(command(2))
    await bench.until(lambda: bool(bench.agent.memory.finished))
    report = bench.agent.memory.finished[-1]
    assert (report.status, report.reason) == (JobStatus.FAILED, Reason.ENGINE_ERROR)
    assert "surprise" in report.message
    assert bench.runtime.running() == ["c1"]


async def test_a_message_that_is_no_text_does_not_stop_the_agent(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    bench.runtime.fail["pull"] = [DeviceError("cannot write a\udcff", reason=Reason.DISK_FULL)]
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: bool(bench.agent.memory.finished))
    assert "cannot write a?" in bench.agent.memory.finished[-1].message


async def test_a_call_that_cancels_itself_does_not_end_the_agent(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    bench.runtime.fail["pull"] = [asyncio.CancelledError()]  # type: ignore[list-item]
    bench.start(ONE)
    bench.order(command(2))
    await bench.until(lambda: idle(bench, 2))


async def test_an_engine_that_is_away_for_a_moment_fails_no_job(bench: Bench) -> None:
    """Its silence is tried again with pauses: attempts that are used up within milliseconds are none."""
    bench.runtime.install(image(1), 1)
    bench.runtime.hold["pull"] = asyncio.Event()
    bench.start(ONE)
    bench.order(command(2))
    await asyncio.wait_for(bench.runtime.begun.wait(), 5)
    real, times = bench.runtime.observe, []

    async def observe() -> EngineView:
        if bench.runtime.fail["observe"]:
            times.append(asyncio.get_running_loop().time())
        return await real()

    bench.runtime.observe = observe  # type: ignore[method-assign]
    bench.runtime.fail["observe"] = [EngineError("no answer") for _ in range(4)]
    await bench.until(lambda: not bench.runtime.fail["observe"])
    assert times[-1] - times[0] >= sum(LIMITS.backoff_ms(n, 0) for n in (1, 2, 3)) / 1000
    bench.runtime.hold["pull"].set()
    await bench.until(lambda: idle(bench, 2))


async def test_an_act_that_ended_while_the_agent_looked_counts(bench: Bench) -> None:
    """The next look already shows what it did: its start must be counted, or nothing bounds a crash loop."""
    bench.runtime.install(image(1), 1, running=False)
    gate = bench.runtime.hold["start"] = asyncio.Event()
    agent = bench.start(ONE)
    await asyncio.wait_for(bench.runtime.begun.wait(), 5)
    real = bench.runtime.observe

    async def observe() -> object:
        gate.set()
        await bench.until(lambda: bool(bench.runtime.running()))
        return await real()

    bench.runtime.observe = observe  # type: ignore[method-assign,assignment]
    counted: list[object] = []
    acted = agent._eyes.acted
    agent._eyes.acted = lambda act: (counted.append(act), acted(act))[1]  # type: ignore[method-assign,func-returns-value]
    await bench.until(lambda: bool(counted))
    assert counted == [Start("c1", trusted=True)]
    assert bench.runtime.cancelled == []


async def test_a_dead_client_is_started_again(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    bench.start(ONE)
    await bench.until(lambda: bench.agent.running == image(1))
    life = bench.runtime.containers["c1"].life
    await bench.runtime.stop("c1", 0)
    await bench.until(lambda: bench.runtime.running() == ["c1"])
    assert bench.runtime.containers["c1"].life != life


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.PULLING, Phase.VERIFYING])
async def test_the_end_of_an_agent_leaves_the_client_alone(bench: Bench, phase: Phase) -> None:
    bench.runtime.install(image(1), 1)
    if phase is Phase.PULLING:
        bench.runtime.hold["pull"] = asyncio.Event()
    if phase is Phase.VERIFYING:
        bench.sick.add("c2")
    bench.start(ONE)
    if phase is not Phase.IDLE:
        bench.order(command(2))
    running = "c2" if phase is Phase.VERIFYING else "c1"
    await bench.until(lambda: bench.record.phase is phase and bench.runtime.running() == [running])
    life = bench.runtime.containers[running].life
    await bench.stop()
    assert bench.runtime.containers[running].life == life
    bench.sick.clear()
    bench.runtime.hold.clear()
    bench.start()
    await bench.until(lambda: idle(bench, 1 if phase is Phase.IDLE else 2))
    if phase is not Phase.PULLING:
        assert bench.runtime.containers[running].life == life, "the next agent goes on with the same process"


# ---- a journal that cannot be believed


async def test_a_corrupt_journal_is_set_aside_and_what_runs_is_adopted(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    settings = bench.settings
    settings.state_dir.mkdir()
    path = journal_path(settings)
    Journal.create(path, ONE)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE rows SET body = body || ' ' WHERE kind = 'record'")
    life = bench.runtime.containers["c1"].life
    eyes = Eyes(bench.runtime, settings.client, bench.folder, 1)
    with closing(await open_journal(settings, eyes, bench.runtime)) as journal:
        record = journal.memory.record
        assert record.epoch not in ("epoch", "none", "")
        assert record.floor is None
        assert record.current is not None
        assert (record.current.image, record.current.container_id) == (image(1), "c1")
        memory, verdict = delivery.receive(journal.memory, command(9), None, LIMITS)
        assert (memory, verdict) == (journal.memory, Verdict.NOT_READY)
        known = delivery.receive_birth_answer(journal.memory, "nonce", "nonce", record.epoch, 8)
        assert delivery.receive(known, command(8), None, LIMITS)[1] is Verdict.REJECTED
        assert delivery.receive(known, command(9), None, LIMITS)[1] is Verdict.ACCEPTED
    assert len(list(settings.state_dir.glob("journal.db.corrupt-*"))) == 1
    assert bench.runtime.calls == ["sync"], "the client was only looked at, and what is here was made durable"
    assert bench.runtime.containers["c1"].life == life


async def test_a_first_start_makes_a_journal_and_the_second_finds_it(bench: Bench) -> None:
    bench.settings.state_dir.mkdir()
    eyes = Eyes(bench.runtime, bench.settings.client, bench.folder, 1)
    with closing(await open_journal(bench.settings, eyes, bench.runtime)) as journal:
        first = journal.memory.record
        with pytest.raises(JournalError) as caught:
            await open_journal(bench.settings, eyes, bench.runtime)
        assert caught.value.reason is Reason.JOURNAL_LOCKED
    assert (first.current, first.floor) == (None, None)
    with closing(await open_journal(bench.settings, eyes, bench.runtime)) as journal:
        assert journal.memory.record == first
    assert [p.name for p in bench.settings.state_dir.iterdir()] == ["journal.db"]


async def test_a_broken_image_is_not_what_an_adopted_client_runs(bench: Bench) -> None:
    bench.runtime.install(image(1), 1, running=False)
    bench.runtime.install(image(2), 2, running=False)
    bench.runtime.images[image(1).digest] = ImageState.BROKEN
    bench.settings.state_dir.mkdir()
    eyes = Eyes(bench.runtime, bench.settings.client, bench.folder, 1)
    with closing(await open_journal(bench.settings, eyes, bench.runtime)) as journal:
        assert journal.memory.record.current is not None
        assert journal.memory.record.current.generation == 2


async def test_a_journal_is_not_made_anew_from_an_engine_that_does_not_answer(bench: Bench) -> None:
    """It would hold that nothing is installed, and the client that runs would be stopped."""
    bench.runtime.install(image(1), 1)
    settings = bench.settings
    bench.runtime.fail["observe"] = [EngineError("it is down")]
    eyes = Eyes(bench.runtime, settings.client, bench.folder, 1)
    with pytest.raises(EngineError) as caught:
        await open_journal(settings, eyes, bench.runtime)
    assert "does not say what runs" in str(caught.value)
    assert not journal_path(settings).exists()


async def test_a_replaced_journal_is_given_up_three_times_in_a_boot_at_most(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Two devices with one identity would replace each other for ever."""
    for times in range(agent_module.REPLACED_MOST + 1):
        agent = bench.open(ONE)
        agent.replaced()
        if times < agent_module.REPLACED_MOST:
            with pytest.raises(JournalError):
                await agent.run()
        else:
            assert "does another device have this identity" in caplog.text
            assert agent._lost is None
        bench.journal.close()


async def test_a_replaced_journal_is_not_given_up_in_a_trial(bench: Bench) -> None:
    trial = replace(ONE, phase=Phase.VERIFYING, job=command(2))
    agent = bench.open(trial)
    agent.replaced()
    assert agent._lost is None
    assert not (bench.settings.run_dir / "journal-replaced").exists()


async def test_what_was_counted_is_forgotten_with_the_journal(bench: Bench) -> None:
    """Starts of another journal's current would be held against a version on trial."""
    bench.runtime.install(image(1), 1)
    bench.settings.state_dir.mkdir()
    eyes = Eyes(bench.runtime, bench.settings.client, bench.folder, 1)
    for _ in range(5):
        eyes.acted(Start("c1", trusted=True))
    eyes.failed(EngineError("x"), None)
    with closing(await open_journal(bench.settings, eyes, bench.runtime)):
        world = await eyes.look(ONE)
    assert (world.restores, world.failures, world.error, world.dirty) == (0, 0, None, True)


async def test_a_sync_does_not_end_a_row_of_failures(bench: Bench) -> None:
    """It comes between two tries of what fails, and would begin the count anew each time."""
    bench.runtime.install(image(1), 1)
    eyes = Eyes(bench.runtime, bench.settings.client, bench.folder, 1)
    eyes.failed(EngineError("x"), None)
    eyes.acted(Sync())
    world = await eyes.look(ONE)
    assert (world.failures, world.error, world.dirty) == (1, None, False)
    eyes.acted(Start("c1"))
    assert (await eyes.look(ONE)).failures == 0


async def test_the_runtime_is_told_what_is_installed_once_at_rest(bench: Bench) -> None:
    bench.runtime.install(image(1), 1)
    bench.start(UpdateRecord(epoch="e", floor=1, current=installed(1)))
    await bench.until(lambda: bool(bench.runtime.installed))
    bench.order(command(2))
    await bench.until(lambda: idle(bench, 2) and len(bench.runtime.installed) > 1)
    digests = [[i.image.digest if i else None for i in pair] for pair in bench.runtime.installed]
    assert digests == [[image(1).digest, None], [image(2).digest, image(1).digest]]


async def test_an_engine_that_cannot_name_what_is_installed_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settled(*_: object) -> None:
        raise EngineError("no")

    monkeypatch.setattr(bench.runtime, "settled", settled)
    bench.runtime.install(image(1), 1)
    bench.start(UpdateRecord(epoch="e", floor=1, current=installed(1)))
    bench.order(command(2))
    await bench.until(lambda: idle(bench, 2))
