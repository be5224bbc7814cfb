"""Strangers at the engine, rollbacks that fail, the duty that goes on, and a current that crashes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery
from reference.core.errors import Reason
from reference.core.limits import DEFAULT_LIMITS
from reference.core.model import ContainerState, Failure, ImageState, Outcome, Phase
from reference.core.steps import (
    Create,
    Start,
    Stop,
    Wait,
)
from reference.core.update import decide
from tests.core.engine import LIMITS, Behaviour, Cut, command, image, installed
from tests.core.world import Driver, about_to, device, in_phase, ordered, pull_fails, updated

ROLLED_BACK = Outcome.ROLLED_BACK
V1, V2, V3 = image("v1").digest, image("v2").digest, image("v3").digest


def without(driver: Driver, container_id: str) -> None:
    """Somebody else removes a container."""
    driver.engine.containers = tuple(c for c in driver.engine.containers if c.id != container_id)


# ---- strangers


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.VERIFYING])
def test_a_candidate_removed_by_somebody_else_rolls_back(phase: Phase) -> None:
    driver = ordered()
    driver.run(until=in_phase(phase))
    without(driver, "c2")
    driver.run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, Reason.CANDIDATE_EXITED)}


def test_a_candidate_removed_after_the_commit_is_made_again() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.COMMITTING))
    without(driver, "c2")
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert driver.running() == ["v2"] and driver.record.current == installed(2, "v2", None)


def test_a_container_removed_before_the_switch_is_made_again() -> None:
    driver = ordered()
    driver.run(until=about_to(Create))
    driver.steps(1)
    driver.engine.containers = driver.engine.containers[:1]
    assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


@pytest.mark.parametrize("state", [None, ImageState.BROKEN])
def test_an_image_that_goes_after_the_pull_is_pulled_again(state: ImageState | None) -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.STAGED))
    driver.engine.images = {V1: ImageState.PRESENT} | ({V2: state} if state else {})
    assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


def test_an_image_that_never_stays_whole_ends_the_job() -> None:
    driver = ordered()
    for _ in range(LIMITS.act_attempts):
        driver.run(until=in_phase(Phase.STAGED))
        driver.engine.images[V2] = ImageState.BROKEN
        driver.steps(1)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.FAILED, Reason.IMAGE_INVALID)}


def test_current_removed_by_somebody_else_is_made_again_when_idle() -> None:
    driver = device()
    without(driver, "c1")
    driver.run()
    assert driver.running() == ["v1"]


def test_current_and_its_image_gone_are_pulled_when_idle() -> None:
    driver = device()
    without(driver, "c1")
    driver.engine.images.clear()
    driver.run()
    assert driver.running() == ["v1"]


def test_a_container_that_is_refused_because_its_image_is_gone_gets_it_back() -> None:
    driver = device()
    driver.cut(Cut.KEEP)
    driver.engine.act(Stop("c1"))
    driver.engine.images.clear()
    driver.run()
    assert driver.running() == ["v1"] and driver.engine.restarts == 1


def test_a_rollback_needs_no_network_while_the_container_is_there() -> None:
    driver = ordered({"v2": CRASH})
    driver.run(until=in_phase(Phase.ROLLING_BACK))
    driver.run()
    assert not any("rolling_back: Pull" in line for line in driver.trace)


def test_current_gone_does_not_hold_up_an_update() -> None:
    driver = ordered()
    without(driver, "c1")
    assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


def test_current_gone_on_trial_is_made_again_by_the_rollback() -> None:
    driver = ordered({"v2": Behaviour(crashes=True)})
    driver.run(until=in_phase(Phase.VERIFYING))
    without(driver, "c1")
    assert driver.run().outcomes == {"job-2": (ROLLED_BACK, Reason.CANDIDATE_EXITED)}
    assert driver.running() == ["v1"]


def test_current_gone_with_its_image_and_no_registry_is_a_failed_rollback() -> None:
    driver = ordered({"v2": Behaviour(crashes=True)})
    driver.run(until=in_phase(Phase.VERIFYING))
    without(driver, "c1")
    del driver.engine.images[V1]
    driver.engine.pull_failures[V1] = (Reason.REGISTRY_UNREACHABLE,) * 4
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.ROLLBACK_FAILED, Reason.CANDIDATE_EXITED)}
    assert driver.running() == ["v1"] and not driver.record.duty, (
        "the duty went on until the registry was back"
    )


def test_the_policy_of_current_is_put_right_when_idle() -> None:
    driver = device()
    driver.engine.containers = (replace(driver.engine.containers[0], restart_policy="no"),)
    driver.run()
    assert driver.engine.containers[0].restart_policy == "unless-stopped"


def test_the_policy_that_an_operator_set_comes_back_after_an_update() -> None:
    driver = ordered()
    driver.engine.containers = (replace(driver.engine.containers[0], restart_policy="always"),)
    driver.run()
    assert driver.engine.containers[0].restart_policy == "always"


def test_somebody_elses_container_of_ours_is_stopped_when_idle() -> None:
    driver = updated()
    other = replace(driver.engine.containers[0], id="other", generation=9, image=image("v9"))
    world = replace(driver.world(), containers=(*driver.engine.containers, other))
    assert decide(driver.record, world, 0, LIMITS) == Stop("other")


# ---- a rollback that fails, and the duty


def worn_out(behaviours: dict[str, Behaviour], *, previous: bool) -> Driver:
    """A device whose rollback of v3 (or v2) failed: its current would not come back."""
    driver = updated() if previous else device()
    generation = 3 if previous else 2
    driver.tell(command(generation, f"v{generation}"))
    driver.run(until=in_phase(Phase.SWITCHING))
    driver.engine.behaviours = {image(v).digest: does for v, does in behaviours.items()}
    driver.run(until=lambda d, _s: d.record.phase is Phase.IDLE)
    assert driver.outcomes[f"job-{generation}"] == (Outcome.ROLLBACK_FAILED, Reason.CANDIDATE_EXITED)
    assert driver.record.duty
    return driver


CRASH = Behaviour(crashes=True)


def test_duty_brings_current_back_when_it_can() -> None:
    driver = worn_out({"v1": CRASH, "v2": CRASH}, previous=False)
    driver.engine.behaviours = {}
    driver.run()
    assert driver.running() == ["v1"] and not driver.record.duty


def test_duty_of_a_current_without_previous_stops_and_starts_it_while_it_is_sick() -> None:
    never = Behaviour(healthy_at=None)
    driver = worn_out({"v1": never, "v2": CRASH}, previous=False)
    driver.run(until=about_to(Stop))
    driver.engine.behaviours = {}
    driver.run()
    assert driver.running() == ["v1"] and not driver.record.duty


def test_duty_turns_to_previous_and_makes_it_current() -> None:
    driver = worn_out({"v2": CRASH, "v3": CRASH}, previous=True)
    driver.run()
    assert driver.running() == ["v1"]
    record = driver.record
    assert record.current is not None and record.previous is not None
    assert (record.current.image.version, record.previous.image.version) == ("v1", "v2")
    assert not record.duty


def test_duty_alternates_until_one_of_them_is_good() -> None:
    driver = worn_out({"v1": CRASH, "v2": CRASH, "v3": CRASH}, previous=True)
    driver.run(until=lambda d, _s: d.restores >= 3 * LIMITS.restore_attempts)
    driver.engine.behaviours = {}
    driver.run()
    assert len(driver.running()) == 1 and not driver.record.duty


def test_duty_survives_cuts_and_a_new_command_ends_it() -> None:
    driver = worn_out({"v1": CRASH, "v2": CRASH, "v3": CRASH}, previous=True)
    driver.cut(Cut.KEEP)
    driver.tell(command(4, "v4"))
    driver.run()
    assert driver.outcomes["job-4"] == (Outcome.SUCCEEDED, None)
    assert driver.running() == ["v4"] and not driver.record.duty


def test_previous_that_runs_in_duty_is_left_alone_by_a_new_job_until_its_switch() -> None:
    driver = worn_out({"v2": CRASH, "v3": CRASH}, previous=True)
    driver.run(until=lambda d, _s: d.running() == ["v1"])
    driver.tell(command(4, "v4"))
    driver.run(until=in_phase(Phase.SWITCHING))
    assert driver.running() == ["v1"] and driver.record.duty
    driver.run()
    assert driver.outcomes["job-4"] == (Outcome.SUCCEEDED, None)


def test_a_current_that_stays_sick_is_stopped_in_a_rollback_and_started_again() -> None:
    driver = ordered({"v2": CRASH})
    driver.run(until=in_phase(Phase.SWITCHING))
    driver.engine.behaviours = {V1: Behaviour(healthy_at=None), V2: CRASH}
    driver.run(until=lambda d, s: d.record.phase is Phase.ROLLING_BACK and s == Stop("c1"))
    driver.engine.behaviours = {V2: CRASH}
    driver.run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, Reason.CANDIDATE_EXITED)}


# ---- a current that crashes


def test_reviving_current_is_bounded_and_does_not_block_its_cure() -> None:
    driver = device({"v1": CRASH})
    driver.tell(command(2, "v2"))
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert sum("Start('c1'" in line for line in driver.trace) == LIMITS.revive_attempts_in_job


def test_a_dead_current_is_revived_while_the_registry_is_down() -> None:
    driver = pull_fails(Reason.REGISTRY_UNREACHABLE)
    driver.engine.act(Stop("c1"))
    driver.run(until=in_phase(Phase.PULLING))
    assert driver.running() == ["v1"]


def test_a_revival_that_is_refused_is_not_the_jobs_failure() -> None:
    driver = device({"v1": Behaviour(refused=True)})
    driver.cut(Cut.KEEP)
    driver.tell(command(2, "v2"))
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


def test_a_revival_waits_between_two_starts() -> None:
    driver = device({"v1": CRASH})
    driver.limits = replace(LIMITS, revive_attempts_in_job=2)
    driver.tell(command(2, "v2"))
    driver.engine.pull_failures[V2] = (Reason.REGISTRY_UNREACHABLE,) * 2
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    first, second = (i for i, line in enumerate(driver.trace) if "Start('c1'" in line)
    assert any("Pull" in line for line in driver.trace[first:second]), "the job went on in between"


def test_starts_in_a_row_wait_longer_and_longer() -> None:
    driver = device({"v1": CRASH})
    waits = []
    for _ in range(14):
        step, _ = driver.next_step()
        if isinstance(step, Wait):
            waits.append(step.for_ms)
        driver.take(step)
    assert waits[:4] == [100, 200, 400, 400]


def test_a_cleanup_that_fails_for_long_does_not_keep_the_client_down() -> None:
    driver = device()
    down = [replace(c, state=ContainerState.EXITED) for c in driver.world().containers]
    world = replace(
        driver.world(),
        containers=tuple(down),
        dirty=False,
        failures=20,
        error=Failure(Reason.ENGINE_ERROR, "x"),
    )
    soon = DEFAULT_LIMITS.revive_rest_ms
    waits = decide(driver.record, replace(world, since_failure_ms=soon - 1), 0, DEFAULT_LIMITS)
    assert waits == Wait(1, "after a failure")
    begins = decide(driver.record, replace(world, since_failure_ms=soon), 0, DEFAULT_LIMITS)
    assert isinstance(begins, Start)
    # Where the network is needed the wait grows as ever.
    pulls = decide(driver.record, replace(world, images={}, since_failure_ms=soon), 0, DEFAULT_LIMITS)
    assert isinstance(pulls, Wait) and pulls.for_ms > soon


@pytest.mark.parametrize("state", list(ImageState))
def test_the_cleanup_leaves_no_image_but_those_of_current_and_previous(state: ImageState) -> None:
    driver = updated()
    strays = {image(f"v{number}").digest: state for number in range(10, 16)}
    driver.engine.images.update(strays)
    driver.check = False  # so many images are a breach before anything is decided
    driver.memory, _ = delivery.receive(driver.memory, command(3, "v3"), 0, LIMITS)
    driver.run()
    kept = driver.record.current, driver.record.previous
    assert driver.engine.images == {i.image.digest: ImageState.PRESENT for i in kept if i is not None}
    assert len(driver.engine.images) <= LIMITS.images_kept
