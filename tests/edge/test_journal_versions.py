"""An agent is upgraded, and taken back: the newer one reads the older journal, the older one refuses a newer one."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from reference.core.delivery import Memory
from reference.core.errors import JournalError, Reason
from reference.core.limits import DEFAULT_LIMITS
from reference.core.model import Command, Handover, Phase, Policy
from reference.core.update import UpdateRecord
from reference.edge import journal as journal_module
from reference.edge import main as main_module
from reference.edge.agent import Agent
from reference.edge.journal import SCHEMA_VERSION, Journal
from reference.edge.main import journal_path, open_journal
from reference.edge.observe import Eyes
from reference.edge.runtimes.process import ProcessRuntime
from tests.edge.bench import Bench, command, edge_settings, image, installed
from tests.fakes.runtime import FakeRuntime

OLD = Path(__file__).parent / "fixtures" / "journal-v1.db"
"""Written by an agent of version 1 in the middle of a trial, with a command that waits and one that was refused."""


def rows(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        kept = connection.execute("SELECT kind, key, body, checksum FROM rows ORDER BY 1, 2").fetchall()
        return [*kept, *connection.execute("SELECT body, checksum FROM history ORDER BY number")]


def version_of(path: Path) -> str:
    return next(row[2] for row in rows(path) if row[0] == "schema")


def raised(path: Path, version: int = SCHEMA_VERSION + 1) -> None:
    """What a newer agent would leave: its version, and a row of a kind that is not known here."""
    checksum = journal_module._checksum
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM rows WHERE kind = 'schema'")
        for kind, key, body in (("schema", "", str(version)), ("novelty", "", "{}")):
            connection.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?)", (kind, key, body, checksum(kind, key, body))
            )


def test_a_journal_of_version_1_is_read_and_brought_to_this_version(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    shutil.copyfile(OLD, path)
    with closing(Journal.open(path)) as journal:
        record, history = journal.memory.record, journal.history()
        assert (record.phase, record.floor, record.candidate_id) == (Phase.VERIFYING, 8, "g7-4e5f6a7b")
        assert record.current is not None and record.current.restart_policy == "always"
        assert record.previous is not None and record.previous.generation == 4
        assert record.job is not None and record.job.policy == Policy() and record.job.correlation_id is None
        assert record.queued is not None and record.queued.job_id == "job-8"
        assert record.probation_left_ms == 0
        assert [r.job_id for r in journal.memory.outbox] == ["job-3", "job-7", "job-8"]
        assert [r.job_id for r in journal.memory.finished] == ["job-3"]
        assert [entry.phase for entry in history] == [
            Phase.ACCEPTED, Phase.PULLING, Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING,
        ]  # fmt: skip
        memory = journal.memory
    assert version_of(path) == str(SCHEMA_VERSION)
    with closing(Journal.open(path)) as journal:
        assert journal.memory == memory and journal.history() == history


def test_a_migration_that_is_cut_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    shutil.copyfile(OLD, path)
    before = rows(path)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("cut")

    monkeypatch.setattr(journal_module, "_write", full)
    with pytest.raises(JournalError):
        Journal.open(path)
    monkeypatch.undo()
    assert rows(path) == before
    Journal.open(path).close()
    assert version_of(path) == str(SCHEMA_VERSION)


def test_what_is_new_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    policy = Policy(snapshot=True, probation_ms=5, lock_wait_ms=7, handover=Handover.OVERLAP)
    order: Command = replace(command(2), policy=policy, correlation_id="req-1")
    record = UpdateRecord("e", floor=2, queued=order, current=installed(1), probation_left_ms=9)
    Journal.create(path, record)
    with closing(Journal.open(path)) as journal:
        assert journal.memory == Memory(record)


async def test_an_older_agent_refuses_a_newer_journal_and_leaves_all_as_it_is(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)
    settings.state_dir.mkdir()
    path = journal_path(settings)
    Journal.create(path, UpdateRecord("e", floor=1, current=installed(1)))
    raised(path)
    before = rows(path)
    runtime = FakeRuntime()
    runtime.install(image(1), 1)
    with pytest.raises(JournalError) as caught:
        await open_journal(settings, Eyes(runtime, settings.client, tmp_path, 1), runtime)
    assert caught.value.reason is Reason.JOURNAL_TOO_NEW
    assert str(caught.value) == (
        f"{path}: has version {SCHEMA_VERSION + 1}, this agent reads up to {SCHEMA_VERSION}. Install the newer agent "
        "again. The client goes on running, and the journal is as it was."
    )
    assert rows(path) == before and not list(settings.state_dir.glob("*corrupt*"))
    assert runtime.running() == ["c1"] and runtime.calls == []


@pytest.mark.parametrize("version", ["", "two", "-1"])
def test_a_version_that_is_none_is_damage(tmp_path: Path, version: str) -> None:
    path = tmp_path / "journal.db"
    Journal.create(path, UpdateRecord("e"))
    with closing(sqlite3.connect(path)) as connection, connection:
        seal = journal_module._checksum("schema", "", version)
        connection.execute("UPDATE rows SET body = ?, checksum = ? WHERE kind = 'schema'", (version, seal))
    with pytest.raises(JournalError) as caught:
        Journal.open(path)
    assert caught.value.reason is Reason.JOURNAL_CORRUPT


async def test_a_journal_that_breaks_while_the_agent_runs_ends_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = edge_settings(tmp_path)
    bench = Bench(tmp_path, settings, FakeRuntime())
    bench.runtime.install(image(1), 1)
    agent = bench.open(UpdateRecord("e", floor=1, current=installed(1)))

    def broken(*_: object) -> None:
        raise JournalError("is damaged")

    monkeypatch.setattr(Journal, "write", broken)
    monkeypatch.setattr(Journal, "reload", broken)
    with pytest.raises(JournalError, match="is damaged"):
        bench.order(command(2))
    with pytest.raises(JournalError) as caught:
        await agent.run()
    assert caught.value.reason is Reason.JOURNAL_CORRUPT
    assert bench.runtime.running() == ["c1"]
    bench.journal.close()


async def test_a_journal_that_breaks_is_set_aside_and_the_agent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of `_serve` but the broker: the first journal breaks, the second has a new epoch and the same client."""
    settings = edge_settings(tmp_path)
    settings.state_dir.mkdir()
    settings.run_dir.mkdir()
    runtime = FakeRuntime()
    runtime.install(image(1), 1)
    eyes = Eyes(runtime, settings.client, tmp_path, 1)
    Journal.create(journal_path(settings), UpdateRecord("old", floor=1, current=installed(1)))
    stop, epochs = asyncio.Event(), []

    class Silent:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        async def start(self) -> None:
            pass

        stop = start
        run = stop
        connected = False

    class Breaking(Agent):
        async def run(self) -> None:
            epochs.append(self.memory.record.epoch)
            assert self.memory.record.current is not None
            if len(epochs) > 1:
                stop.set()
                return
            self._journal.path.write_bytes(b"not a journal any more")
            raise JournalError("is damaged")

    async def for_ever(self: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Silent, "run", for_ever)
    monkeypatch.setattr(main_module, "MqttLink", Silent)
    monkeypatch.setattr(main_module, "Conversation", Silent)
    for again in (True, False):
        engine = cast(ProcessRuntime, runtime)
        assert await main_module._serve(settings, engine, eyes, Breaking, DEFAULT_LIMITS, {}, stop) is again
    assert epochs[0] == "old" != epochs[1]
    assert len(list(settings.state_dir.glob("journal.db.corrupt-*"))) >= 1
    assert runtime.running() == ["c1"]
