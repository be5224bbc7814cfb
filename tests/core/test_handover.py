"""Handover by overlap: the order of its steps, what it falls back to, and what it must never do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import handover
from reference.core.errors import Reason
from reference.core.invariants import ready_before_the_stop
from reference.core.model import ContainerState, Handover, HealthState, Outcome, Phase, Policy, SnapshotState
from reference.core.steps import Journal, RestartEngine, SetRestartPolicy, Start, Step, Stop, Sync, Wait
from tests.core.engine import LIMITS, Behaviour, Cut
from tests.core.world import Driver, about_to, in_phase, ordered

OVERLAP = Policy(handover=Handover.OVERLAP)
WAITS = Behaviour(overlaps=True)
SICK = Behaviour(overlaps=True, healthy_at=None)


def begun(v1: Behaviour = WAITS, v2: Behaviour = WAITS, policy: Policy = OVERLAP) -> Driver:
    """A device that is to go from v1 to v2, just before it switches."""
    driver = ordered({"v1": v1, "v2": v2}, policy=policy)
    driver.run(until=in_phase(Phase.SWITCHING))
    return driver


def acts(driver: Driver, *phases: Phase) -> list[Step]:
    """What was done in these phases, each once, waits and journals aside."""
    done = [s for p, s in driver.history if p in phases and not isinstance(s, Journal | Wait | Sync | Cut)]
    return [s for s in done if isinstance(s, Start | Stop | RestartEngine)]


def test_the_next_one_stands_by_before_the_old_one_goes() -> None:
    driver = begun()
    driver.run()
    assert acts(driver, Phase.SWITCHING) == [Start("c2"), Stop("c1")]
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)} and driver.running() == ["v2"]


def test_the_policies_are_off_on_both_before_two_run() -> None:
    driver = begun()
    driver.run(until=about_to(Start))
    before = [s for p, s in driver.history if p is Phase.SWITCHING and isinstance(s, SetRestartPolicy)]
    assert set(before) == {SetRestartPolicy("c1", "no")}, "the new one was made with it"
    assert all(c.restart_policy == "no" for c in driver.engine.containers)


def test_standing_by_is_no_part_of_the_trial() -> None:
    driver = begun()
    driver.run(until=in_phase(Phase.VERIFYING))
    (candidate,) = [c for c in driver.engine.containers if c.running]
    assert (candidate.standby, candidate.healthy_ms, candidate.up_ms) == (False, 0, 0)


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (Behaviour(overlaps=True, ready_at=None), Reason.CANDIDATE_NEVER_HEALTHY),
        (Behaviour(overlaps=True, dies_waiting_at=10), Reason.CANDIDATE_EXITED),
        (Behaviour(overlaps=True, crashes=True), Reason.CANDIDATE_EXITED),
        (Behaviour(overlaps=True, refused=True), Reason.START_REFUSED),
    ],
)
def test_what_never_stands_by_leaves_the_client_alone(does: Behaviour, reason: Reason) -> None:
    driver = begun(v2=does)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.ROLLED_BACK, reason)} and driver.running() == ["v1"]
    assert Stop("c1") not in acts(driver, *Phase)
    assert RestartEngine() not in acts(driver, *Phase), "that might have ended the one that runs"
    assert not any(isinstance(s, Start) and s.trusted for s in acts(driver, *Phase)), "it was never away"


def test_what_turns_bad_while_it_stands_by_is_not_to_take_over() -> None:
    driver = begun(v2=Behaviour(overlaps=True, ready_at=None))
    driver.run(until=about_to(Wait))
    driver.engine.containers = tuple(
        replace(c, health=HealthState.UNHEALTHY) if c.standby else c for c in driver.engine.containers
    )
    driver.steps(1)
    assert (driver.record.phase, driver.record.reason) == (Phase.ROLLING_BACK, Reason.CANDIDATE_UNHEALTHY)


def test_the_way_back_is_a_handover_too() -> None:
    driver = begun(v2=SICK)
    driver.run()
    assert acts(driver, Phase.ROLLING_BACK) == [Start("c1", trusted=True), Stop("c2")]
    assert driver.outcomes == {"job-2": (Outcome.ROLLED_BACK, Reason.CANDIDATE_NEVER_HEALTHY)}


def test_an_old_one_that_cannot_stand_by_is_waited_for_not_for_ever() -> None:
    driver = begun(v1=Behaviour(overlaps=True, ready_at=None), v2=SICK)
    driver.run()
    assert acts(driver, Phase.ROLLING_BACK) == [Start("c1", trusted=True), Stop("c2")]
    waits = [
        s
        for p, s in driver.history
        if p is Phase.ROLLING_BACK and isinstance(s, Wait) and "stand by" in s.why
    ]
    assert sum(w.for_ms for w in waits) >= LIMITS.standby_ms
    assert driver.running() == ["v1"]


@pytest.mark.parametrize(
    "v1", [Behaviour(overlaps=True, crashes=True), Behaviour(overlaps=True, refused=True)]
)
def test_an_old_one_that_cannot_start_beside_it_has_the_device_to_itself(v1: Behaviour) -> None:
    """Its start counts as one, and the candidate is stopped before the next: as without a handover."""
    driver = begun(v2=SICK)
    driver.run(until=in_phase(Phase.ROLLING_BACK))
    driver.engine.behaviours = {**driver.engine.behaviours, "sha256:v1": v1}
    driver.run(until=lambda d, _: Stop("c2") in acts(d, Phase.ROLLING_BACK))
    assert acts(driver, Phase.ROLLING_BACK)[:2] == [Start("c1", trusted=True), Stop("c2")]


@pytest.mark.parametrize(
    ("v1", "v2", "policy"),
    [
        (Behaviour(), WAITS, OVERLAP),
        (WAITS, Behaviour(), OVERLAP),
        (WAITS, WAITS, Policy()),
        (WAITS, WAITS, replace(OVERLAP, snapshot=True)),
    ],
)
def test_where_one_does_not_allow_it_the_old_one_stops_first(
    v1: Behaviour, v2: Behaviour, policy: Policy
) -> None:
    driver = begun(v1, v2, policy)
    driver.run()
    assert acts(driver, Phase.SWITCHING) == [Stop("c1"), Start("c2")]
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    sick = begun(v1, replace(v2, healthy_at=None), policy)
    sick.run()
    assert acts(sick, Phase.ROLLING_BACK) == [Stop("c2"), Start("c1", trusted=True)]


def test_after_a_boot_the_candidate_has_the_device_to_itself() -> None:
    driver = begun()
    driver.run(until=about_to(Stop))
    assert [c.standby for c in driver.engine.containers] == [False, True]
    driver.cut(Cut.KEEP)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert acts(driver, Phase.SWITCHING, Phase.VERIFYING)[-1] == Start("c2")


def test_an_agent_that_dies_in_between_goes_on() -> None:
    driver = begun()
    driver.run(until=about_to(Stop))
    driver.cut(Cut.AGENT)
    driver.run()
    assert (
        acts(driver, Phase.SWITCHING)
        == [Start("c2"), Stop("c1"), Stop("c1")][: len(acts(driver, Phase.SWITCHING))]
    )
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)} and driver.running() == ["v2"]


def test_a_stranger_beside_the_two_ends_the_overlap() -> None:
    driver = begun()
    driver.run(until=about_to(Stop))
    world = driver.world()
    candidate = next(c for c in world.containers if c.id == "c2")
    third = replace(candidate, id="c9", generation=9)
    crowded = replace(world, containers=(*world.containers, third))
    assert handover.forward(driver.record, crowded, candidate, LIMITS) is None


def test_a_copy_of_the_volume_comes_back_before_anything_stands_by() -> None:
    driver = begun(v2=SICK)
    driver.run(until=in_phase(Phase.ROLLING_BACK))
    world, record = driver.world(), driver.record
    assert record.current is not None
    candidate = next(c for c in world.containers if c.running)
    assert handover.back(record, record.current, candidate, world, LIMITS) is not None
    copied = replace(world, snapshots={7: SnapshotState.TAKEN})
    assert handover.back(record, record.current, candidate, copied, LIMITS) is None
    for other in (replace(world, restores=1), replace(world, failures=1), replace(world, images={})):
        assert handover.back(record, record.current, candidate, other, LIMITS) is None


def test_an_old_one_that_is_told_to_go_too_early_is_seen() -> None:
    driver = begun()
    driver.run(until=about_to(Start))
    world, record = driver.world(), driver.record
    assert [v.invariant for v in ready_before_the_stop(record, Stop("c1"), world)] == [
        "ready_before_the_stop"
    ]
    stop_first = replace(record, job=replace(record.job, policy=Policy()))  # type: ignore[type-var]
    gone = replace(world, containers=world.containers[:1])
    dead = replace(world, containers=tuple(replace(c, state=ContainerState.EXITED) for c in world.containers))
    for r, w, step in (
        (record, world, Stop("c2")),
        (stop_first, world, Stop("c1")),
        (record, gone, Stop("c1")),
        (record, dead, Stop("c1")),
    ):
        assert ready_before_the_stop(r, step, w) == []
