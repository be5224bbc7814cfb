"""A current that passed its trial and its probation, and ends again and again: previous has its turns, too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import invariants
from reference.core.delivery import Memory
from reference.core.errors import Reason
from reference.core.model import Container, ContainerState, HealthState, ImageState, Phase, Policy, World
from reference.core.steps import Journal, Start, Stop
from reference.core.update import UpdateRecord, decide
from tests.core.engine import LIMITS, Behaviour, Cut, command, image, installed
from tests.core.world import Driver, device, ordered, updated

V1, V2 = image("v1").digest, image("v2").digest
CRASH = Behaviour(crashes=True)


def dying(*, starts: int) -> Driver:
    """v2 was installed over v1 and exits whenever it is started: so often it was started."""
    driver = updated()
    driver.engine.behaviours = {V2: CRASH}
    driver.engine.act(Stop("c2"))
    driver.run(until=lambda d, _s: d.restores == starts)
    return driver


def in_duty(*, previous: Behaviour | None = None) -> Driver:
    """The same until it was given up."""
    driver = dying(starts=LIMITS.fallback_attempts)
    if previous is not None:
        driver.engine.behaviours = {V1: previous, V2: CRASH}
    driver.steps(1)
    return driver


def versions(record: UpdateRecord) -> tuple[str | None, str | None]:
    """Current's and previous's."""
    return tuple(i.image.version if i is not None else None for i in (record.current, record.previous))  # type: ignore[return-value]


def test_current_is_given_up_after_so_many_starts_and_not_before() -> None:
    driver = dying(starts=LIMITS.fallback_attempts - 1)
    assert not driver.record.duty and driver.record.reason is None
    driver.run(until=lambda d, _s: d.restores == LIMITS.fallback_attempts)
    step, _ = driver.next_step()
    assert isinstance(step, Journal) and step.record.duty
    assert step.record.reason is Reason.CURRENT_FAILED
    assert step.record.message == f"v2 ended again after {LIMITS.fallback_attempts} starts"
    assert versions(step.record) == ("v2", "v1"), "it is still current: its turns come, too"


def test_previous_becomes_current_and_why_stays_to_be_told() -> None:
    driver = in_duty().run()
    assert driver.running() == ["v1"] and versions(driver.record) == ("v1", "v2")
    assert (driver.record.duty, driver.record.reason) == (False, Reason.CURRENT_FAILED)
    assert driver.record.message.startswith("v2 ended again")
    told = driver.memory.outbox
    assert [(r.job_id, r.reason) for r in told] == [("job-2", None)], "the job's own end stays as it was"


def test_current_that_recovers_is_current_and_nothing_is_left_to_tell() -> None:
    driver = in_duty(previous=CRASH)
    assert driver.record.duty
    driver.engine.behaviours = {V1: CRASH}
    driver.run()
    assert driver.running() == ["v2"] and versions(driver.record) == ("v2", "v1")
    assert (driver.record.duty, driver.record.reason, driver.record.message) == (False, None, "")


def test_both_have_their_turns_until_one_is_good() -> None:
    driver = in_duty(previous=CRASH)
    begun = len(driver.history)
    driver.run(until=lambda d, _s: len(d.history) > begun + 80)
    acts = [s for _, s in driver.history[begun:] if isinstance(s, Start)]
    names = [s.container_id for s in acts]
    assert {"c1", "c2"} == {name.partition("-")[0] for name in names}, names
    driver.engine.behaviours = {}
    driver.run()
    assert len(driver.running()) == 1 and not driver.record.duty


def test_the_version_that_came_back_is_not_on_the_other_ones_probation() -> None:
    """Without its image there was no falling back on probation; then the duty has fetched it."""
    driver = ordered({"v2": Behaviour(last_boot=1)}, policy=Policy(probation_ms=1000))
    driver.run(until=lambda d, _s: d.record.phase is Phase.IDLE and bool(d.outcomes))
    del driver.engine.images[V1]
    driver.cut(Cut.KEEP)
    driver.run(until=lambda d, _s: versions(d.record) == ("v1", "v2"))
    assert driver.record.reason is Reason.CURRENT_FAILED
    assert (driver.record.probation_left_ms, driver.record.boots, driver.record.boot_id) == (0, 0, None)


def test_one_stable_life_ends_the_count() -> None:
    driver = dying(starts=LIMITS.fallback_attempts - 1)
    driver.engine.behaviours = {}
    driver.run()
    assert driver.running() == ["v2"] and driver.restores == 0 and driver.record.reason is None


@pytest.mark.parametrize("kind", list(Cut))
def test_a_cut_in_the_duty_ends_in_the_old_version(kind: Cut) -> None:
    first = in_duty()
    length = len(first.fork().run().history) - len(first.history)
    for steps in range(length):
        driver = first.fork()
        driver.steps(steps)
        driver.cut(kind)
        driver.run()
        assert driver.running() == ["v1"], (kind, steps)


def test_without_a_previous_it_is_started_for_ever() -> None:
    driver = device({"v1": CRASH})
    driver.steps(100)
    assert driver.process.restores > LIMITS.fallback_attempts
    assert not driver.record.duty and driver.record.reason is None
    driver.engine.behaviours = {}
    assert driver.run().running() == ["v1"]


def test_a_current_that_runs_and_is_sick_is_left_alone() -> None:
    driver = updated()
    driver.engine.behaviours = {V2: Behaviour(bad_at=0)}
    before = driver.record
    driver.steps(100)
    assert driver.engine.containers[0].sick(installed(2, "v2").health)
    assert driver.record == before and driver.running() == ["v2"]
    assert not any(isinstance(s, Stop) for _, s in driver.history[-100:])


def test_a_new_command_forgets_that_current_failed() -> None:
    driver = in_duty().run()
    driver.tell(command(3, "v3"))
    driver.steps(1)
    assert (driver.record.phase, driver.record.reason) == (Phase.ACCEPTED, None)
    assert driver.run().running() == ["v3"]


# ---- what the invariants say of a current that is the candidate, too


def test_a_current_that_is_commanded_again_may_be_revived_before_the_switch() -> None:
    """After a lost journal the adopted version may be the one that is commanded again."""
    dead = Container("c1", 1, image("v1"), ContainerState.EXITED)
    world = World("b", (dead,), {V1: ImageState.PRESENT}, dirty=False)
    record = UpdateRecord("e", Phase.STAGED, 1, installed(1, "v1", "c1"), job=command(1, "v1"))
    step = decide(record, world, 0, LIMITS)
    assert step == Start("c1", trusted=True)
    assert invariants.every_step(Memory(record), step, world, LIMITS) == []
    running = replace(dead, state=ContainerState.RUNNING, health=HealthState.HEALTHY)
    stopped = invariants.stop_is_journaled(record, Stop("c1"), replace(world, containers=(running,)))
    assert [v.invariant for v in stopped] == ["stop_is_journaled"], "it is not to be stopped, though"
    other = replace(record, current=installed(0, "v0", "c0"))
    begun = invariants.stop_is_journaled(other, step, world)
    assert [v.invariant for v in begun] == ["stop_is_journaled"], "only as long as it is current"
