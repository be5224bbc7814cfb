"""Real cuts under a real engine: the device that survives them, devices that must be caught, and what is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.core.model import Phase
from reference.power import engine, versions
from reference.power.bench import DOCKER
from reference.power.engine import BRIDGE, HOST, NETWORKS, require_engine
from reference.power.judge import Kind
from reference.power.plan import Cut, plan
from reference.power.run import planned, run_cuts
from tests.power.conftest import needs_engine, needs_power
from tests.power.test_cuts import COMMAND, inside, leftovers, until

LATE_MS = 400
"""Late enough that what the device has to say of a phase is out, however slow the machine."""


def held(phase: Phase, number: int, network: str, story: str = "success") -> Cut:
    return Cut(number, story, phase=phase, held=True, late_ms=LATE_MS, network=network)


def groups() -> list[str]:
    """Control groups of lanes that are no more."""
    found = Path("/sys/fs/cgroup").glob("**/blackstart-cut-*")
    return [str(path) for path in found if not Path("/proc", path.name.rpartition("-")[2]).exists()]


def links() -> set[str]:
    """A bridge of an engine that is told of none."""
    return {path.name for path in Path("/sys/class/net").iterdir()} & {"docker0"}


@needs_power
@needs_engine
async def test_cuts_under_an_engine_cost_nothing_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = links()
    cuts = [
        held(Phase.STAGED, 0, HOST), held(Phase.SWITCHING, 1, BRIDGE), held(Phase.VERIFYING, 2, HOST),
        held(Phase.COMMITTING, 3, BRIDGE),
        Cut(4, "success", moment=0.4, flushed=0.8, network=HOST, early=True), Cut(5, "success", moment=0.7, network=BRIDGE),
    ]  # fmt: skip
    report = await run_cuts(len(cuts), 5, chosen=cuts, runtime=DOCKER)
    with capsys.disabled():
        print(f" [{report.to_json()['cuts_per_hour']} cuts an hour]", end="")
    assert report.problems == []
    assert sum(report.landed.values()) == len(cuts)
    assert all(
        report.landed[p.value] for p in (Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING, Phase.COMMITTING)
    )
    assert report.counts["old_healthy"] + report.counts["new_healthy"] == len(cuts)
    assert inside(tmp_path) == []
    assert leftovers(tmp_path) == []
    assert groups() == []
    assert links() <= before


@needs_power
@needs_engine
async def test_a_device_that_believes_its_engine_s_word_for_the_disk_is_caught() -> None:
    # Not later: to make a container the engine mounts an overlay, and what it unmounts it syncs.
    cuts = [held(Phase.STAGED, number, network) for number, network in enumerate(NETWORKS)]
    device = "tests.power.mutants:engine_unsynced"
    report = await run_cuts(len(cuts), 1, chosen=cuts, runtime=DOCKER, device=device, lanes=1)
    assert report.counts[Kind.CORRUPT] == len(cuts), report.problems
    assert report.exit_code() == 1


@needs_power
@needs_engine
@pytest.mark.parametrize(("name", "corrupt"), [("written_back", 0), ("engine_believed", 1)])
async def test_half_a_layer_that_passes_for_whole_is_pulled_again(
    name: str, corrupt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel writes back in the middle of a layer, and the power goes right after the pull."""
    monkeypatch.setattr(versions, "_BULK_FILES_ON_BASE", 1500)  # long enough to have a middle
    cuts = [Cut(0, "success", phase=Phase.STAGED, network=HOST)]
    device = f"tests.power.mutants:{name}"
    report = await run_cuts(1, 1, chosen=cuts, runtime=DOCKER, device=device, lanes=1)
    assert report.landed[Phase.PULLING.value] == 1
    assert report.counts[Kind.CORRUPT] == corrupt, report.problems


@needs_power
@needs_engine
def test_a_kill_leaves_nothing_mounted_and_nothing_running(tmp_path: Path) -> None:
    command = [*COMMAND, "--cuts", "500", "--runtime", "docker", "--json"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            until(
                lambda: any("dockerd" in line for line in leftovers(tmp_path)), "no engine was ever started"
            )
        finally:
            running.send_signal(signal.SIGKILL)
    until(lambda: not leftovers(tmp_path), "something outlived the command")
    engine.clear_groups()  # what the kernel cannot take away, the next run does
    assert groups() == []


def test_under_an_engine_both_networks_are_played_and_the_kernel_writes_back_now_and_then() -> None:
    found = planned(200, 1, DOCKER)
    assert {one.network for one in found} == set(NETWORKS)
    flushed = [one for one in found if one.flushed is not None]
    assert all(one.phase in (None, Phase.PULLING) for one in flushed)
    assert 50 <= len(flushed) <= 100
    assert len([one for one in found if one.early]) == 67
    assert {one.network for one in found if one.early} == set(NETWORKS)
    same = plan(200, 1)
    assert [(one.number, one.story, one.moment, one.phase) for one in found] == [
        (one.number, one.story, one.moment, one.phase) for one in same
    ]


def test_without_an_engine_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "dockerd" else name)
    with pytest.raises(InputError, match=r"dockerd.*docker\.io"):
        require_engine()
