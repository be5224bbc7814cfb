"""What must not cost a report: a full disk, a folder that is none; and what a run that was killed has left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chaos.history import Event, History, Recorder
from chaos.lanes import Kept, _keep, play_all
from chaos.leftovers import held, sweep_abandoned
from chaos.needs import blkio_folder
from chaos.result import Report, RunResult
from chaos.runner import Options
from chaos.verdict import Ended
from reference.cli.chaos import app
from reference.cli.chaos_run import _written, run
from reference.core.errors import InputError
from reference.power.disk import require
from tests.chaos.scenario.written import GOOD, write

END_S = 20.0
HOLDS = """
import sys, time
from pathlib import Path
from chaos.leftovers import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


def result(path: Path, ended: Ended = Ended.PASS) -> RunResult:
    return RunResult(path.stem, str(path), "x", 1, ended)


def history(path: Path, cut: int = 0) -> list[Event]:
    """Write one of two events, without its last `cut` bytes."""
    recorder = Recorder(path)
    events = [
        recorder.record("run", "began", seed=1),
        recorder.record("probe", "good", "edge-1", version="1.0.0"),
    ]
    recorder.close()
    if cut:
        os.truncate(path, path.stat().st_size - cut)
    return events


# ---- a history that breaks off


@pytest.mark.parametrize("cut", [2, 20, 60])
def test_a_last_line_that_is_torn_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "history.jsonl"
    history(path, cut)
    seen = History.read(path)
    assert [event.event for event in seen.events] == ["began"]
    assert seen.torn


@pytest.mark.parametrize("cut", [0, 1])
def test_a_history_that_is_whole_is_not_torn(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "history.jsonl"
    history(path, cut)
    seen = History.read(path)
    assert [event.event for event in seen.events] == ["began", "good"]
    assert not seen.torn


def test_a_line_in_the_middle_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history(path, 20)
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"history\.jsonl:2"):
        History.read(path)


@pytest.mark.parametrize(
    ("cut", "ended", "kept"),
    [(20, Ended.PASS, Ended.UNKNOWN), (20, Ended.FAIL, Ended.FAIL), (0, Ended.PASS, Ended.PASS)],
)
def test_a_pass_on_a_torn_history_is_unknown(tmp_path: Path, cut: int, ended: Ended, kept: Ended) -> None:
    scratch, found = tmp_path / "scratch", result(write(tmp_path, GOOD), ended)
    scratch.mkdir()
    history(scratch / "history.jsonl", cut)
    _keep(scratch, tmp_path / "report", found, False)
    assert found.ended is kept
    assert ("breaks off" in found.reason) == bool(cut)
    again = RunResult.from_json((tmp_path / "report" / "result.json").read_bytes())
    assert again.ended is kept


# ---- a folder that cannot be written


def test_what_cannot_be_kept_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scratch, found, file = tmp_path / "scratch", result(write(tmp_path, GOOD)), tmp_path / "report"
    scratch.mkdir()
    history(scratch / "history.jsonl")
    file.touch()
    _keep(scratch, file / "story", found, False)
    assert found.ended is Ended.PASS
    assert str(file) in caplog.text


def test_runs_that_cannot_begin_are_unknown_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path, GOOD, name) for name in ("a.yaml", "b.yaml")]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    report = asyncio.run(play_all(paths, Options(), lambda *_: None, 2, Kept(tmp_path / "report")))
    assert [(r.name, r.ended) for r in report.runs] == [("a", Ended.UNKNOWN), ("b", Ended.UNKNOWN)]
    assert all("could not be played" in r.reason for r in report.runs)


def test_a_report_on_a_file_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    file = tmp_path / "report"
    file.touch()
    with pytest.raises(InputError, match="cannot be made a folder"):
        run([write(tmp_path, GOOD)], Options(), file, None, 1, False, False, True)


def test_reports_that_cannot_be_written_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    report = Report.of([result(tmp_path / "story.yaml")], 1.0)
    assert "cannot be written" in _written(report, tmp_path, None)


@pytest.mark.parametrize("command", ["run", "soak"])
@pytest.mark.parametrize("seed", [str(10**26), str(2**63), "-1"])
def test_a_seed_that_no_file_may_have_is_refused(command: str, seed: str) -> None:
    done = CliRunner().invoke(app, [command, f"--seed={seed}"])
    assert done.exit_code == 2
    assert "--seed" in done.output


# ---- what a killed run has left


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was killed, in a folder for temporary files of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Path(tempfile.mkdtemp(prefix="blackstart-chaos-"))
    with running(sys.executable, "-c", HOLDS, folder) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        asyncio.run(sweep_abandoned())
        assert folder.is_dir(), "it is held"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    return folder


def test_a_run_that_was_killed_is_cleared_up_after(abandoned: Path) -> None:
    log = abandoned / "agent.log"
    log.touch()
    client = running(sys.executable, "-c", "print(1, flush=True); import time; time.sleep(1000)", log)
    with client as left, running("tail", "-n", "+1", "-f", log) as stranger:
        assert left.stdout is not None
        left.stdout.readline()
        asyncio.run(sweep_abandoned())
        assert left.wait(END_S) == -signal.SIGKILL
        assert stranger.poll() is None, "who only looks is not ours to end"
    assert not abandoned.exists()


def test_a_folder_that_is_held_or_has_no_lock_yet_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    new, mine, other = (tmp_path / name for name in ("blackstart-chaos-1", "blackstart-soak-2", "other"))
    for folder in (new, mine, other):
        folder.mkdir()
    (tmp_path / "blackstart-chaos-link").symlink_to(other)
    (other / "held.lock").touch()
    with held(mine):
        asyncio.run(sweep_abandoned())
        assert all(folder.is_dir() for folder in (new, mine, other))
    asyncio.run(sweep_abandoned())
    assert (new.is_dir(), mine.exists(), other.is_dir()) == (True, False, True)


@pytest.mark.parametrize("kind", ["slow", "chaos"])
def test_control_groups_of_dead_workers_are_removed(abandoned: Path, kind: str) -> None:
    memory = Path("/sys/fs/cgroup/memory")
    root = blkio_folder() if kind == "slow" else memory if memory.is_dir() else memory.parent
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no such control group can be written here")
    with running("true") as gone:
        gone.wait()
    dead, alive = (root / f"blackstart-{kind}-{pid}-999" for pid in (gone.pid, os.getpid()))
    dead.mkdir()
    alive.mkdir()
    try:
        asyncio.run(sweep_abandoned())
        assert (dead.exists(), alive.exists()) == (False, True)
    finally:
        alive.rmdir()
    assert not abandoned.exists()


def test_loop_devices_of_images_that_are_gone_are_released(abandoned: Path) -> None:
    try:
        require()
    except InputError as error:
        pytest.skip(f"loop devices: {error}")
    image = abandoned / "disk-1.img"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    made = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True)
    file_of = Path("/sys/block", Path(made.stdout.strip()).name, "loop/backing_file")
    image.unlink()
    assert str(abandoned) in file_of.read_text()
    asyncio.run(sweep_abandoned())
    assert not file_of.exists() or str(abandoned) not in file_of.read_text()
