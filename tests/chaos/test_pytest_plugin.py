"""`pytest scenarios/`: which files are tests, what comes of each verdict, and that nobody else notices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blackstart.pytest_plugin import is_scenario
from chaos.load import SHIPPED
from chaos.pytest_plugin import told
from chaos.result import FaultRow, RunResult
from chaos.verdict import Ended, Finding, Verdict
from tests.chaos.scenario.written import GOOD, write

ROOT = Path(__file__).parents[2]
ACTIONS_OF_SOMEBODY_ELSE = "on: push\njobs:\n  x:\n    steps:\n      - run: make\n"
EXPERIMENT = "title: x\nmethod:\n  - type: action\n    name: x\n    provider: {type: process}\n"
PLAYED = """
import os
from pathlib import Path
import chaos.lanes
from chaos.result import RunResult

async def play_file(path, options, say, folder):
    say("under way")
    result = RunResult.from_json(Path(os.environ["RESULTS"], path.stem + ".json").read_text())
    if options.seed is not None:
        result.seed = options.seed
    return result

chaos.lanes.play_file = play_file
"""
"""A run takes seconds of real parts and is tested elsewhere: here it is what pytest makes of one that is over."""


def run(folder: Path, *arguments: str, code: int = 0, **variables: str) -> str:
    """pytest in a folder of somebody else, with the plugin as its entry point loads it."""
    words = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:blackstart",
        "-p",
        "blackstart.pytest_plugin",
        "-W",
        "ignore",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}, text=True,
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def result(name: str, ended: Ended, **more: object) -> RunResult:
    made = RunResult(name, f"{name}.yaml", "A title", 7, ended)
    for key, value in more.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (GOOD, True),
        ("method: [\n", False),
        ("title: x\nmethod:\n  - fault: x\n", True),
        ("title: x\nmethod:\n  - {action: update}\n", True),
        ("titel: x\nmethod:\n  - acton: y\n  - fault: z\n", True),
        (ACTIONS_OF_SOMEBODY_ELSE, False),
        (EXPERIMENT, False),
        ("a: 1\n", False),
        ("", False),
    ],
)
def test_a_scenario_is_told_from_other_yaml(tmp_path: Path, text: str, is_one: bool) -> None:
    assert is_scenario(write(tmp_path, text)) is is_one


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_scenario_there_is_is_one(path: Path) -> None:
    assert is_scenario(path)


def test_other_runs_do_not_notice(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text(ACTIONS_OF_SOMEBODY_ELSE)
    (tmp_path / "chaos.py").write_text("MINE = True\n")
    (tmp_path / "test_mine.py").write_text(
        "import sys, chaos\n"
        "def test_mine():\n"
        "    assert chaos.MINE\n"
        "    ours = ('chaos.', 'reference', 'yaml', 'pydantic')\n"
        "    assert not [m for m in sys.modules if m.startswith(ours) and 'schemathesis' not in m]\n"
    )
    # Plugins of this environment are left out: they import what they like.
    run(tmp_path, "-q", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_scenarios_are_collected_by_name_fault_and_tag(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "plain.yaml")
    write(tmp_path, f"tags: [night]\n{GOOD.lstrip()}", "tagged.yml")
    write(tmp_path, "title: x\nmethod:\n  - fault: agent-killed\n  - action: update\n", "with-fault.yaml")
    write(tmp_path, GOOD, "left-out.yaml")
    (tmp_path / "other.yaml").write_text("a: 1\n")
    found = run(tmp_path, "--collect-only", "-q", "-k", "plain or night or agent-killed").splitlines()
    assert found[:3] == ["plain.yaml::plain", "tagged.yml::tagged", "with-fault.yaml::with-fault"]
    assert "3/4 tests collected (1 deselected)" in found[-1]


def test_a_file_that_is_wrong_says_where(tmp_path: Path) -> None:
    path = write(tmp_path, "title: x\nmethod:\n  - fault: agent-kiled\n  - acton: update\n", "wrong.yaml")
    said = run(tmp_path, code=2)
    assert f"{path}:3: there is no fault 'agent-kiled'. Did you mean 'agent-killed'?" in said
    assert f"{path}:4: this item has neither" in said
    assert "Traceback" not in said


def test_each_verdict_is_what_pytest_makes_of_it(tmp_path: Path) -> None:
    findings = [
        Finding("samples-kept", "0 lost", "0 lost", Verdict.PASS, "edge-1"),
        Finding("downtime", "at most 900ms", "1200ms", Verdict.FAIL, "edge-1"),
    ]
    runs = [
        result("good", Ended.PASS),
        result("bad", Ended.FAIL, findings=findings),
        result("unsure", Ended.UNKNOWN, faults=[FaultRow("agent-killed", "agent-killed")]),
        result("absent", Ended.SKIPPED, reason="no Docker engine can run here"),
    ]
    for one in runs:
        (tmp_path / f"{one.name}.json").write_text(one.to_json())
        write(tmp_path, GOOD, f"{one.name}.yaml")
    (tmp_path / "conftest.py").write_text(PLAYED)
    said = run(tmp_path, "-rs", "--chaos-seed", "42", code=1, RESULTS=str(tmp_path))
    assert "2 failed, 1 passed, 1 skipped" in said
    assert "no Docker engine can run here" in said
    assert "bad: fail, seed 42" in said
    fail, kept = (
        next(line for line in said.splitlines() if word in line) for word in ("downtime", "samples-kept")
    )
    assert fail.split() == ["fail", "downtime", "(edge-1)", "at", "most", "900ms", "1200ms"]
    assert said.index(fail) < said.index(kept), "what failed is told first"
    assert "fault agent-killed, 1: was not shown to have fired" in said
    assert "blackstart chaos run bad.yaml --seed 42" in said
    assert "under way" in said
    assert "Traceback" not in said


def test_a_run_in_words() -> None:
    fired = FaultRow("agent-killed", "agent-killed", fired="process 7 ended by SIGKILL")
    said = told(result("story", Ended.FAIL, reason="", faults=[fired]))
    assert said.splitlines() == [
        "story: fail, seed 7",
        "fault agent-killed, 1: fired: process 7 ended by SIGKILL",
        "",
        "Play it again: blackstart chaos run story.yaml --seed 7",
    ]


def test_it_is_an_entry_point_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"blackstart": "blackstart.pytest_plugin"}
