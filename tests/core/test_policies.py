"""Hold, lock, snapshot and probation, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery
from reference.core.adopt import adopted
from reference.core.errors import Reason
from reference.core.invariants import volume_whole
from reference.core.model import Health, ImageState, Outcome, Phase, Policy, SnapshotState
from reference.core.record import HOLDS, UpdateRecord
from reference.core.steps import (
    Journal,
    PrepareSnapshot,
    Pull,
    RemoveSnapshot,
    RestoreSnapshot,
    Snapshot,
    Start,
    Stop,
    Sync,
    Wait,
)
from tests.core.engine import HEALTH, LIMITS, Behaviour, Cut, command, image
from tests.core.world import about_to, device, held, in_phase, locked, ordered

V1, V2 = image("v1").digest, image("v2").digest
SNAPSHOT, PROBATION = Policy(snapshot=True), Policy(probation_ms=1000)
BAD_MIGRATION = {"v2": Behaviour(migrates=True, dies_at=60)}


# ---- hold


def test_a_held_command_is_taken_and_says_why_it_waits() -> None:
    driver = held()
    driver.run(until=about_to(Wait))
    assert (driver.record.phase, driver.record.reason) == (Phase.ACCEPTED, Reason.HELD)
    assert driver.memory.outbox[-1].message == "held by the operator"
    driver.hold = False
    assert driver.steps(1) == [Journal(replace(driver.record))] and driver.record.reason is None
    assert driver.memory.outbox[-1].reason is None, "that it goes on is news"
    assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


@pytest.mark.parametrize("newer", [False, True])
def test_a_held_command_can_be_given_up(newer: bool) -> None:
    driver = held()
    driver.steps(2)
    if newer:
        driver.tell(command(3, "v3"))
    else:
        driver.memory = delivery.receive_cancel(driver.memory, "job-2", 2)
    driver.steps(2)
    reason = Reason.SUPERSEDED if newer else Reason.CANCELED
    assert driver.outcomes == {"job-2": (Outcome.FAILED, reason)}
    assert driver.record.phase is Phase.CLEANING_UP, "what is to be removed waits, too"


def test_a_dead_current_stays_dead_under_a_hold() -> None:
    driver = device()
    driver.engine.act(Stop("c1"))
    driver.hold = True
    assert all(isinstance(step, Wait) for step in driver.steps(4))
    driver.hold = False
    assert driver.run().running() == ["v1"]


@pytest.mark.parametrize("phase", [p for p in Phase if p not in HOLDS and p is not Phase.ROLLING_BACK])
def test_a_trial_is_finished_in_spite_of_a_hold(phase: Phase) -> None:
    driver = ordered()
    driver.run(until=in_phase(phase))
    driver.hold = True
    driver.run(until=in_phase(Phase.CLEANING_UP))
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


# ---- lock


def test_a_lock_is_waited_for_as_long_as_the_command_says() -> None:
    driver = locked()
    driver.memory = delivery.Memory(
        replace(driver.record, queued=command(2, "v2", policy=Policy(lock_wait_ms=100)))
    )
    driver.run(until=in_phase(Phase.CLEANING_UP))
    assert driver.record.reason is Reason.UPDATE_LOCKED
    assert driver.record.message == "the update lock is taken by somebody; waited 100 ms for it"
    assert driver.running() == ["v1"]


def test_a_lock_that_is_taken_after_the_switch_changes_nothing() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.SWITCHING))
    driver.lock = True
    assert driver.run().outcomes == {"job-2": (Outcome.SUCCEEDED, None)}


# ---- snapshot


def test_the_volume_is_copied_after_the_stop_and_before_the_start() -> None:
    driver = ordered(policy=SNAPSHOT)
    driver.run()
    acts = [type(s) for _, s in driver.history if isinstance(s, PrepareSnapshot | Stop | Snapshot | Start)]
    assert acts == [PrepareSnapshot, Stop, Snapshot, Start]
    assert driver.engine.snapshots == {}


def test_no_room_for_the_copy_is_found_before_anything_stops() -> None:
    driver = ordered(policy=SNAPSHOT)
    driver.engine.act_failures[PrepareSnapshot] = 9
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.FAILED, Reason.ENGINE_ERROR)}
    assert not any(isinstance(step, Stop) for _, step in driver.history)


def test_a_copy_that_cannot_be_made_after_all_rolls_back() -> None:
    driver = ordered(policy=SNAPSHOT)
    driver.engine.act_failures[Snapshot] = 9
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.ROLLED_BACK, Reason.ENGINE_ERROR)}
    assert not any(isinstance(step, RestoreSnapshot) for _, step in driver.history)


def test_without_a_copy_a_bad_migration_is_the_end() -> None:
    driver = ordered(BAD_MIGRATION)
    driver.run(until=in_phase(Phase.CLEANING_UP))
    assert driver.outcomes == {"job-2": (Outcome.ROLLBACK_FAILED, Reason.CANDIDATE_EXITED)}


def test_the_duty_brings_the_volume_back_when_the_rollback_could_not() -> None:
    driver = ordered(BAD_MIGRATION, policy=SNAPSHOT)
    driver.engine.act_failures[RestoreSnapshot] = LIMITS.restore_attempts + 1
    driver.run(until=in_phase(Phase.CLEANING_UP))
    assert driver.outcomes == {"job-2": (Outcome.ROLLBACK_FAILED, Reason.CANDIDATE_EXITED)}
    driver.run()
    assert driver.running() == ["v1"] and not driver.record.duty
    assert driver.engine.snapshots == {} and driver.engine.volume == ""


def test_a_copy_that_never_comes_back_does_not_keep_the_client_down() -> None:
    driver = ordered({"v2": Behaviour(dies_at=60)}, policy=SNAPSHOT)
    driver.engine.act_failures[RestoreSnapshot] = 10**6
    driver.run()
    assert driver.running() == ["v1"] and driver.engine.snapshots == {}


def test_a_lost_journal_does_not_lose_the_volume() -> None:
    driver = ordered(BAD_MIGRATION, policy=SNAPSHOT)
    driver.run(until=in_phase(Phase.VERIFYING))
    driver.cut(Cut.KEEP)
    driver.memory = delivery.Memory(adopted(driver.world(), "epoch-2", HEALTH))
    assert driver.record.duty
    driver.run()
    assert driver.running() == ["v1"] and driver.engine.volume == ""


def test_a_lost_journal_beside_a_client_that_runs_restores_nothing() -> None:
    driver = ordered(policy=SNAPSHOT)
    driver.run(until=in_phase(Phase.VERIFYING))
    world = driver.world()
    assert not adopted(world, "epoch-2", Health()).duty
    driver.run()
    assert not adopted(driver.world(), "epoch-2", Health()).duty


def test_what_an_earlier_job_left_is_removed_in_idle() -> None:
    driver = device()
    driver.engine.snapshots = {7: (SnapshotState.TAKEN, "")}
    driver.run()
    assert driver.engine.snapshots == {}
    assert not any(isinstance(step, RestoreSnapshot) for _, step in driver.history)
    assert any(isinstance(step, RemoveSnapshot) for _, step in driver.history)


def test_a_copy_made_in_the_wrong_phase_is_seen() -> None:
    driver = ordered(policy=SNAPSHOT)
    driver.run(until=in_phase(Phase.STAGED))
    world = replace(driver.world(), containers=())
    assert [v.detail for v in volume_whole(driver.record, Snapshot(2), world)] == ["copied in staged"]


# ---- probation


def test_a_version_that_is_good_until_the_first_reboot_falls_back() -> None:
    driver = ordered({"v2": Behaviour(last_boot=1)}, policy=PROBATION)
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    told = driver.memory.outbox
    driver.cut(Cut.LOSE)
    driver.run()
    assert driver.running() == ["v1"]
    assert driver.outcomes == {"job-2": (Outcome.SUCCEEDED, None)} and driver.memory.outbox == told
    assert driver.record.reason is Reason.PROBATION_FAILED
    assert driver.record.message == "v2 on probation: not healthy after 2 starts; back to v1"
    assert driver.record.current is not None and driver.record.current.generation == 1
    assert not any(isinstance(s, Pull) for _, s in driver.history[-30:]), "it needs no network"


def test_every_cut_while_falling_back_ends_in_the_old_version() -> None:
    first = ordered({"v2": Behaviour(last_boot=1)}, policy=PROBATION)
    first.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    first.cut(Cut.KEEP)
    length = len(first.fork().run().history) - len(first.history)
    for kind in Cut:
        for steps in range(length):
            driver = first.fork()
            driver.steps(steps)
            driver.cut(kind)
            driver.run()
            assert driver.running() == ["v1"], (kind, steps)


def test_a_version_that_turns_bad_on_probation_falls_back() -> None:
    driver = ordered(policy=PROBATION)
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    driver.engine.behaviours = {V2: Behaviour(bad_at=20)}
    driver.run()
    assert driver.running() == ["v1"]


@pytest.mark.parametrize("dies_at", [150, 10])
def test_a_version_that_dies_again_and_again_falls_back_though_it_is_stable_between(dies_at: int) -> None:
    driver = ordered(policy=PROBATION)
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    driver.engine.behaviours = {V2: Behaviour(dies_at=dies_at)}
    driver.run()
    assert driver.record.reason is Reason.PROBATION_FAILED and driver.running() == ["v1"]


def test_a_failed_probation_without_a_healthy_old_version_tries_both_in_turn() -> None:
    for old in (Behaviour(crashes=True), Behaviour(healthy_at=None)):
        driver = ordered({"v2": Behaviour(last_boot=1)}, policy=PROBATION)
        driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
        driver.cut(Cut.KEEP)
        driver.engine.behaviours = {**driver.engine.behaviours, V1: old}
        driver.run(until=lambda d, _: d.record.duty)
        driver.engine.behaviours = {V1: old}
        driver.run()
        assert driver.running() == ["v2"] and driver.record.reason is Reason.PROBATION_FAILED


def test_a_version_that_takes_the_device_down_falls_back_after_k_boots() -> None:
    driver = ordered(policy=PROBATION)
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    driver.steps(1)
    for _ in range(LIMITS.boots):
        driver.cut(Cut.KEEP)
        driver.steps(2)
        assert driver.record.current is not None and driver.record.current.generation == 2
    driver.cut(Cut.KEEP)
    driver.run()
    assert driver.running() == ["v1"]
    assert "in 4 boots" in driver.record.message


def test_probation_ends_by_surviving() -> None:
    driver = ordered(policy=PROBATION).run()
    assert (driver.record.probation_left_ms, driver.record.boot_id, driver.record.boots) == (0, None, 0)
    counted = [s for p, s in driver.history if p is Phase.IDLE and isinstance(s, Journal)]
    assert len(counted) <= 3 + PROBATION.probation_ms // LIMITS.probation_step_ms
    driver.engine.behaviours = {V2: Behaviour(bad_at=0)}
    assert driver.steps(1) and driver.record.current is not None and driver.record.current.generation == 2


def test_without_the_old_image_there_is_no_way_back() -> None:
    driver = ordered({"v2": Behaviour(last_boot=1)}, policy=PROBATION)
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    driver.limits = replace(LIMITS, fallback_attempts=10**6)
    del driver.engine.images[V1]
    driver.cut(Cut.KEEP)
    driver.steps(30)
    assert driver.record.current is not None and driver.record.current.generation == 2
    driver.engine.images[V1] = ImageState.PRESENT
    driver.run()
    assert driver.running() == ["v1"]


def test_a_first_install_has_no_probation() -> None:
    driver = device(first=True)
    driver.tell(command(2, "v2", policy=PROBATION))
    driver.run()
    assert driver.record.probation_left_ms == 0


def test_a_newer_command_on_probation_is_taken_and_ends_it() -> None:
    driver = ordered(policy=PROBATION)
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    driver.tell(command(3, "v3"))
    driver.run()
    assert driver.running() == ["v3"] and driver.record.probation_left_ms == 0


def test_a_new_command_forgets_that_probation_failed() -> None:
    record = UpdateRecord("e", floor=3, queued=command(3, "v3"), reason=Reason.PROBATION_FAILED, message="m")
    driver = device()
    driver.memory = delivery.Memory(replace(record, current=driver.record.current))
    driver.steps(1)
    assert (driver.record.reason, driver.record.message) == (None, "")


def test_a_sync_is_no_work_under_a_hold() -> None:
    driver = device()
    driver.hold = True
    assert not any(isinstance(step, Sync) for step in driver.steps(3))
