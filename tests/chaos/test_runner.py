"""How a run ends: everything undone, counted from the right moment, and nobody blamed for what never happened."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from chaos.history import Event, History
from chaos.judge import _blameless
from chaos.runner import to_its_end
from chaos.steady import _since
from chaos.verdict import Finding, Verdict
from reference.stack.box import commands
from tests.architecture.source import ROOT
from tests.chaos.test_run import BLACKSTART

QUIET_END = """title: Nothing is done after the job's end
method:
  - action: update
  - action: wait
    until: {event: job-ended}
  - action: wait
    for: 4s
expect: {outcome: succeeded, converges: 8s}
"""


async def test_what_is_undone_is_undone_to_its_end_when_we_are_cancelled() -> None:
    begun, done = asyncio.Event(), []

    async def undo() -> None:
        for number in range(3):
            begun.set()
            await asyncio.sleep(0.05)
            done.append(number)

    task = asyncio.create_task(to_its_end(undo()))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [0, 1, 2]


async def test_what_cannot_be_undone_is_told() -> None:
    async def undo() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await to_its_end(undo())


def at(t: float, source: str, event: str) -> Event:
    return Event(t, t * 1000, source, event)


@pytest.mark.parametrize(
    ("events", "since"),
    [
        ([("run", "method-begins", 2.0)], 2.0),
        ([("run", "method-begins", 2.0), ("action", "update", 2.5)], 2.5),
        ([("action", "update", 2.5), ("fault", "in-force", 3.0), ("fault", "healed", 3.2)], 3.2),
        ([("fault", "healed", 3.2), ("api", "ended", 8.0), ("run", "method-ends", 8.5)], 3.2),
        ([("fault", "healed", 3.2), ("action", "update", 4.0)], 4.0),
    ],
)
def test_rest_is_counted_from_what_was_done_last(events: list[tuple[str, str, float]], since: float) -> None:
    history = History.made_of(at(t, source, event) for source, event, t in events)
    assert _since(history) == since


@pytest.mark.parametrize(
    ("fired", "checker", "verdict"),
    [
        (Verdict.PASS, "outcome", Verdict.FAIL),
        (Verdict.UNKNOWN, "outcome", Verdict.UNKNOWN),
        (Verdict.UNKNOWN, "downtime", Verdict.UNKNOWN),
        (Verdict.UNKNOWN, "never-two-active", Verdict.FAIL),
        (Verdict.UNKNOWN, "samples", Verdict.FAIL),
    ],
)
def test_an_expectation_of_a_fault_that_never_came_blames_nobody(
    fired: Verdict, checker: str, verdict: Verdict
) -> None:
    found = [Finding("faults-fired", "", "", fired), Finding(checker, "", "", Verdict.FAIL)]
    assert [f.verdict for f in _blameless(found)] == [fired, verdict]


def test_parts_that_are_gone_in_the_end_are_no_rest(tmp_path: Path) -> None:
    """The job has ended well; then service and broker die, and stay dead."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scenario = tmp_path / "quiet-end.yaml"
    scenario.write_text(QUIET_END, encoding="utf-8")
    process = subprocess.Popen(
        [*BLACKSTART, str(scenario), "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    marker, killed = os.fsencode(f"{scratch}/"), 0
    try:
        end = time.monotonic() + 90
        while not any('"event":"ended"' in p.read_text() for p in scratch.glob("*/history.jsonl")):
            assert time.monotonic() < end, "the job never ended"
            time.sleep(0.05)
        for pid, command in commands():
            if marker in command and command.split(b"\0")[2:3] in (
                [b"reference.service"],
                [b"reference.broker"],
            ):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert killed == 2
    report = json.loads(said)
    assert report["passed"] == 0
    [run] = report["runs"]
    verdicts = {f["checker"]: f["verdict"] for f in run["findings"]}
    assert verdicts["converges-in"] != "pass"
    assert process.returncode in (1, 3)
