"""The search of random orders: the same seed does the same, every fault strikes, and what is broken is found."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.world.explore import Explorer
from reference.world.search.faults import FAULTS, Chance, Fault, Kind, draw, from_json
from reference.world.search.mutants import MUTANTS, Mutant
from reference.world.search.run import Result
from reference.world.search.seeds import Case, Search, case_from_json
from reference.world.search.shrink import ddmin
from reference.world.stories import story

ROOT = Path(__file__).parents[2]
SEEDS = 300
ONLY_HERE = ("any_answer_obeyed", "newer_acknowledged_too", "replaced_comes_back")


def stream(seed: int) -> Chance:
    return random.Random(seed).random


def named(name: str) -> Mutant:
    return next(m for m in MUTANTS if m.name == name)


@pytest.fixture(scope="module")
def played() -> list[Result]:
    search = Search(stream)
    return [search.seed(seed) for seed in range(SEEDS)]


# ---- the same again


def test_a_seed_does_the_same_whatever_was_played_before(played: list[Result]) -> None:
    fresh = Search(stream)
    again = [fresh.seed(seed) for seed in (7, 3, 250)]
    assert again == [played[7], played[3], played[250]]
    assert len({result.digest for result in played}) == SEEDS


def test_a_seed_does_the_same_in_another_process() -> None:
    """Also where sets and dictionaries of strings have another order."""
    script = (
        "from reference.world.search.seeds import Search\n"
        "from tests.world.test_search import MENDED, stream\n"
        "search = Search(stream)\n"
        "print([search.seed(seed).digest.hex() for seed in range(12)])\n"
        "print([search.play(faults).digest.hex() for faults in MENDED.values()])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": order},
            text=True, capture_output=True, timeout=120, check=True,
        ).stdout
        for order in ("1", "2", "3")
    }  # fmt: skip
    search = Search(stream)
    seeds = [search.seed(seed).digest.hex() for seed in range(12)]
    assert said == {f"{seeds}\n{[search.play(faults).digest.hex() for faults in MENDED.values()]}\n"}


# ---- what happens in it


def test_every_fault_has_an_effect_and_nothing_breaks(played: list[Result]) -> None:
    fired: Counter[Kind] = Counter()
    ends: Counter[str] = Counter()
    for result in played:
        fired.update(result.fired)
        ends.update(result.ends)
    assert [r.violations for r in played if r.violations] == []
    assert [kind.value for kind in FAULTS if not fired[kind]] == []
    assert {"succeeded", "failed", "rolled_back", "REJECTED", "TIMED_OUT", "CANCELED", "FAILED"} <= set(ends)


def test_a_job_without_faults_succeeds() -> None:
    result = Search(stream).play([Fault(Kind.ORDER, 3, 0, 0)])
    assert (result.violations, dict(result.ends), dict(result.fired)) == ((), {"succeeded": 1}, {})


ORDER, CUT, LOST, NEW = Kind.ORDER, Kind.POWER_CUT, Kind.JOURNAL_LOST, Kind.NEW_ORDER
MENDED: dict[str, Sequence[Fault]] = {
    "adopted_image": [
        Fault(ORDER, 1, 1, 6), Fault(CUT, 16, 1, 137380, 272495), Fault(LOST, 28, 1, 0, 2),
        Fault(NEW, 28, 1, 4), Fault(ORDER, 34, 1, 0),
    ],
    "locked_out": [
        Fault(ORDER, 2, 0), Fault(LOST, 4, 0), Fault(Kind.BIRTH_LATE, 4, 0, 8), Fault(LOST, 6, 0),
    ],
    "images_stay": [
        Fault(ORDER, 2, 1, 1), Fault(NEW, 16, 1, 0), Fault(Kind.COMMAND_REORDERED, 36, 1, 131568),
        Fault(NEW, 36, 1, 6), Fault(NEW, 39, 1, 7), Fault(CUT, 44, 1, 435372, 153306), Fault(ORDER, 47, 1, 0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
def test_what_was_mended_stays_so(name: str) -> None:
    result = Search(stream).play(MENDED[name])
    assert result.violations == ()


def test_a_journal_that_is_lost_on_trial_leaves_nothing_unhealthy() -> None:
    result = Search(stream).play([Fault(ORDER, 3, 0, 6), Fault(LOST, 12, 0)])
    assert (result.violations, result.fired[LOST]) == ((), 1)


# ---- it can fail


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    faults = draw(stream(mutant.seed))
    found = Search(stream, mutant.sides).play(faults).violations
    assert mutant.killed_by in {v.invariant for v in found}, "the draw has changed? Name another seed"
    assert Search(stream).play(faults).violations == (), "nothing else kills"


@pytest.mark.parametrize("name", ONLY_HERE)
def test_what_fails_is_found_made_small_and_plays_again(name: str) -> None:
    mutant = named(name)
    search = Search(stream, mutant.sides)
    seed = next(seed for seed in range(2 * SEEDS) if search.seed(seed).violations)
    case = search.shrunk(seed)
    assert case.violations[0].invariant == mutant.killed_by
    assert 0 < len(case.faults) <= 6 < len(search.faults(seed))
    again = case_from_json(json.loads(json.dumps(case.to_json())), "there")
    assert again == case
    assert Search(stream, mutant.sides).play(again.faults).violations == case.violations
    assert Search(stream).play(again.faults).violations == ()
    for gone in range(len(case.faults)):
        fewer = case.faults[:gone] + case.faults[gone + 1 :]
        assert mutant.killed_by not in {v.invariant for v in search.play(fewer).violations}, "none is idle"


@pytest.mark.parametrize("name", ["any_answer_obeyed", "installed_not_asked", "newer_acknowledged_too"])
def test_the_enumeration_cannot_tell(name: str) -> None:
    """Where messages come in good order, with one fault among them and one cut, these make no difference."""
    for place in ("success", "corrupt_journal"):
        told = story(place)
        explored = Explorer(told, told.machine(rules=named(name).sides.device), cuts=1).run()
        assert (explored.found, explored.closed) == ([], False)


def test_a_seed_that_does_not_fail_is_not_made_small() -> None:
    with pytest.raises(ValueError, match="seed 0 does not fail"):
        Search(stream).shrunk(0)


# ---- fewer


def test_ddmin_keeps_what_is_needed_in_its_order() -> None:
    asked: list[int] = []

    def fails(items: Sequence[int]) -> bool:
        asked.append(len(items))
        return {3, 11, 17} <= set(items)

    assert ddmin(range(20), fails) == (3, 11, 17)
    assert len(asked) < 100


def test_ddmin_of_one_and_of_none() -> None:
    assert ddmin([1, 2, 3], lambda items: 2 in items) == (2,)
    assert ddmin([1, 2, 3], lambda items: True) == ()
    with pytest.raises(ValueError, match="do not fail"):
        ddmin([1, 2, 3], lambda items: False)


# ---- files


def test_a_list_is_written_and_read() -> None:
    faults = draw(stream(5))
    assert from_json(json.loads(json.dumps([f.to_json() for f in faults])), "there") == faults


GOOD_FAULT = Fault(Kind.ORDER, 3, 0).to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "earthquake"}, "fault 1: there is no fault 'earthquake'"),
        ({"device": 5}, "fault 1: device has to be below 5"),
        ({"at": "soon"}, "fault 1: at has to be a number"),
        ({"n": True}, "fault 1: n has to be a number"),
        ({"m": -1}, "fault 1: m has to be a number"),
        ({"m": 2**40}, "fault 1: m has to be a number"),
    ],
)
def test_a_bad_fault_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_json([{**GOOD_FAULT, **change}], "there")


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, {"format": "something else"},
        {**Case(1, (), ()).to_json(), "seed": "one"},
        {**Case(1, (), ()).to_json(), "faults": "many"},
        {**Case(1, (), ()).to_json(), "faults": ["one"]},
        {**Case(1, (), ()).to_json(), "violations": [{"invariant": 3}]},
        {**Case(1, (), ()).to_json(), "violations": None},
    ],
)  # fmt: skip
def test_a_foreign_file_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="there"):
        case_from_json(value, "there")
