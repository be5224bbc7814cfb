"""What `blackstart chaos soak` says on the way and in the end."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from chaos.soak import SoakResult
from chaos.soak.found import Violation
from reference.cli.chaos import app
from reference.cli.chaos_soak import _Line, _show

COUNTS = {
    "left_s": 125, "round": 2, "updates": {"succeeded": 7, "rolled_back": 3}, "violations": 0,
    "faults": {"power-cut": 3, "down": 1, "reset": 1, "latency": 1, "slicer": 1},
}  # fmt: skip


def shown(result: SoakResult) -> str:
    console = Console(width=200, file=StringIO())
    _show(console, result)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_line_of_progress_tells_time_left_updates_faults_and_violations() -> None:
    line = _Line(Console(quiet=True))
    assert line.told("say", "starting the parts") == "starting the parts"
    told = line.told("progress", COUNTS)
    for part in ("2:05 left", "succeeded 7, rolled_back 3", "power-cut 3", "1 more kinds", "violations: 0"):
        assert part in told
    assert line.told("say", "round 3: judging").endswith("round 3: judging")


def test_the_table_has_what_fired_what_was_found_and_how_to_play_it_again() -> None:
    result = SoakResult(
        10, 4, 20, {"succeeded": 9}, {"down": 2}, {"jitter": 1}, rounds=3,
        violations=[Violation(3, "edge-2", "current-kept", "the image [x] is gone", t=1.5)],
        scenarios=["out/found-4-3.yaml"], left_out={"slow-disk": "because"}, problems=[f"no {n}" for n in range(20)],
    )  # fmt: skip
    text = shown(result)
    for part in (
        "round 3, edge-2 after 1.5 s: current-kept: the image [x] is gone", "blackstart chaos run out/found-4-3.yaml",
        "not drawn: slow-disk: because", "succeeded 9", "1 violations", "and 8 more",
    ):  # fmt: skip
        assert part in text
    rows = {
        line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("down", "jitter"))
    }
    assert rows == {"down": ["2", "-"], "jitter": ["0", "1"]}


@pytest.mark.parametrize(
    "given", [["--devices", "0"], ["--devices", "51"], ["--minutes", "0"], ["--seed", "-1"]]
)
def test_what_cannot_be_is_refused_before_anything_starts(given: list[str]) -> None:
    assert CliRunner().invoke(app, ["soak", *given]).exit_code == 2
