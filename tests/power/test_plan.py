"""The cuts that a number and a seed name."""

from __future__ import annotations

import pytest

from reference.core.model import Phase
from reference.power.plan import plan
from reference.power.stories import STORIES


@pytest.mark.parametrize("cuts", [1, 2, 7, 12, 60, 1000])
def test_seventy_in_a_hundred_come_at_a_random_moment(cuts: int) -> None:
    found = plan(cuts, 1)
    at_random = [one for one in found if one.phase is None]
    assert len(found) == cuts
    assert len(at_random) * 10 >= cuts * 7
    assert not any(one.held or one.late_ms for one in at_random), "nothing is held up for them"


def test_a_seed_names_its_cuts_and_one_more_shifts_none() -> None:
    assert plan(60, 7) == plan(60, 7)
    assert plan(60, 7) != plan(60, 8)
    few = {one.number: one for one in plan(40, 7) if one.phase is None}
    many = {one.number: one for one in plan(60, 7) if one.phase is None}
    assert few.items() <= many.items()


def test_sixty_cuts_name_each_phase_in_a_story_that_passes_it() -> None:
    found = [one for one in plan(60, 1) if one.phase is not None]
    assert {one.phase for one in found if one.held} == set(Phase)
    assert all(one.phase in STORIES[one.story].phases for one in found)


def test_random_moments_are_spread_over_the_whole_story() -> None:
    moments = [one.moment for one in plan(1000, 3) if one.phase is None]
    tenths = [sum(n / 10 <= moment < (n + 1) / 10 for moment in moments) for n in range(10)]
    assert sum(tenths) == 700
    assert all(40 <= count <= 100 for count in tenths), tenths


def test_every_story_is_told() -> None:
    assert {one.story for one in plan(60, 1)} == set(STORIES)
