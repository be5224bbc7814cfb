"""Every story, cut everywhere: the end is the same as without cuts, and every invariant holds on the way."""

from __future__ import annotations

import pytest

from reference.core.errors import Reason
from reference.core.model import Outcome, Phase
from tests.core.engine import LIMITS, Cut
from tests.core.explore import STORIES, Explorer, Story, ordered
from tests.core.world import in_phase


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.name)
def test_ends_as_expected_without_a_cut(story: Story) -> None:
    assert Explorer(story, 0).run() >= 6


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.name)
def test_ends_as_expected_with_two_cuts_anywhere(story: Story) -> None:
    alone, twice = Explorer(story, 0).run(), Explorer(story, 2).run()
    assert twice > 5 * alone, "the cuts led nowhere new, so they were not made"


@pytest.mark.parametrize("kind", [k for k in Cut if k is not Cut.AGENT])
def test_a_good_version_survives_k_boots(kind: Cut) -> None:
    good = next(s for s in STORIES if s.name == "success")
    assert Explorer(good, LIMITS.boots, (kind,)).run() > 100


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


def test_boots_before_the_switch_are_not_counted() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.PULLING))
    for _ in range(LIMITS.boots + 3):
        driver.cut(Cut.LOSE)
        driver.steps(1)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
