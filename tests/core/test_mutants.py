"""It can fail: each mutant of the table breaks one rule, and is killed by an invariant. The drivers' tests can fail, too.

The whole table is `blackstart crash mutants`; those that take longer than a moment are judged there only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reference.core import delivery, invariants
from reference.core.delivery import Verdict
from reference.core.model import Phase
from reference.core.steps import Start
from reference.core.update import decide
from reference.world.mutants import talk, updater
from reference.world.mutants.judge import Baseline, Mutant, judge
from reference.world.mutants.table import MUTANTS
from tests.core.engine import LIMITS, Behaviour, Cut, command
from tests.core.world import Decide, Driver, ViolatedError, device, ordered

KILLED_BY = {
    "window_skipped": "success_proved",
    "switch_not_journaled": "stop_is_journaled",
    "old_image_removed_early": "current_kept",
    "no_sync_before_a_start": "synced_before_start",
    "no_sync_before_the_switch": "expected_outcome",
    "success_without_a_trial": "success_proved",
    "volume_not_restored": "volume_whole",
    "copied_too_early": "volume_whole",
    "never_copied": "volume_whole",
    "hold_ignored": "hold_honoured",
    "lock_ignored": "lock_honoured",
    "lock_for_ever": "converges",
    "probation_without_end": "converges",
    "both_run": "never_two_active",
    "boots_not_counted": "bounded",
    "clean_at_the_start": "clean_is_settled",
    "journal_not_synced": "trusted_survives",
    "success_told_early": "status_not_ahead",
    "end_forgotten": "service_agrees",
    "dedupe_off": "generations_rise",
}
"""Each invariant by one at least, and no other way of dying will do."""
SLOW = {
    "boots_counted_early", "boots_of_the_last_job", "policies_left", "adopted_with_a_floor",
}  # fmt: skip
BASELINE = Baseline()


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name not in SLOW], ids=lambda m: m.name)
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    verdict = judge(mutant, BASELINE)
    assert verdict.killed, "and production is not, in the same story at the same depth"
    assert KILLED_BY.get(mutant.name, verdict.by[0]) in verdict.by


def test_what_is_named_here_is_in_the_table() -> None:
    assert KILLED_BY.keys() | SLOW <= {m.name for m in MUTANTS}


def killers(run: Callable[[], object]) -> set[str]:
    """Names of what a run of a driver breaks; empty when nothing is."""
    try:
        run()
    except ViolatedError as error:
        return error.names
    return set()


def test_boots_that_are_not_counted_are_seen() -> None:
    """A candidate that takes the device down with it: bounded by K boots, with the mutant by nothing."""

    def reboots(mutant: Decide) -> int:
        driver = ordered({"v2": Behaviour(healthy_at=None)})
        driver.decide = mutant
        boots = 0
        while driver.record.phase is not Phase.ROLLING_BACK and boots < 20:
            step, _ = driver.next_step()
            driver.take(step)
            if isinstance(step, Start):
                driver.cut(Cut.KEEP)
                boots += 1
        return boots

    assert reboots(decide) == LIMITS.boots + 1
    assert reboots(updater.boots_not_counted) == 20


def test_success_reported_early_is_seen() -> None:
    driver = ordered()
    driver.advance = talk.success_told_early
    assert killers(driver.run) == {"status_not_ahead"}


def forgetful(driver: Driver, generation: int, version: str) -> Verdict:
    """`receive` with the floor forgotten and nothing remembered of what ended: dedupe is off."""
    order = command(generation, version)
    record = replace(driver.record, floor=0)
    blank = replace(driver.memory, record=record, outbox=(), finished=())
    driver.memory, verdict = delivery.receive(blank, order, 0, driver.limits)
    return verdict


def test_dedupe_off_is_seen() -> None:
    driver = device({"v2": Behaviour(crashes=True)})
    driver.tell(command(2, "v2"))
    driver.run()
    honest = driver.fork()
    assert honest.tell(command(2, "v2")) is Verdict.DUPLICATE
    assert killers(honest.run) == set()
    assert forgetful(driver, 2, "v2") is Verdict.ACCEPTED
    assert killers(driver.run) == {"one_install_per_generation"}


def test_a_floor_that_is_ignored_is_seen() -> None:
    driver = device()
    driver.tell(command(3, "v3"))
    driver.run()
    honest, before = driver.fork(), driver.record
    assert honest.tell(command(2, "v2")) is Verdict.REJECTED
    assert killers(honest.run) == set()
    assert forgetful(driver, 2, "v2") is Verdict.ACCEPTED
    assert {v.invariant for v in invariants.generations_rise(before, driver.record)} == {"generations_rise"}
    assert killers(driver.run) == {"one_install_per_generation"}
