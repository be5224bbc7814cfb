"""The cases that need one answer everywhere, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery
from reference.core.errors import Reason
from reference.core.limits import Limits
from reference.core.model import ContainerState, Failure, Health, ImageState, Outcome, Phase, World
from reference.core.steps import (
    Create,
    Journal,
    Pull,
    Remove,
    RemoveImage,
    RestartEngine,
    SetRestartPolicy,
    Start,
    Stop,
    Sync,
    Wait,
)
from reference.core.update import UpdateRecord, decide
from tests.core.explore import ordered, pull_fails
from tests.core.world import (
    GOOD,
    LIMITS,
    Behaviour,
    Cut,
    Driver,
    about_to,
    command,
    device,
    image,
    in_phase,
    installed,
    updated,
)

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
    assert driver.engine.containers[0].up_ms >= 500
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
    sick = replace(driver.engine.containers[0], up_ms=10_000)
    driver.engine.behaviours = {V1: Behaviour(healthy_at=None)}
    driver.engine.containers = (driver.engine._probed(sick),)
    driver.tell(command(2, "v1"))
    driver.run(until=in_phase(Phase.SWITCHING))
    driver.engine.behaviours = {V1: GOOD}
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}
    assert driver.record.current == installed(2, "v1", "c2-1")
    assert driver.record.previous is None, "one image is not two versions"


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
    assert driver.running() == ["v1"] and driver.engine.containers[0].up_ms >= 500


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
    assert driver.record.current == installed(2, "v2", "c2-1")
    assert driver.record.previous == installed(1, "v1", "c1")
    assert driver.record.downtime_ms is None and driver.record.job is None


# ---- strangers


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.VERIFYING])
def test_a_candidate_removed_by_somebody_else_rolls_back(phase: Phase) -> None:
    driver = ordered()
    driver.run(until=in_phase(phase))
    without(driver, "c2-1")
    driver.run()
    assert driver.outcomes == {"job-2": (ROLLED_BACK, Reason.CANDIDATE_EXITED)}


def test_a_candidate_removed_after_the_commit_is_made_again() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.COMMITTING))
    without(driver, "c2-1")
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
        if driver.resting(step, world):
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
    assert RemoveImage(V3) != Pull(image("v3"))


def test_a_trusted_failure_does_not_count_for_the_job() -> None:
    record = UpdateRecord("e", Phase.PULLING, 2, installed(1, "v1", "c1"), job=command(2, "v2"))
    world = World("b", error=Failure(Reason.ENGINE_ERROR, trusted=True), failures=1)
    assert isinstance(decide(record, world, 0, Limits()), Wait)


def test_defaults_are_the_fields_limits() -> None:
    assert isinstance(decide(UpdateRecord("e"), World("b"), None), Wait)
    assert Health().deadline_ms == 70_000
