"""It can fail: each mutant breaks one rule of the updater, and is killed by the invariant or outcome named here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from reference.core import delivery, invariants
from reference.core.delivery import Memory, Verdict
from reference.core.job import JobStatus
from reference.core.limits import Limits
from reference.core.model import Container, HealthState, Outcome, Phase, World
from reference.core.steps import (
    Journal,
    PrepareSnapshot,
    RemoveImage,
    RestoreSnapshot,
    Snapshot,
    Start,
    Step,
    Sync,
)
from reference.core.update import UpdateRecord, decide
from reference.world.explore import Explorer
from reference.world.machine import Rules
from reference.world.stories import story
from tests.core.engine import LIMITS, Behaviour, Cut, command
from tests.core.world import Decide, Driver, ViolatedError, device, ordered


def window_skipped(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """One good probe is enough."""

    def proved(c: Container) -> Container:
        return replace(c, healthy_ms=10**6) if c.health is HealthState.HEALTHY else c

    return decide(record, replace(world, containers=tuple(map(proved, world.containers))), now_ms, limits)


def stop_not_journaled(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The switch is made from `staged`: nothing on the disk says so."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.phase is Phase.SWITCHING:
        return decide(step.record, world, now_ms, limits)
    return step


def old_image_deleted_early(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """Space is made as soon as the old version has stopped."""
    current = record.current
    if record.phase is Phase.VERIFYING and current is not None and current.image.digest in world.images:
        return RemoveImage(current.image.digest)
    return decide(record, world, now_ms, limits)


def no_sync_before_a_start(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """What is to be started may not be on the disk."""
    step = decide(record, world, now_ms, limits)
    after = decide(record, replace(world, dirty=False), now_ms, limits)
    return after if isinstance(step, Sync) and isinstance(after, Start) else step


def no_sync_before_the_switch(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """No sync of engine data before the switch is journaled."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Sync) and record.phase in (Phase.PULLING, Phase.STAGED):
        return decide(record, replace(world, dirty=False), now_ms, limits)
    return step


def boots_not_counted(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A trial that reboots the device for ever goes on for ever."""
    return decide(replace(record, boot_id=world.boot_id), world, now_ms, limits)


def success_without_a_trial(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The trial is over once the candidate has started."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Journal) and step.record.phase is Phase.VERIFYING:
        return Journal(replace(step.record, phase=Phase.CLEANING_UP, outcome=Outcome.SUCCEEDED))
    return step


def volume_not_restored(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The old version is started on what the candidate has made of the volume."""
    step = decide(record, world, now_ms, limits)
    blind = replace(world, snapshots={})
    return decide(record, blind, now_ms, limits) if isinstance(step, RestoreSnapshot) else step


def copied_too_early(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The copy is made while the old version still writes."""
    step = decide(record, world, now_ms, limits)
    return Snapshot(step.generation) if isinstance(step, PrepareSnapshot) else step


def never_copied(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The candidate is started without a copy."""
    step = decide(record, world, now_ms, limits)
    if isinstance(step, Snapshot) and record.job is not None:
        plain = replace(record.job, policy=replace(record.job.policy, snapshot=False))
        return decide(replace(record, job=plain), world, now_ms, limits)
    return step


def hold_ignored(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """An operator's hold is nobody's business."""
    return decide(record, replace(world, hold=False), now_ms, limits)


def lock_ignored(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """The switch begins whoever has taken the lock."""
    return decide(record, replace(world, locked_ms=None), now_ms, limits)


def lock_for_ever(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """A lock that is never given back is waited for without a bound."""
    locked = None if world.locked_ms is None else min(world.locked_ms, 1)
    return decide(record, replace(world, locked_ms=locked), now_ms, limits)


def probation_without_end(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
    """What was survived is never written down."""
    return decide(record, replace(world, survived_ms=0), now_ms, limits)


@dataclass(frozen=True)
class Mutant:
    decide: Decide
    story: str
    killed_by: str
    cuts: int = 0


MUTANTS = [
    Mutant(window_skipped, "dies_in_window", "success_proved"),
    Mutant(stop_not_journaled, "success", "stop_is_journaled"),
    Mutant(old_image_deleted_early, "success", "current_kept"),
    Mutant(no_sync_before_a_start, "success", "synced_before_start"),
    Mutant(no_sync_before_the_switch, "success", "expected_outcome", cuts=1),
    Mutant(success_without_a_trial, "success", "success_proved"),
    Mutant(volume_not_restored, "bad_migration", "volume_whole"),
    Mutant(copied_too_early, "snapshot", "volume_whole"),
    Mutant(never_copied, "snapshot", "volume_whole"),
    Mutant(hold_ignored, "held", "hold_honoured"),
    Mutant(lock_ignored, "locked", "lock_honoured"),
    Mutant(lock_for_ever, "locked", "converges"),
    Mutant(probation_without_end, "probation", "converges"),
]


def explored(name: str, rules: Rules, cuts: int) -> set[str]:
    """Names of what was broken in the story under these rules; empty when nothing was."""
    played = story(name)
    return set(Explorer(played, played.machine(rules=rules), cuts=cuts, faults=0).run().killers)


def killers(run: Callable[[], object]) -> set[str]:
    """The same of a driver's run."""
    try:
        run()
    except ViolatedError as error:
        return error.names
    return set()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.decide.__name__)
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    assert mutant.killed_by in explored(mutant.story, Rules(decide=mutant.decide), mutant.cuts)
    assert explored(mutant.story, Rules(), mutant.cuts) == set(), "nothing else kills"


def test_a_window_that_is_skipped_is_seen_on_a_good_version_too() -> None:
    assert explored("success", Rules(decide=window_skipped), 0) == {"success_proved"}


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
    assert reboots(boots_not_counted) == 20


def test_success_reported_early_is_seen() -> None:
    def early(memory: Memory, record: UpdateRecord) -> Memory:
        memory = delivery.advance(memory, record)
        if record.phase is not Phase.VERIFYING:
            return memory
        claimed = (replace(r, status=JobStatus.SUCCEEDED, outcome=Outcome.SUCCEEDED) for r in memory.outbox)
        return replace(memory, outbox=tuple(claimed))

    driver = ordered()
    driver.advance = early
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
