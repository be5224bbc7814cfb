"""The cases that need one answer everywhere, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery
from reference.core.errors import Reason
from reference.core.limits import Limits
from reference.core.model import (
    ContainerState,
    Failure,
    Health,
    HealthState,
    ImageState,
    Outcome,
    Phase,
    World,
)
from reference.core.steps import (
    Create,
    Journal,
    Remove,
    RestartEngine,
    SetRestartPolicy,
    Start,
    Stop,
    Sync,
    Wait,
)
from reference.core.update import UpdateRecord, decide
from reference.world.engine import probed
from reference.world.machine import resting
from tests.core.engine import GOOD, HEALTH, LIMITS, Behaviour, Cut, command, image, installed
from tests.core.world import Driver, about_to, device, in_phase, ordered, pull_fails, updated

ROLLED_BACK = Outcome.ROLLED_BACK
V1, V2, V3 = image("v1").digest, image("v2").digest, image("v3").digest


def without(driver: Driver, container_id: str) -> None:
    """Somebody else removes a container."""
    driver.engine.containers = tuple(c for c in driver.engine.containers if c.id != container_id)


# ---- the record


def test_a_record_that_makes_no_sense_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="in phase pulling with job None"):
        UpdateRecord("e", phase=Phase.PULLING)
    with pytest.raises(ValueError, match="in phase idle with outcome failed"):
        UpdateRecord("e", outcome=Outcome.FAILED)


# ---- the target already runs


def test_already_running_is_a_success_without_a_restart() -> None:
    driver = device()
    driver.tell(command(2, "v1"))
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, Reason.ALREADY_RUNNING)}
    assert not any("Start(" in line for line in driver.trace)
    assert driver.record.current == installed(1, "v1", "c1")


def test_already_running_has_to_show_its_health_first() -> None:
    driver = device()
    driver.cut(Cut.KEEP)
    driver.tell(command(2, "v1"))
    driver.run(until=about_to(Wait))
    assert driver.record.phase is Phase.ACCEPTED
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, Reason.ALREADY_RUNNING)}
    assert driver.switched == ()


def test_the_same_version_cures_a_sick_current() -> None:
    driver = device()
    never = Behaviour(healthy_at=None)
    driver.engine.behaviours = {V1: never}
    driver.engine.containers = (probed(never, driver.engine.containers[0]),)
    assert driver.engine.containers[0].sick(HEALTH)
    driver.tell(command(2, "v1"))
    driver.run(until=in_phase(Phase.SWITCHING))
    driver.engine.behaviours = {V1: GOOD}
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert driver.record.current == installed(2, "v1", "c2")
    assert driver.record.previous is None, "one image is not two versions"


def test_a_current_that_flaps_does_not_keep_the_same_version_waiting_for_ever() -> None:
    health = Health(start_period_ms=1_000, window_ms=3_000, stable_for_ms=1_000)
    order = replace(command(2, "v1"), health=health)
    record = UpdateRecord(
        "e",
        phase=Phase.ACCEPTED,
        floor=2,
        job=order,
        current=replace(installed(1, "v1", "c1"), health=health),
    )
    flapping = replace(device().engine.containers[0], health=HealthState.HEALTHY, healthy_ms=10)
    early, late = (World("b", (replace(flapping, up_ms=age, watched_ms=age),)) for age in (4_000, 6_000))
    assert isinstance(decide(record, early, None), Wait)
    assert decide(record, late, None) == Journal(replace(record, phase=Phase.PULLING))


# ---- first install


def test_first_install_good() -> None:
    driver = ordered(first=True).run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert driver.engine.containers[0].restart_policy == "unless-stopped"


def test_first_install_bad_leaves_nothing() -> None:
    driver = ordered({"v2": Behaviour(healthy_at=None)}, first=True).run()
    assert driver.outcomes == {"job-2": (Outcome.FAILED, Reason.CANDIDATE_NEVER_HEALTHY)}
    assert driver.engine.containers == () and driver.engine.images == {}


def test_first_install_bad_that_cannot_be_stopped_still_ends() -> None:
    driver = ordered({"v2": Behaviour(healthy_at=None)}, first=True)
    driver.engine.act_failures[Stop] = 99
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.FAILED, Reason.CANDIDATE_NEVER_HEALTHY)}
    assert driver.running() == [], "the cleanup removed it"


def test_nothing_installed_and_something_runs() -> None:
    driver = device()
    driver.memory = delivery.Memory(UpdateRecord("e", floor=0))
    assert driver.next_step()[0] == Stop("c1")


# ---- newer generations and cancels


@pytest.mark.parametrize("phase", [Phase.ACCEPTED, Phase.PULLING, Phase.STAGED])
def test_a_newer_generation_before_the_switch_supersedes(phase: Phase) -> None:
    driver = ordered()
    driver.run(until=in_phase(phase))
    driver.tell(command(3, "v3"))
    driver.run()
    assert driver.outcomes["job-2"] == (Outcome.FAILED, Reason.SUPERSEDED)
    assert driver.outcomes["job-3"] == (Outcome.SUCCEEDED, None)
    assert driver.switched == (3,)


@pytest.mark.parametrize(
    "phase", [Phase.SWITCHING, Phase.VERIFYING, Phase.COMMITTING, Phase.CLEANING_UP, Phase.ROLLING_BACK]
)
def test_a_newer_generation_after_the_switch_runs_next(phase: Phase) -> None:
    bad = phase is Phase.ROLLING_BACK
    driver = ordered({"v2": Behaviour(crashes=True)} if bad else {})
    driver.run(until=in_phase(phase))
    driver.tell(command(3, "v3"))
    driver.run()
    first = (ROLLED_BACK, Reason.CANDIDATE_EXITED) if bad else (Outcome.SUCCEEDED, None)
    assert driver.outcomes == {"job-2": first, "job-3": (Outcome.SUCCEEDED, None)}
    assert driver.switched == (2, 3)


def test_the_image_of_the_next_job_is_not_cleaned_up() -> None:
    driver = ordered({"v2": Behaviour(crashes=True)})
    driver.run(until=in_phase(Phase.ROLLING_BACK))
    driver.tell(command(3, "v2"))
    driver.run(until=in_phase(Phase.PULLING))
    assert driver.engine.images[V2] is ImageState.PRESENT


@pytest.mark.parametrize("phase", [Phase.ACCEPTED, Phase.PULLING, Phase.STAGED])
def test_cancel_before_the_switch_is_obeyed(phase: Phase) -> None:
    driver = ordered()
    driver.run(until=in_phase(phase))
    driver.memory = delivery.receive_cancel(driver.memory, "job-2", 2)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.FAILED, Reason.CANCELED)}
    assert not driver.record.cancel and driver.running() == ["v1"]


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.VERIFYING, Phase.COMMITTING, Phase.CLEANING_UP])
def test_cancel_after_the_switch_lets_the_update_finish(phase: Phase) -> None:
    driver = ordered()
    driver.run(until=in_phase(phase))
    before = driver.memory
    driver.memory = delivery.receive_cancel(driver.memory, "job-2", 2)
    assert driver.memory == before
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


# ---- expiry


@pytest.mark.parametrize(
    ("now_ms", "expires_at_ms", "expired"),
    [
        (10**9, 0, True),
        (None, 0, False),
        (LIMITS.clock_skew_ms, 0, False),
        (LIMITS.clock_skew_ms + 1, 0, True),
    ],
)
def test_expiry_needs_a_trusted_clock(now_ms: int | None, expires_at_ms: int, expired: bool) -> None:
    driver = device()
    driver.now_ms = None
    driver.tell(command(2, "v2", expires_at_ms=expires_at_ms))
    driver.now_ms = now_ms
    driver.run()
    expected = (Outcome.FAILED, Reason.EXPIRED) if expired else (Outcome.SUCCEEDED, None)
    assert driver.outcomes == {"job-2": expected}


# ---- retries, by class


@pytest.mark.parametrize(
    ("reason", "tries"),
    [
        (Reason.REGISTRY_UNREACHABLE, LIMITS.pull_attempts_many),
        (Reason.PULL_CORRUPT, LIMITS.pull_attempts_few),
        (Reason.IMAGE_UNKNOWN, 1),
    ],
)
def test_pulls_are_tried_as_often_as_their_class_says(reason: Reason, tries: int) -> None:
    driver = pull_fails(*[reason] * 20)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.FAILED, reason)}
    assert sum("Pull(" in line for line in driver.trace) == tries
    assert driver.running() == ["v1"] and not any("Start(" in line for line in driver.trace)


def test_the_wait_after_a_throttled_pull_is_longer() -> None:
    waits = {}
    for reason in (Reason.REGISTRY_THROTTLED, Reason.REGISTRY_UNREACHABLE):
        driver = pull_fails(reason)
        driver.run(until=about_to(Wait))
        step, _ = driver.next_step()
        assert isinstance(step, Wait)
        waits[reason] = step.for_ms
    assert waits == {Reason.REGISTRY_THROTTLED: 300, Reason.REGISTRY_UNREACHABLE: 100}


def test_failed_acts_before_the_switch_are_bounded_and_harmless() -> None:
    driver = ordered()
    driver.engine.act_failures[Create] = 99
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.FAILED, Reason.ENGINE_ERROR)}


def test_an_act_that_fails_once_is_tried_again() -> None:
    for kind in (Create, Sync, SetRestartPolicy, Stop, Start, Remove):
        driver = ordered()
        driver.engine.act_failures[kind] = 1
        assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}, kind


def test_a_bumpy_pull_leaves_tries_for_what_follows() -> None:
    driver = pull_fails(Reason.REGISTRY_UNREACHABLE)
    driver.engine.act_failures[Create] = 1
    assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


@pytest.mark.parametrize("kind", [Stop, SetRestartPolicy])
def test_failed_acts_on_trial_roll_back(kind: type) -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.SWITCHING))
    driver.engine.act_failures[kind] = LIMITS.act_attempts
    driver.run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, Reason.ENGINE_ERROR)}
    assert driver.running() == ["v1"]


@pytest.mark.parametrize("kind", [SetRestartPolicy, Remove, Sync])
def test_failed_acts_after_the_commit_do_not_take_it_back(kind: type) -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.COMMITTING))
    driver.engine.act_failures[kind] = 99
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert driver.running() == ["v2"]


def test_a_cleanup_that_fails_ends_all_the_same() -> None:
    driver = ordered({"v2": Behaviour(crashes=True)})
    driver.engine.act_failures[Remove] = 99
    driver.run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, Reason.CANDIDATE_EXITED)}
    assert driver.record.phase is Phase.IDLE


def test_a_policy_that_cannot_be_set_back_does_not_undo_a_rollback() -> None:
    driver = ordered({"v2": Behaviour(crashes=True)})
    driver.run(until=in_phase(Phase.ROLLING_BACK))
    driver.engine.act_failures[SetRestartPolicy] = LIMITS.restore_attempts
    driver.run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, Reason.CANDIDATE_EXITED)}
    assert driver.engine.containers[0].restart_policy == "unless-stopped", "idle has set it since"


# ---- starts that are refused


def test_a_refused_start_is_blamed_after_one_engine_restart() -> None:
    driver = ordered({"v2": Behaviour(refused=True)}).run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, Reason.START_REFUSED)}
    assert driver.engine.restarts == 1


def test_a_stuck_port_is_not_blamed_on_a_good_version() -> None:
    driver = ordered({"v2": Behaviour(stuck_port=True)}).run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert driver.engine.restarts == 1


def test_an_engine_that_cannot_be_restarted_ends_in_a_rollback() -> None:
    driver = ordered({"v2": Behaviour(refused=True)})
    driver.engine.act_failures[RestartEngine] = 99
    driver.run()
    assert driver.outcomes["job-2"][0] is ROLLED_BACK


def test_idle_too_restarts_the_engine_once_for_a_stuck_port() -> None:
    driver = device({"v1": Behaviour(stuck_port=True)})
    driver.cut(Cut.KEEP)
    driver.run()
    assert driver.running() == ["v1"] and driver.engine.restarts == 1


def test_a_port_stuck_since_a_cut_does_not_keep_the_client_down_while_a_job_goes_on() -> None:
    driver = ordered({"v1": Behaviour(stuck_port=True)})
    driver.run(until=in_phase(Phase.PULLING))
    driver.cut(Cut.KEEP)
    driver.run(until=lambda d, _: d.engine.restarts == 1)
    assert driver.record.phase in (Phase.ACCEPTED, Phase.PULLING, Phase.STAGED)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)} and driver.engine.restarts == 1


# ---- the candidate


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(crashes=True), Reason.CANDIDATE_EXITED),
        (Behaviour(dies_at=60), Reason.CANDIDATE_EXITED),
        (Behaviour(bad_at=60), Reason.CANDIDATE_UNHEALTHY),
        (Behaviour(healthy_at=None), Reason.CANDIDATE_NEVER_HEALTHY),
        (Behaviour(flaps_every=50), Reason.CANDIDATE_UNHEALTHY),
    ],
)
def test_a_bad_candidate_is_rolled_back_for_its_reason(behaviour: Behaviour, reason: Reason) -> None:
    driver = ordered({"v2": behaviour}).run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, reason)}
    assert driver.running() == ["v1"]
    assert set(driver.engine.images) == {V1}


def test_a_candidate_that_is_healthy_late_but_in_time_is_good() -> None:
    driver = ordered({"v2": Behaviour(healthy_at=200)}).run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


def test_an_agent_that_was_away_for_long_does_not_blame_the_candidate() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.VERIFYING))
    driver.engine.advance(10_000)
    driver.cut(Cut.AGENT)
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


def test_the_journal_says_what_runs_even_if_the_record_of_its_container_is_lost() -> None:
    driver = updated()
    assert driver.record.current == installed(2, "v2", "c2")
    assert driver.record.previous == installed(1, "v1", "c1")
    assert driver.record.downtime_ms is None and driver.record.job is None


# ---- a boot in the middle of the commit


def test_a_boot_in_committing_starts_the_candidate_as_trusted() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.COMMITTING))
    driver.cut(Cut.KEEP)
    assert [type(s) for s in driver.steps(2)] == [Sync, Start]
    assert "trusted=True" in driver.trace[-1]
    assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


def test_whatever_runs_beside_the_committed_one_is_stopped() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.COMMITTING))
    world = driver.world()
    running = replace(world.containers[0], state=ContainerState.RUNNING)
    assert decide(driver.record, replace(world, containers=(running,)), 0, LIMITS) == Stop("c1")


# ---- order


def test_the_order_of_an_update() -> None:
    driver = ordered()
    kinds = []
    for _ in range(30):
        step, world = driver.next_step()
        if resting(driver.record, step, world):
            break
        kinds.append(step.record.phase.value if isinstance(step, Journal) else type(step).__name__)
        driver.take(step)
    assert kinds == [
        "accepted", "pulling", "Pull", "Sync", "staged", "Create", "Sync", "switching",
        "SetRestartPolicy", "Stop", "Sync", "Start", "verifying", "Wait", "Wait", "Wait", "Sync",
        "committing", "SetRestartPolicy", "Remove", "Sync", "cleaning_up", "idle",
    ]  # fmt: skip


def test_only_current_and_previous_are_kept_after_many_updates() -> None:
    driver = device()
    for generation in range(2, 6):
        driver.tell(command(generation, f"v{generation}"))
        driver.run()
    assert set(driver.engine.images) == {image("v4").digest, image("v5").digest}
    assert len(driver.engine.containers) == 1


def test_an_image_that_nobody_wants_goes_with_the_next_cleanup() -> None:
    driver = ordered()
    driver.engine.images[V3] = ImageState.PRESENT
    driver.run()
    assert "cleaning_up: RemoveImage(digest='sha256:v3')" in driver.trace


def test_a_trusted_failure_does_not_count_for_the_job() -> None:
    record = UpdateRecord("e", Phase.PULLING, 2, installed(1, "v1", "c1"), job=command(2, "v2"))
    world = World("b", error=Failure(Reason.ENGINE_ERROR, trusted=True), failures=1)
    assert isinstance(decide(record, world, 0, Limits()), Wait)


def test_defaults_are_the_fields_limits() -> None:
    assert isinstance(decide(UpdateRecord("e"), World("b"), None), Wait)
    assert Health().deadline_ms == 70_000
