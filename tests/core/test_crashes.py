"""Every story, cut everywhere: it ends in one of its ends, and every invariant holds on the way.

Deeper than here it is `blackstart crash enumerate`'s business.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core.errors import Reason
from reference.core.model import Outcome, Phase, Policy
from reference.core.update import decide
from reference.world.engine import boots
from reference.world.explore import Explored, Explorer
from reference.world.machine import Rules
from reference.world.stories import STEADY, STORIES, story
from reference.world.story import Story
from tests.core.engine import LIMITS, Cut
from tests.core.world import in_phase, ordered

QUICK = ("success", "first_install", "pull_disk_full")


def explored(story: Story, cuts: int, faults: int = 0) -> Explored:
    """The whole story with so many cuts, and nothing wrong with it."""
    found = Explorer(story, story.machine(), cuts=cuts, faults=faults).run()
    assert found.found == []
    return found


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.name)
def test_ends_as_it_may_with_one_cut_anywhere(story: Story) -> None:
    alone, once = explored(story, 0), explored(story, 1)
    assert alone.states >= 6 and alone.cuts == 0
    assert once.cuts > 20 and once.states > alone.states, "the cuts led nowhere new, so they were not made"
    assert once.atoms_cut == alone.atoms, "it was cut at every atom"


@pytest.mark.parametrize("name", QUICK)
def test_ends_as_it_may_with_two_cuts_anywhere(name: str) -> None:
    once, twice = explored(story(name), 1), explored(story(name), 2)
    assert twice.cuts > once.cuts and twice.states > once.states


@pytest.mark.parametrize("name", QUICK)
def test_ends_as_it_may_with_a_message_that_goes_astray(name: str) -> None:
    assert explored(story(name), 1, faults=1).states > explored(story(name), 1).states


def test_a_good_version_survives_k_boots() -> None:
    assert [e.ends for e in story("success").endings] == [{"job-2": (Outcome.SUCCEEDED, None)}]
    # A first pull that fails after each boot is not held against a version, but uses up the tries of its pull.
    steady = replace(story("success"), boots=STEADY)
    assert explored(steady, LIMITS.boots).states > 1000


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.VERIFYING])
def test_one_boot_more_rolls_back(phase: Phase) -> None:
    driver = ordered()
    for _ in range(LIMITS.boots + 1):
        driver.run(until=in_phase(phase))
        driver.take(driver.next_step()[0])
        driver.cut(Cut.KEEP)
        if phase is Phase.SWITCHING:
            driver.take(driver.next_step()[0])  # The boot is counted even if nothing else is ever reached.
            driver.cut(Cut.AGENT)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.ROLLED_BACK, Reason.TOO_MANY_BOOTS)}
    assert driver.running() == ["v1"]


@pytest.mark.parametrize("kind", list(Cut))
def test_boots_before_the_switch_are_not_counted(kind: Cut) -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.PULLING))
    for _ in range(LIMITS.boots + 3):
        driver.cut(kind)
        driver.steps(1)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


@pytest.mark.parametrize("kind", [k for k in Cut if k is not Cut.AGENT])
def test_what_a_cut_by_name_leaves_is_one_of_all_that_a_cut_may_leave(kind: Cut) -> None:
    """So that no test here boots a device into what no device can boot into."""
    driver = ordered(policy=Policy(snapshot=True))
    left = set()
    while not driver.outcomes:
        after = driver.fork()
        after.cut(kind)
        possible = {engine for _, engine in boots(driver.engine.setting, driver.engine.state)}
        assert after.engine.state in possible
        left.add(after.engine.state)
        driver.steps(1)
    assert len(left) > 5


def test_production_is_what_is_driven() -> None:
    assert Rules().decide is decide
