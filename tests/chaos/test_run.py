"""`blackstart chaos run` as its users meet it: exit codes, the JSON, what Ctrl-C leaves, a seed that says the same again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.load import load
from chaos.plan import as_table, plan
from chaos.proxies.fetch import toxiproxy_missing
from reference.stack.box import commands
from tests.architecture.source import ROOT

HEAD = "title: A test of the command\n"
NOBODY_USES_IT = f"""{HEAD}method:
  - fault: latency
    link: device-registry
    with: {{latency: 100ms}}
    for: 500ms
expect:
  outcome: null
"""
WRONG_EXPECTATION = f"""{HEAD}method:
  - action: update
expect:
  outcome: rolled_back
"""
MISSPELT = f"""{HEAD}method:
  - action: update
expect:
  outcom: succeeded
"""
BLACKSTART = [sys.executable, "-c", "import blackstart; blackstart.main()", "chaos", "run"]


def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BLACKSTART, *arguments], capture_output=True, text=True, check=False, timeout=timeout, cwd=ROOT
    )


def written(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_fault_that_met_nobody_makes_it_unknown(tmp_path: Path) -> None:
    if reason := toxiproxy_missing():
        pytest.skip(f"toxiproxy: {reason}")
    done = run(written(tmp_path, "unused", NOBODY_USES_IT), "--json", "--again", "1")
    assert done.returncode == 3, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["runs"][0]["played"] == 2, "what could not be judged is played again, as often as was said"
    assert (report["passed"], report["failed"], report["unknown"], report["faults_fired"]) == (0, 0, 1, {})
    [told] = [f for f in report["runs"][0]["findings"] if f["checker"] == "faults-fired"]
    assert told["verdict"] == "unknown"
    assert "0 of 1" in told["measured"]


def test_an_expectation_that_is_wrong_fails(tmp_path: Path) -> None:
    report_folder = tmp_path / "report"
    done = run(written(tmp_path, "wrong", WRONG_EXPECTATION), "--report", str(report_folder), "--again", "9")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "played" not in done.stdout, "a failure is never played again"
    assert "expected rolled_back; succeeded" in done.stdout
    found = {path.name for path in (report_folder / "wrong").iterdir()}
    assert {"report.html", "result.json", "journal.json", "history.jsonl"} <= found
    assert {"index.html", "report.json", "junit.xml"} <= {path.name for path in report_folder.iterdir()}


def test_a_misspelt_key_is_named_with_its_line_and_nothing_is_started(tmp_path: Path) -> None:
    done = run(written(tmp_path, "misspelt", MISSPELT))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "misspelt.yaml:5" in done.stderr
    assert "Did you mean 'outcome'?" in done.stderr


def test_a_folder_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    done = run(str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [*BLACKSTART, written(tmp_path, "interrupted", WRONG_EXPECTATION)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    marker = os.fsencode(f"{scratch}/")
    try:
        end = time.monotonic() + 60
        while sum(marker in command for _, command in commands()) < 4:  # the parts are up, and a device
            assert time.monotonic() < end, "the bench never came up"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT, said.decode()
    assert b"interrupted" in said
    assert [command for _, command in commands() if marker in command] == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_same_seed_gives_the_same_plan(path: Path) -> None:
    scenario = load(path)
    first = as_table(plan(scenario, 7))
    assert all(as_table(plan(scenario, 7)) == first for _ in range(19))
    assert len({item["seed"] for item in first}) == len(first), "each item has a seed of its own"


def test_an_item_that_is_added_at_the_end_changes_nothing_before_it() -> None:
    scenario = load(ROOT / "scenarios" / "brown-out.yaml")
    longer = scenario.model_copy(update={"method": (*scenario.method, scenario.method[0])})
    assert as_table(plan(longer, 3))[: len(scenario.method)] == as_table(plan(scenario, 3))
