"""Real cuts of a real disk: the device that survives them, devices that must be caught, and what is left behind."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from reference.cli.cut import _show
from reference.cli.main import app
from reference.core.errors import InputError
from reference.core.model import Phase
from reference.power import disk
from reference.power.disk import Disk, require
from reference.power.judge import Kind
from reference.power.plan import Cut, plan
from reference.power.run import Report, run_cuts
from tests.power.conftest import needs_power

COMMAND = [sys.executable, "-m", "blackstart", "crash", "cut"]


@needs_power
def test_a_cut_keeps_what_was_synced_and_nothing_else(tmp_path: Path) -> None:
    image = Disk(tmp_path / "disk.img", tmp_path / "disk")
    image.format()
    with ExitStack() as undo:
        undo.callback(image.release)
        image.mount()
        synced, written = image.at / "synced", image.at / "written"
        with synced.open("wb") as file:
            file.write(b"x" * 5000)
            file.flush()
            os.fsync(file.fileno())
        written.write_bytes(b"y" * 5000)
        image.cut()
        image.release()
        assert not disk.loops_of(image.image)
        image.mount()
        assert synced.read_bytes() == b"x" * 5000
        assert not written.exists() or written.stat().st_size == 0
    assert not disk.loops_of(image.image)
    assert str(image.at) not in Path("/proc/self/mounts").read_text("utf-8")


def leftovers(folder: Path) -> list[str]:
    """Loop devices, mounts and processes that know the folder."""
    mounts = Path("/proc/self/mounts").read_text("utf-8")
    lines = [*disk._run("losetup", "-a").splitlines(), *mounts.splitlines()]
    found = [line for line in lines if str(folder) in line]
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(f"{entry.name} {words!r}")
    return found


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def held(*phases: Phase) -> list[Cut]:
    """Cuts in them, late enough that what the device has to say of the phase is out, however slow the machine."""
    return [Cut(n, "success", phase=phase, held=True, late_ms=250) for n, phase in enumerate(phases)]


CAUGHT_IN = (Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING, Phase.CLEANING_UP)
"""Where the broken devices are caught, and the real one is not."""


@needs_power
async def test_twelve_cuts_cost_nothing_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    at_random = [cut for cut in plan(12, 5) if cut.phase is None][:8]
    report = await run_cuts(12, 5, chosen=[*held(*CAUGHT_IN), *at_random])
    with capsys.disabled():
        print(f" [{report.to_json()['cuts_per_hour']} cuts an hour]", end="")
    assert report.problems == []
    assert sum(report.landed.values()) == 12
    assert all(report.landed[phase.value] for phase in CAUGHT_IN)
    assert report.counts["old_healthy"] + report.counts["new_healthy"] == 12
    assert report.exit_code() == 0
    assert inside(tmp_path) == []
    assert leftovers(tmp_path) == []


@needs_power
@pytest.mark.parametrize(
    ("name", "phases", "kind"),
    [
        ("unsynced", (Phase.STAGED, Phase.SWITCHING), Kind.CORRUPT),
        ("journal_off", (Phase.VERIFYING,), Kind.FALSE_REPORT),
        ("journal_normal", (Phase.SWITCHING, Phase.CLEANING_UP), Kind.FALSE_REPORT),
        ("hasty", (Phase.CLEANING_UP,), Kind.FALSE_REPORT),
    ],
)
async def test_a_broken_device_is_caught(name: str, phases: Sequence[Phase], kind: Kind) -> None:
    cuts = held(*phases)
    report = await run_cuts(len(cuts), 1, chosen=cuts, device=f"tests.power.mutants:{name}", lanes=1)
    assert report.counts[kind] == len(phases), report.problems
    assert report.exit_code() == 1


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@needs_power
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_leaves_nothing_mounted_and_nothing_running(
    number: signal.Signals, tmp_path: Path
) -> None:
    command = [*COMMAND, "--cuts", "500", "--json"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until(lambda: any("/shim.py" in line for line in leftovers(tmp_path)), "no device was ever booted")
        running.send_signal(number)
        out, errors = running.communicate(timeout=30)
    finally:
        running.kill()
    assert out == b""
    if (
        number is signal.SIGKILL
    ):  # Nobody takes anything down then: the kernel does, and only a folder is left.
        until(lambda: not leftovers(tmp_path), "something outlived the command")
        return
    assert running.returncode == 128 + number
    assert b"interrupted" in errors
    assert leftovers(tmp_path) == []
    assert inside(tmp_path) == []


def without_mounting() -> None:
    """Root, but without CAP_SYS_ADMIN (21), as in most containers: PR_CAPBSET_DROP (24), before the exec."""
    ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)


@needs_power
def test_root_that_may_not_mount_is_told_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--cuts", "1"], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, timeout=30,
        preexec_fn=without_mounting, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"blackstart: cuts of a real disk need the right to mount" in done.stderr
    assert inside(tmp_path) == []


def test_people_are_shown_what_was_found() -> None:
    console = Console(file=io.StringIO(), width=120)
    problem = {
        "number": 3,
        "story": "success",
        "landed": "staged",
        "kind": "corrupt",
        "detail": "an image is not whole",
    }
    counts = Counter(corrupt=1, old_healthy=4)
    _show(console, Report(60, 9, 42, Counter(staged=60), counts, [problem], 36.0))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "cut 3, success, in staged: an image is not whole" in shown
    assert "0 bricked, 0 false_reports, 1 corrupt, 0 unmapped in 36.0 s, 6000 an hour" in shown
    assert "no cut landed in committing" in shown


# ---- what is refused, in one sentence


def refused(*words: str) -> str:
    result = CliRunner().invoke(app, ["crash", "cut", *words])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_runtime_that_is_not_known_is_refused() -> None:
    assert "Known: process, docker" in refused("--runtime", "podman")


@pytest.mark.parametrize("cuts", ["0", "-3"])
def test_no_cuts_are_refused(cuts: str) -> None:
    assert "--cuts" in refused("--cuts", cuts)


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert "not an empty folder" in refused("--keep", str(tmp_path))


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in refused("--cuts", "1")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loop device.*load the module loop"):
        require(0, tmp_path / "none", which=lambda name: name)
    with pytest.raises(InputError, match=r"mkfs\.ext4.*e2fsprogs"):
        require(0, tmp_path, which=lambda name: None if name == "mkfs.ext4" else name)
