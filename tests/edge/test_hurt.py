"""The agent among what should not be there: two of it, damaged files, a journal that is older than the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reference.core.errors import EngineError, JournalError, Reason
from reference.core.update import UpdateRecord
from reference.edge import hold
from reference.edge.journal import ASIDE_KEPT, set_aside
from reference.edge.main import alone
from reference.edge.runtimes.files import trim
from tests.edge.bench import benched, command, image, installed
from tests.edge.test_looked_at import ROOT, agent, config, look, words

__all__ = ["config"]

ONE = UpdateRecord("epoch", floor=1, current=installed(1))


# ---- two agents


def second(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reference.edge.main", *words(config)],
        cwd=ROOT, text=True, capture_output=True, timeout=30,
    )  # fmt: skip


def test_a_second_agent_is_refused_even_when_the_journal_was_lost(config: Path) -> None:
    with agent(config):
        for path in (config.parent / "data" / "state").glob("journal.db*"):
            path.unlink()
        refused = second(config)
        assert refused.returncode == 1 and refused.stdout == ""
        assert "another agent runs on this folder" in refused.stderr and "Traceback" not in refused.stderr


def test_two_state_folders_do_not_share_a_run_folder(config: Path) -> None:
    with agent(config):
        body = json.loads(config.read_text())
        run = config.parent / "data" / "run"
        config.write_text(json.dumps({**body, "run_dir": str(run)}))
        refused = subprocess.run(
            [sys.executable, "-m", "reference.edge.main", "--config", str(config),
             "--data", str(config.parent / "other")],
            cwd=ROOT, text=True, capture_output=True, timeout=30,
        )  # fmt: skip
        assert refused.returncode == 1 and f"{run}: another agent runs" in refused.stderr


def test_a_folder_is_free_again_when_its_agent_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with alone(tmp_path), pytest.raises(JournalError) as caught, alone(tmp_path):
            pass
        assert caught.value.reason is Reason.JOURNAL_LOCKED


# ---- files that are not what they should be


def test_health_is_shown_though_the_socket_cannot_be_made(config: Path) -> None:
    (config.parent / "data" / "run" / "agent.sock").mkdir(parents=True)
    with agent(config) as (_, said):
        assert said["status_port"]
    assert look(config, "status").returncode == 0


def test_a_lock_of_any_kind_holds_nobody_up(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    os.mkfifo(lock)
    begun = time.monotonic()
    assert hold.taken_by(lock) == ""
    writer = os.open(lock, os.O_RDWR | os.O_NONBLOCK)
    try:
        assert hold.taken_by(lock) == "somebody (it cannot be read)"
    finally:
        os.close(writer)
    assert time.monotonic() - begun < 1
    lock.unlink()
    lock.symlink_to(tmp_path / "nowhere")
    assert hold.taken_by(lock) == "somebody (a link to nowhere)"


async def test_a_damaged_marker_of_a_boot_is_none(tmp_path: Path) -> None:
    async with benched(tmp_path) as bench:
        bench.runtime.install(image(1), 1)
        (tmp_path / "engine-restarted").write_bytes(b"\xff\xfe")
        bench.start(ONE)
        bench.order(command(2))
        await bench.until(lambda: bench.record.current is not None and bench.record.current.generation == 2)


async def test_a_marker_that_cannot_be_written_has_a_name(tmp_path: Path) -> None:
    async with benched(tmp_path) as bench:
        agent = bench.open(ONE)
        (tmp_path / "engine-restarted").mkdir()
        with pytest.raises(EngineError, match="cannot remember that the engine was restarted"):
            agent._eyes.mark_engine_restart(ONE)


def test_the_log_of_a_chatty_workload_is_cut_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as workload:
        workload.write(b"a" * 5000 + b"the end\n")
        trim(log, 6000, 100)
        assert log.stat().st_size == 5008
        trim(log, 5000, 100)
        workload.write(b"and on\n")
    assert log.read_bytes().endswith(b"the end\nand on\n") and log.stat().st_size < 200
    trim(tmp_path / "nothing", 1, 1)


# ---- a journal that is not to be believed


async def test_a_journal_that_does_not_know_what_was_done_is_not_believed(tmp_path: Path) -> None:
    """It lost its end, or was restored from a copy: it would stop what runs and go back."""
    async with benched(tmp_path) as bench:
        bench.runtime.install(image(2), 2)
        bench.runtime.calls.clear()
        with pytest.raises(JournalError) as caught:
            bench.start(ONE)
            await bench.until(lambda: False)
        bench._task = None
        assert caught.value.reason is Reason.JOURNAL_CORRUPT
        assert bench.runtime.running() == ["c2"] and bench.runtime.calls == []


async def test_a_journal_without_a_floor_made_nothing_and_is_believed(tmp_path: Path) -> None:
    async with benched(tmp_path) as bench:
        bench.runtime.install(image(2), 2)
        bench.start(UpdateRecord("epoch", current=installed(2)))
        await bench.until(lambda: bench.agent.has_looked)
        bench.agent._wake.set()
        assert bench.runtime.running() == ["c2"]


def test_journals_that_were_set_aside_are_few(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    made = []
    for number in range(ASIDE_KEPT + 4):
        for suffix in ("", "-wal"):
            Path(f"{path}{suffix}").write_text(str(number))
        made.append(set_aside(path, 1_000_000 + number // 2))
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {f"{p.name}{suffix}" for p in made[-ASIDE_KEPT:] for suffix in ("", "-wal")}
    assert made[-1].read_text() == str(len(made) - 1)
    back = set_aside(_written(path), 0.0)  # a clock that went back does not cost the newest
    assert back.exists()


def _written(path: Path) -> Path:
    path.write_text("x")
    return path
