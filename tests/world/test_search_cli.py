"""`blackstart crash search`: what it says, writes and plays again, and the exit code it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reference.cli import search as searching
from reference.core.errors import InputError
from reference.world.search.faults import FAULTS
from reference.world.search.mutants import MUTANTS
from reference.world.search.seeds import Case, Search
from tests.cli.test_commands import blackstart, refused


def test_json_is_the_same_in_any_number_of_processes(tmp_path: Path) -> None:
    told = []
    for processes in ("1", "2"):
        done = blackstart(tmp_path, "crash", "search", "--seeds", "24", "--processes", processes, "--json")
        told.append(json.loads(done.stdout))
    one, two = told
    assert (one["seeds"], one["violations"], one["processes"], two["processes"]) == (24, [], 1, 2)
    assert one["seeds_per_s"] > 0
    assert set(one["fired"]) == {kind.value for kind in FAULTS}
    assert one["fired"] == two["fired"] and sum(one["fired"].values()) > 24
    assert one["trace_hash"] == two["trace_hash"]
    other = blackstart(tmp_path, "crash", "search", "--seeds", "24", "--seed-base", "1", "--json")
    assert json.loads(other.stdout)["trace_hash"] != one["trace_hash"]


def test_people_are_told(tmp_path: Path) -> None:
    done = blackstart(tmp_path, "crash", "search", "--seeds", "3", "--processes", "1")
    assert "0 of 3 seeds fail (0 to 2)" in done.stdout
    assert all(kind.value in done.stdout for kind in FAULTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "0 seeds cannot be played"),
        (["--seeds", "-3"], "-3 seeds cannot be played"),
        (["--seed-base", "-1"], "there is no seed -1"),
        (["--processes", "0"], "0 processes cannot be started"),
        (["--save", "file"], "is no folder"),
        (["--replay", "missing.json"], "cannot be read"),
        (["--replay", "."], "cannot be read"),
        (["--replay", "file"], "is no JSON"),
        (["--replay", "foreign.json"], "is no file of this search"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "file").write_bytes(b"\xff\x00 nothing")
    (tmp_path / "foreign.json").write_text('{"seed": 1}')
    assert words in refused(tmp_path, "crash", "search", *arguments)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Search:
    mutant = next(m for m in MUTANTS if m.name == "phase_of_the_last_heard")
    search = Search(searching.stream, mutant.sides)
    monkeypatch.setattr(searching, "_search", lambda: search)
    return search


def test_a_failing_seed_is_written_down_and_plays_again(
    broken: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "found"
    assert searching.run(3, 0, 1, folder, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    first = told["violations"][0]
    assert first["seed"] == 0 and first["violations"][0]["invariant"] == "newest_counts"
    path = Path(first["file"])
    assert path == folder / "crash-search-0.json"
    written = json.loads(path.read_text())
    assert written["faults"] == first["faults"] and written["violations"] == first["violations"]

    assert searching.replay(path, as_json=False) == 1
    shown = capsys.readouterr().out
    device = written["faults"][0]["device"]
    assert f"device {device}  hears command 2 (job-1" in shown
    assert "VIOLATED newest_counts" in shown
    assert searching.replay(path, as_json=True) == 1
    played = json.loads(capsys.readouterr().out)
    assert played["violations"] == played["expected"] == written["violations"]
    assert any("VIOLATED" in line for line in played["trace"])

    monkeypatch.undo()
    assert searching.replay(path, as_json=False) == 0
    assert "nothing is wrong any more; it was newest_counts" in capsys.readouterr().out


def test_people_are_told_how_to_play_it_again(
    broken: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert searching.run(60, 0, 1, tmp_path, as_json=False) == 1
    said = capsys.readouterr().out.replace("\n", " ")
    assert "seed 0 breaks newest_counts" in said
    assert "--replay" in said and "and so do more seeds" in said
    assert len(list(tmp_path.iterdir())) == searching.SHRUNK


def test_what_cannot_be_written_is_said(broken: Search, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written down"):
        searching.run(1, 0, 1, tmp_path / "file" / "below", as_json=True)


def test_a_file_without_faults_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.json"
    path.write_text(json.dumps(Case(1, (), ()).to_json()))
    assert searching.replay(path, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["violations"] == []
