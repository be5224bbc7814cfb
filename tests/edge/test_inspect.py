"""A look inside: from the agent while one runs, from the disk when none does, and never a lock taken from it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from reference.core.delivery import Memory
from reference.core.errors import JournalError, Reason
from reference.core.update import UpdateRecord
from reference.edge import inspect as looking
from reference.edge.conversation import Conversation
from reference.edge.http import short_name
from reference.edge.journal import Journal
from reference.edge.main import shown
from tests.edge.bench import Bench, benched, command, edge_settings, installed

ROOT = Path(__file__).parents[2]


def configured(bench: Bench) -> Path:
    """The configuration file of the bench's device, whose journal is where it says."""
    body = json.loads(bench.settings.model_dump_json())
    path = bench.folder / "edge.json"
    path.write_text(json.dumps(body))
    return path


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        bench.settings.run_dir.mkdir()
        bench.settings = bench.settings.model_copy(update={"state_dir": tmp_path})
        yield bench


def shown_of(bench: Bench) -> AbstractAsyncContextManager[int | None]:
    talk = cast(Conversation, SimpleNamespace(connected=True))
    return shown(bench.settings, bench.agent, bench.journal, talk, int)


async def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = await asyncio.to_thread(looking.main, arguments, {})
    said = capsys.readouterr()
    return code, said.out, said.err


async def test_a_running_agent_answers_on_its_socket(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(configured(bench))
    bench.start(UpdateRecord(epoch="e", floor=1, current=installed(1)))
    async with shown_of(bench):
        bench.order(command(2))
        await bench.until(lambda: bench.record.job is bench.record.queued is None)
        code, out, _ = await told(capsys, "status", "--config", config, "--json")
        found = json.loads(out)
        assert (code, found["source"]) == (0, "agent")
        assert found["memory"]["record"]["floor"] == 2
        assert found["live"]["pid"] == os.getpid()
        assert found["live"]["connected"] is True
        code, out, _ = await told(capsys, "status", "--config", config)
        assert f"runs, pid {os.getpid()}" in out
        assert "2.0.0 (sha256:" in out
        code, out, _ = await told(capsys, "journal", "--config", config)
        assert code == 0
        assert "job-2" in out
        assert "succeeded" in out
        code, out, _ = await told(capsys, "journal", "--config", config, "--json", "--limit", "2")
        assert [entry["phase"] for entry in json.loads(out)["history"]] == ["cleaning_up", "idle"]


async def test_the_socket_is_its_owners_alone_and_goes_with_the_agent(bench: Bench) -> None:
    path = looking.socket_path(bench.settings)
    with socket.socket(socket.AF_UNIX) as stale, short_name(path) as name:
        stale.bind(name)
    bench.open(UpdateRecord(epoch="e", floor=1))
    async with shown_of(bench):
        facts = path.stat()
        assert stat.S_ISSOCK(facts.st_mode)
        assert stat.S_IMODE(facts.st_mode) == 0o600
    assert not path.exists()


async def test_a_folder_that_lies_deep_is_no_hindrance(bench: Bench) -> None:
    deep = bench.folder / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    bench.settings = bench.settings.model_copy(update={"run_dir": deep})
    bench.open(UpdateRecord(epoch="e", floor=7))
    async with shown_of(bench):
        found = await asyncio.to_thread(looking.look, bench.settings, "status")
    assert found["source"] == "agent"


HOLDER = """
import os, signal, sys
from pathlib import Path
from reference.core.delivery import Memory
from reference.core.update import UpdateRecord
from reference.edge.journal import Journal
path = Path(sys.argv[1])
Journal.create(path, UpdateRecord("e", floor=1))
journal = Journal.open(path)
journal.write(Memory(UpdateRecord("e", floor=2)))
print("open", flush=True)
signal.pause()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a journal and answers nobody."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "journal.db")],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_journal_that_is_held_is_never_opened(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    settings = edge_settings(tmp_path, state_dir=tmp_path)
    with pytest.raises(JournalError) as caught:
        looking.look(settings, "status")
    assert caught.value.reason is Reason.JOURNAL_LOCKED
    assert f"pid {holder.pid}" in str(caught.value)
    assert looking.holder_of(tmp_path / "journal.db") == holder.pid


def test_after_a_kill_the_log_is_read_too_and_nothing_is_changed(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "journal.db-wal").stat().st_size > 0, "what was written last is only in the log"
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    found = looking.look(edge_settings(tmp_path, state_dir=tmp_path), "status")
    assert found["source"] == "file"
    assert found["memory"]["record"]["floor"] == 2  # type: ignore[index]
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before


async def test_without_an_agent_it_is_said_that_none_runs(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(configured(bench))
    Journal.create(bench.folder / "journal.db", UpdateRecord(epoch="e", floor=3))
    code, out, _ = await told(capsys, "status", "--config", config)
    assert code == 0
    assert "does not run" in out
    assert await told(capsys, "journal", "--config", config) == (0, "Nothing has been journaled yet.\n", "")


@pytest.mark.parametrize("content", [None, b"", b"rubbish" * 1000])
async def test_no_journal_or_a_bad_one_is_one_sentence(
    bench: Bench, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (bench.folder / "journal.db").write_bytes(content)
    code, out, err = await told(capsys, "status", "--config", str(configured(bench)))
    assert (code, out) == (1, "")
    assert err.startswith(f"blackstart edge: {bench.folder / 'journal.db'}: ")
    assert len(err.splitlines()) == 1


async def test_a_wrong_configuration_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = await told(capsys, "status", "--config", str(tmp_path / "absent.json"))
    assert code == 2
    assert "absent.json" in err


async def test_an_agent_that_talks_rubbish_is_not_believed(bench: Bench) -> None:
    path = looking.socket_path(bench.settings)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        writer.close()

    listener = socket.socket(socket.AF_UNIX)
    with short_name(path) as name:
        listener.bind(name)
    server = await asyncio.start_unix_server(answer, sock=listener)
    try:
        with pytest.raises(JournalError, match="the agent answers"):
            await asyncio.to_thread(looking.look, bench.settings, "status")
    finally:
        server.close()


def test_what_the_views_say_can_be_read_back() -> None:
    memory = Memory(UpdateRecord("e", floor=1, current=installed(1), queued=command(2)), 4)
    assert json.loads(json.dumps(looking.memory_view(memory)))["record"]["queued"]["job_id"] == "job-2"
