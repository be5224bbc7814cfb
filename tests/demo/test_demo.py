"""The demo passes with the real agent, and each story notices the agent that is broken where it looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reference.demo.judge import Verdict
from reference.demo.observer import Seen
from reference.demo.run import Report, chosen, run_demo
from reference.stack import Agents
from reference.stack.probe import Answer
from reference.stack.samples import samples_of
from tests.demo.mutant_agent import MUTANTS

pytestmark = pytest.mark.xdist_group("stack")

EXPECTED = {
    "never-healthy": "the API says succeeded, expected rolled_back",
    "killed-in-verifying": "the client went down before `switching` was in the journal",
    "crash-on-start": "the image of 1.0.0 was missing at",
    "command-twice": "the job was begun more than once",
    "update-succeeds": "the API showed an end that the journal did not hold yet",
    "handover-overlap": "though nothing should have touched it",
}


def _silent(story: str, what: str) -> None:
    pass


async def test_a_broken_agent_fails_the_story_that_looks_at_it(tmp_path: Path) -> None:
    module = "tests.demo.mutant_agent"
    agents = Agents(module, module)
    report = await run_demo(chosen(list(MUTANTS)), 1, _silent, tmp_path, agents)
    for story in report.stories:
        problems = story.evidence["problems"]
        assert story.verdict is Verdict.FAIL, f"{story.name} did not notice {MUTANTS[story.name].__name__}"
        assert isinstance(problems, list)
        assert any(EXPECTED[story.name] in problem for problem in problems), (story.name, problems)
    assert report.exit_code() == 1


def test_json_is_all_of_standard_output_and_the_report_says_the_same(tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.json"
    command = [
        sys.executable,
        "-m",
        "blackstart",
        "demo",
        "--json",
        "--only",
        "update-succeeds",
        "--seed",
        "7",
    ]
    done = subprocess.run([*command, "--report", str(report)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"runtime", "stories", "passed", "failed", "unknown", "skipped", "seconds"}
    assert found == json.loads(report.read_text())
    [story] = found["stories"]
    assert set(story) == {"name", "outcome", "reason", "downtime_ms", "rollback_ms", "verdict", "evidence"}
    assert (story["outcome"], story["verdict"], found["passed"]) == ("succeeded", "pass", 1)
    assert story["downtime_ms"] > 0, "an update that nobody can see did not happen"
    picture = report.with_suffix(".html").read_text()
    assert "update-succeeds" in picture and "<svg" in picture
    assert "http://" not in picture and "https://" not in picture, "the page has to be self-contained"


def test_a_story_that_does_not_exist_is_bad_input() -> None:
    command = [sys.executable, "-m", "blackstart", "demo", "--only", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "there is no story 'nonsense'" in done.stderr and "update-succeeds" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_report_is_never_a_pass() -> None:
    assert Report().exit_code() == 3


def _answers(*good: bool) -> list[Answer]:
    return [Answer(10.0 * i, 10.0 * i + 1, g, "1.0.0" if g else None) for i, g in enumerate(good)]


def test_downtime_is_from_the_first_failed_to_the_first_good_answer_summed() -> None:
    seen = Seen(_answers(True, False, False, True, True, False, True))
    assert seen.gaps_ms() == [(10.0, 31.0), (50.0, 61.0)]
    assert seen.downtime_ms() == 32
    assert Seen(_answers(True, False)).downtime_ms() == 1, "an outage that has not ended counts too"


@pytest.mark.parametrize(
    ("text", "broken_at", "lost"),
    [
        ('{"seq": 1}\n{"seq": 2}\n{"se', None, 0),
        ('{"seq": 1}\n{"seq": 3}\n', 2, 1),
        ('{"seq": 1}\n{"seq": 9}\n{"seq": 10}\n{"seq": 13}\n', 2, 9),
        ('{"seq": 1}\n{"seq": 1}\n', 2, 1),
        ('{"seq": 1}\n{"se\n{"seq": 2}\n', 2, 1),
        ("", 1, 0),
    ],
)
def test_a_break_in_the_samples_is_found(tmp_path: Path, text: str, broken_at: int | None, lost: int) -> None:
    path = tmp_path / "samples.log"
    path.write_text(text)
    found = samples_of(path)
    assert (found.broken_at, found.lost) == (broken_at, lost)
