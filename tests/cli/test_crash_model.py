"""`blackstart crash enumerate` and `crash mutants` as a person or a script meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reference.cli.crash import app
from reference.cli.explored import Enumerated, chosen
from reference.cli.heat import kind_of, page
from reference.cli.mutated import Mutated
from reference.core.errors import InputError
from reference.core.invariants import Violation
from reference.core.model import Outcome
from reference.world.atoms import Atom
from reference.world.ends import End, landings
from reference.world.explore import Explored, Found
from reference.world.mutants.judge import Verdict
from reference.world.stories import STORIES, story

FOUND = Found("success", (Violation("converges", "no end"),), ((3, "the agent is killed"),), 2)


def invoke(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command."""
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def test_enumerate_counts_what_it_saw() -> None:
    code, out, _ = invoke("enumerate", "--only", "pull_image_unknown", "--processes", "1", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["stories"], told["max_depth"], told["violations"], told["closed"]) == (1, 2, [], [])
    assert told["states"] > 1000 and told["cuts"] > told["states"] / 2 and told["states_per_s"] > 0
    assert told["coverage"]["atoms"] == told["coverage"]["atoms_cut"] > 5


def test_unbounded_closes() -> None:
    code, out, _ = invoke(
        "enumerate", "--unbounded", "--only", "pull_image_unknown", "--processes", "1", "--json"
    )
    told = json.loads(out)
    assert (code, told["closed"]) == (0, ["pull_image_unknown"]) and told["max_depth"] > 3


def test_the_table_names_the_bounds() -> None:
    code, out, _ = invoke("enumerate", "--only", "already_runs", "--processes", "1")
    assert code == 0
    assert "already_runs" in out and "0 violations" in out and "two layers an image" in out


@pytest.mark.parametrize("words", [("enumerate", "--only", "nobody"), ("mutants", "--only", "nobody")])
def test_unknown_names_are_told_with_the_known_ones(words: tuple[str, ...]) -> None:
    code, _, err = invoke(*words)
    assert code == 2 and "nobody" in err and "Known: " in err


def test_a_number_of_processes_that_is_none() -> None:
    code, _, err = invoke("enumerate", "--processes", "-1")
    assert code == 2 and "--processes" in err


def test_what_does_not_hold_is_the_exit_code() -> None:
    good = Explored("success", states=1, atoms={Atom.WAIT_PASS}, atoms_cut={Atom.WAIT_PASS})
    assert Enumerated(False, [good]).exit_code() == 0
    assert Enumerated(True, [good]).exit_code() == 1, "any number of cuts, and not closed"
    assert Enumerated(False, [Explored("success", found=[FOUND])]).exit_code() == 1
    uncut = Explored("success", atoms={Atom.WAIT_PASS})
    assert Enumerated(False, [uncut]).exit_code() == 1
    assert Enumerated(False, [uncut], whole=False).exit_code() == 0, "one story need not meet every atom"


def test_a_way_that_was_found_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    way = [[22, "journal 0, stuck/0"], [2, "the agent is killed"]]
    path.write_text(json.dumps({"story": "success", "cuts": way}))
    code, out, _ = invoke("enumerate", "--replay", str(path))
    assert code == 0 and "-- journal 0, stuck/0" in out and "nothing is violated" in out
    code, out, _ = invoke("enumerate", "--replay", str(path), "--json")
    assert code == 0 and json.loads(out)["violations"] == []


@pytest.mark.parametrize("text", ["", "[]", '{"story": "nobody", "cuts": []}', '{"story": "success"}'])
def test_a_file_that_is_no_way(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    code, _, err = invoke("enumerate", "--replay", str(path))
    assert code == 2 and "--save" in err


def test_a_way_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "way.json"
    path.write_text(json.dumps({"story": "success", "cuts": [[2, "lightning"]]}))
    code, _, err = invoke("enumerate", "--replay", str(path))
    assert code == 2 and "lightning" in err and "the agent is killed" in err
    assert invoke("enumerate", "--replay", str(tmp_path / "none.json"))[0] == 2


def test_the_longest_stories_come_first_and_all_are_there() -> None:
    assert {s.name for s in chosen([])} == {s.name for s in STORIES}
    assert chosen([])[0].events and not chosen([])[-1].events
    with pytest.raises(InputError):
        chosen(["success", "nobody"])


def test_the_heat_map_shows_every_cut_and_none_that_ends_in_neither(tmp_path: Path) -> None:
    path = tmp_path / "heat.html"
    code, out, _ = invoke("enumerate", "--only", "success", "--only", "crash", "--report", str(path))
    text = path.read_text(encoding="utf-8")
    assert code == 0 and str(path) in out
    total = sum(1 for name in ("success", "crash") for _ in landings(story(name)))
    assert f"{total:,} in all" in text and "rolling_back" in text and "start.spawn" in text
    assert text.count("#c0392b") == 1, "only the key names what never happens"
    assert invoke("enumerate", "--report", str(tmp_path / "no" / "heat.html"))[0] == 2


def test_every_kind_of_end_has_its_colour() -> None:
    def end(outcome: Outcome, runs: str | None, current: str | None = "v1") -> str:
        return kind_of(End(outcome, None, runs, current, None))

    assert end(Outcome.SUCCEEDED, "v2", "v2") == "new"
    assert end(Outcome.ROLLED_BACK, "v1") == "old"
    assert end(Outcome.FAILED, "v1") == "untouched"
    assert end(Outcome.FAILED, None) == end(Outcome.ROLLBACK_FAILED, None) == "nothing"
    assert end(Outcome.SUCCEEDED, None) == end(Outcome.SUCCEEDED, "v1", "v2") == "neither"
    assert end(Outcome.ROLLED_BACK, "v2") == end(Outcome.FAILED, "v2") == "neither"
    assert "&lt;" not in page([story("success")])


def test_mutants_are_killed_and_controls_live() -> None:
    code, out, _ = invoke(
        "mutants", "--only", "both_run", "--only", "blamed_for_a_cut", "--only", "other_words",
        "--only", "no_sync_after_the_commit", "--processes", "1", "--json",
    )  # fmt: skip
    told = json.loads(out)
    assert code == 0
    assert (told["planted"], told["killed"], told["survivors"]) == (2, 2, [])
    assert (told["controls"], told["controls_survived"]) == (1, 1)
    assert set(told["explained"]) == {"no_sync_after_the_commit"}
    rows = {row["name"]: row for row in told["table"]}
    assert rows["both_run"]["invariants"] == ["never_two_active"] and rows["both_run"]["depth"] == 0
    assert rows["blamed_for_a_cut"]["depth"] == 1 and rows["blamed_for_a_cut"]["states"] > 100


def test_a_mutant_that_lives_is_the_exit_code() -> None:
    dead, alive = Verdict("a", "updater", "", ("converges",)), Verdict("b", "updater", "")
    assert Mutated([dead], [alive]).exit_code() == 0
    assert Mutated([dead, alive]).exit_code() == 1
    assert Mutated([dead], [dead]).exit_code() == 1, "a control that is killed proves nothing of the others"
    assert Mutated([dead], explained=[dead]).exit_code() == 1
