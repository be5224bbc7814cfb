"""The explorer: it goes everywhere, always the same way, and what it accepts it accepts for a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from reference.core.errors import Reason
from reference.core.limits import Limits
from reference.core.model import Outcome, World
from reference.core.record import UpdateRecord
from reference.core.steps import Step, Wait
from reference.core.update import decide
from reference.world.atoms import Atom
from reference.world.engine import Boot
from reference.world.events import prune
from reference.world.explore import Explored, Explorer
from reference.world.machine import Rules
from reference.world.nouns import LIMITS
from reference.world.stories import SNAPSHOT, STEADY, STORIES, story
from reference.world.story import Ending, Story


def explored(played: Story, rules: Rules | None = None, **bounds: int) -> Explored:
    bounds = {"cuts": 1, "faults": 0} | bounds
    return Explorer(played, played.machine(rules=rules), **bounds).run()  # type: ignore[arg-type]


# ---- it goes everywhere


def test_every_atom_occurs_and_is_cut_somewhere() -> None:
    """With one cut in each story; those that come after all of them were met are left to others."""
    occurred: set[Atom] = set()
    was_cut: set[Atom] = set()
    for played in sorted(STORIES, key=lambda s: bool(s.later)):  # those are the longest ones
        found = explored(played)
        assert found.atoms_cut <= found.atoms
        occurred |= found.atoms
        was_cut |= found.atoms_cut
        if was_cut == set(Atom):
            break
    assert occurred == was_cut == set(Atom)


def test_more_cuts_and_more_faults_lead_further() -> None:
    played = story("first_install")
    states = [explored(played, cuts=cuts).states for cuts in range(4)]
    assert states == sorted(set(states)), "each depth has states of its own"
    assert explored(played, cuts=1, faults=1).states > states[1]
    assert explored(played, cuts=0).cuts == 0


def test_without_a_bound_it_goes_on_until_nothing_is_new() -> None:
    found = explored(story("pull_image_unknown"), cuts=None)  # type: ignore[arg-type]
    assert found.closed and found.found == []
    deeper = explored(story("pull_image_unknown"), cuts=found.depth + 3)
    assert deeper.states == found.states


def test_a_bound_on_states_is_not_the_end() -> None:
    """What is left then is not closed."""
    part = explored(replace(story("success"), boots=STEADY), cuts=None, most_states=500)  # type: ignore[arg-type]
    assert part.states > 500 and not part.closed


# ---- always the same way


@pytest.mark.parametrize(
    ("name", "cuts", "faults"), [("success", 1, 1), ("corrupt_journal", 1, 0), ("crash", 2, 0)]
)
def test_two_runs_see_the_same(name: str, cuts: int, faults: int) -> None:
    one, two = (explored(story(name), cuts=cuts, faults=faults) for _ in range(2))
    assert one == two and one.states > 1000


def test_what_is_found_is_found_in_the_same_order() -> None:
    one, two = (explored(story("success"), Rules(journal_synced=False)) for _ in range(2))
    assert one.found and one == two


def test_the_hashes_of_a_process_decide_nothing() -> None:
    code = (
        "from reference.world.explore import Explorer; from reference.world.stories import story\n"
        "for name in ('success', 'bad_migration', 'corrupt_journal'):\n"
        "    found = Explorer(story(name), story(name).machine(), cuts=1, faults=0).run()\n"
        "    print(name, found.states, found.cuts, found.depth, sorted(found.atoms))\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
            check=True, timeout=120,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1 and b"success" in told.pop()


# ---- what it accepts


def test_an_end_that_the_story_does_not_allow_is_seen() -> None:
    wrong = replace(story("success"), endings=(Ending({"job-2": (Outcome.FAILED, None)}, ("v1",)),))
    found = explored(wrong, cuts=0)
    assert found.killers.keys() == {"expected_outcome"}
    runs_another = replace(story("success"), endings=(Ending({"job-2": (Outcome.SUCCEEDED, None)}, ("v1",)),))
    assert explored(runs_another, cuts=0).killers.keys() == {"expected_outcome"}


def test_only_so_many_violations_are_told() -> None:
    rules = Rules(journal_synced=False)
    assert len(explored(story("success"), rules, most_found=1).found) == 1
    assert len(explored(story("success"), rules, most_found=3).found) == 3


def test_one_boot_more_than_a_trial_lives_through_may_roll_back_and_no_boot_less() -> None:
    """With K cuts every end is the story's; with one more `too_many_boots` is forgiven, and nothing else is."""
    steady = replace(story("success"), boots=(Boot.PLAIN,))
    assert explored(steady, cuts=LIMITS.boots).found == []
    assert explored(steady, cuts=LIMITS.boots + 1).found == []
    impatient = replace(LIMITS, boots=LIMITS.boots - 1)

    def early(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
        return decide(record, world, now_ms, impatient)

    found = explored(steady, Rules(decide=early), cuts=LIMITS.boots).found
    assert found, "a trial that lives through K - 1 boots only is seen with K cuts"
    assert {v.invariant for f in found for v in f.violations} == {"expected_outcome"}
    assert all(Reason.TOO_MANY_BOOTS in v.detail for f in found for v in f.violations)


def test_a_duty_without_an_end_is_accepted_where_nothing_can_be_healthy_only() -> None:
    hopeless = story("both_bad")
    assert explored(hopeless).found == []
    assert explored(replace(hopeless, hopeless=False), cuts=0).killers.keys() == {"converges"}

    def idles(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
        return Wait(50, "for ever")

    assert explored(hopeless, Rules(decide=idles), cuts=0).killers, "and it has to be the duty"


def test_strangers_are_not_held_against_the_updater() -> None:
    pruned = replace(story("image_pruned"), events=(prune("v1"),))
    assert pruned.strangers and explored(pruned).found == []
    assert "trusted_survives" in explored(replace(pruned, strangers=False)).killers


def test_a_copy_that_is_never_restored_is_seen_in_the_volume() -> None:
    """The model's volume is no decoration: a version that finds a foreign format exits."""
    played = replace(story("bad_migration"), orders=tuple(replace(o, policy=replace(SNAPSHOT, snapshot=False)) for o in story("bad_migration").orders))  # fmt: skip
    assert explored(played, cuts=0).found, "without the copy the old version does not come back"
