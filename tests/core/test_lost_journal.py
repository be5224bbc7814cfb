"""What a lost journal, or a cut that brings things back, must not do: each of these was found by the explorer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery
from reference.core.adopt import adopted
from reference.core.errors import Reason
from reference.core.model import (
    Container,
    ContainerState,
    Health,
    HealthState,
    ImageState,
    Outcome,
    Phase,
    Policy,
    SnapshotState,
)
from reference.core.steps import (
    Create,
    Journal,
    PrepareSnapshot,
    Pull,
    Remove,
    RemoveImage,
    RemoveSnapshot,
    RestoreSnapshot,
    SetRestartPolicy,
    Start,
    Stop,
    Wait,
)
from reference.core.update import decide
from tests.core.engine import HEALTH, LIMITS, Behaviour, Cut, command, image
from tests.core.world import Driver, device, in_phase

V1, V2, V9 = image("v1").digest, image("v2").digest, image("v9").digest
SICK = {"v2": Behaviour(healthy_at=None)}
"""It lives and never answers well."""


def lost(driver: Driver) -> Driver:
    """The journal is lost, and made anew from what is seen and synced."""
    driver.engine.sync()
    driver.memory = delivery.Memory(adopted(driver.world(), "epoch-2", HEALTH))
    driver.switched = ()  # It is not remembered: a command may come again.
    return driver


def on_trial(policy: Policy | None = None, does: Behaviour | None = None) -> Driver:
    """A device with v2 on trial, whose journal is lost at this moment."""
    driver = device({"v2": does} if does is not None else SICK)
    driver.tell(command(2, "v2", policy=policy))
    driver.run(until=in_phase(Phase.VERIFYING))
    return lost(driver)


def test_what_was_on_trial_has_to_prove_itself_though_the_journal_is_gone() -> None:
    driver = on_trial()
    assert driver.record.current is not None and driver.record.current.generation == 2
    assert driver.record.probation_left_ms == HEALTH.deadline_ms
    driver.run()
    assert driver.running() == ["v1"] and driver.record.reason is Reason.PROBATION_FAILED


def test_and_stays_when_it_does() -> None:
    driver = on_trial(does=Behaviour())
    driver.run()
    assert driver.running() == ["v2"] and driver.record.probation_left_ms == 0


def test_what_it_has_made_of_the_volume_is_taken_back_with_it() -> None:
    driver = on_trial(Policy(snapshot=True), Behaviour(migrates=True, healthy_at=None))
    assert driver.engine.snapshots[2][0] is SnapshotState.TAKEN and driver.engine.volume == V2
    driver.run()
    assert driver.running() == ["v1"] and driver.engine.volume == "" and not driver.record.duty
    assert driver.engine.snapshots == {}


def test_its_command_waits_for_the_end_of_that_trial() -> None:
    """Begun at once it would have only itself to go back to."""
    driver = on_trial()
    driver.memory = delivery.receive_birth_answer(driver.memory, "n", "n", driver.record.epoch, 1)
    assert driver.tell(command(2, "v2")) is delivery.Verdict.ACCEPTED
    assert driver.record.phase is Phase.IDLE
    driver.run()
    assert driver.outcomes == {"job-2": (Outcome.ROLLED_BACK, Reason.CANDIDATE_NEVER_HEALTHY)}
    assert driver.running() == ["v1"]


def test_a_newer_command_does_not_wait_for_it() -> None:
    driver = on_trial()
    driver.memory = delivery.receive_birth_answer(driver.memory, "n", "n", driver.record.epoch, 2)
    driver.tell(command(3, "v3"))
    driver.steps(1)
    assert driver.record.phase is Phase.ACCEPTED


def test_without_the_old_image_the_command_does_not_wait_for_ever() -> None:
    driver = on_trial()
    driver.memory = delivery.receive_birth_answer(driver.memory, "n", "n", driver.record.epoch, 1)
    driver.tell(command(2, "v2"))
    del driver.engine.images[V1]
    driver.steps(1)
    assert driver.record.phase is Phase.ACCEPTED


def test_a_copy_that_was_brought_back_is_no_copy_for_another_trial() -> None:
    """The runtime would not copy again, and the updater would ask for it for ever, with the client stopped."""
    driver = device()
    driver.tell(command(2, "v2", policy=Policy(snapshot=True)))
    driver.run(until=in_phase(Phase.STAGED))
    driver.engine.snapshots = {2: (SnapshotState.RESTORED, V2)}
    acts = [s for s in driver.steps(4) if isinstance(s, PrepareSnapshot | RemoveSnapshot)]
    assert acts == [RemoveSnapshot(2), PrepareSnapshot(2)]
    driver.run()
    assert driver.running() == ["v2"]


def test_a_copy_of_another_time_is_not_brought_back_with_a_version_that_is_given_up() -> None:
    """It could not be removed when its job had succeeded; what runs on the volume now is newer."""
    driver = device()
    driver.tell(command(2, "v2", policy=Policy(snapshot=True, probation_ms=1000)))
    driver.engine.act_failures[RemoveSnapshot] = 10**6
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    assert driver.engine.snapshots[2][0] is SnapshotState.TAKEN
    driver.engine.behaviours = {V2: Behaviour(bad_at=20)}
    driver.run(
        until=lambda d, s: d.record.reason is Reason.PROBATION_FAILED and s == Start("c1", trusted=True)
    )
    assert not driver.record.duty
    assert not any(isinstance(step, RestoreSnapshot) for _, step in driver.history)


def test_nor_with_one_that_cannot_be_started_any_more() -> None:
    driver = device()
    driver.tell(command(2, "v2", policy=Policy(snapshot=True)))
    driver.engine.act_failures[RemoveSnapshot] = 10**6
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    driver.engine.behaviours = {V2: Behaviour(crashes=True)}
    driver.engine.act(Stop("c2"))
    driver.run(until=lambda d, _: d.running() == ["v1"])
    assert driver.record.duty and driver.record.reason is Reason.CURRENT_FAILED
    assert not any(isinstance(step, RestoreSnapshot) for _, step in driver.history)


def test_a_turn_in_duty_ends_though_nothing_can_be_started() -> None:
    driver = device()
    driver.tell(command(2, "v2"))
    driver.run()
    driver.engine.behaviours = {V2: Behaviour(crashes=True)}
    driver.engine.act(Stop("c2"))
    driver.run(until=lambda d, _: d.record.duty)
    del driver.engine.images[V1]
    driver.engine.pull_failures[V1] = (Reason.REGISTRY_UNREACHABLE,) * 10**3
    starts = [s for s in driver.steps(400) if s == Start("c2", trusted=True)]
    assert len(starts) > 6, "current has its turns, too"


def test_what_was_adopted_is_judged_as_its_command_says_once_that_comes() -> None:
    driver = on_trial(does=Behaviour())
    default = replace(HEALTH, probe="/other")
    record = driver.record
    assert record.current is not None and record.previous is not None
    driver.memory = delivery.Memory(
        replace(
            record,
            current=replace(record.current, health=default),
            previous=replace(record.previous, health=default),
        )
    )
    driver.memory = delivery.receive_birth_answer(driver.memory, "n", "n", record.epoch, 1)
    driver.tell(command(2, "v2"))
    driver.steps(1)
    assert driver.record.current is not None and driver.record.current.health == HEALTH
    assert driver.record.previous is not None and driver.record.previous.health == HEALTH


@pytest.mark.parametrize(("health", "worn"), [(Health(), False), (HEALTH, True)])
def test_what_came_back_is_not_stopped_for_a_probe_that_nobody_asked_for(health: Health, worn: bool) -> None:
    """An adopted version is judged by defaults, and may answer elsewhere: it is left running."""
    driver = device()
    driver.tell(command(2, "v2"))
    driver.run()
    assert driver.record.current is not None
    current = replace(driver.record.current, health=health)
    record = replace(driver.record, current=current, reason=Reason.PROBATION_FAILED)
    sick = replace(
        driver.engine.containers[0], health=HealthState.STARTING, up_ms=10**9, watched_ms=10**9, healthy_ms=0
    )
    step = decide(record, replace(driver.world(), containers=(sick,)), 0, LIMITS)
    assert (isinstance(step, Journal) and step.record.duty) is worn
    assert worn or isinstance(step, Wait)


def stray(driver: Driver) -> None:
    """What a cut has brought back: an image and a container that were removed and not synced."""
    driver.engine.images[V9] = ImageState.PRESENT
    old = Container("c9", 9, image("v9"), ContainerState.EXITED, configuration="same", watched_ms=0)
    driver.engine.containers = (*driver.engine.containers, old)
    driver.engine.sync()


def test_what_a_cut_brought_back_goes_without_a_job() -> None:
    driver = device()
    stray(driver)
    driver.run()
    assert list(driver.engine.images) == [V1]
    assert [c.id for c in driver.engine.containers] == ["c1"]


def test_but_not_again_and_again_when_that_fails() -> None:
    driver = device()
    driver.engine.images[V9] = ImageState.PRESENT
    driver.engine.act_failures[RemoveImage] = 10**6
    tries = [s for s in driver.steps(30) if isinstance(s, RemoveImage)]
    assert len(tries) == LIMITS.act_attempts and driver.running() == ["v1"]


def test_a_stranger_with_the_label_of_current_does_not_keep_it_from_coming_back() -> None:
    driver = device()
    other = Container("c8", 1, image("v9"), ContainerState.EXITED, configuration="same", watched_ms=0)
    driver.engine.containers = (other,)
    driver.engine.sync()
    driver.run()
    steps = [s for _, s in driver.history if isinstance(s, Create | Remove)]
    assert steps == [Remove("c8"), Create(image("v1"), 1)] and driver.running() == ["v1"]


def test_a_version_adopted_beside_nothing_older_is_not_on_trial() -> None:
    driver = device()
    assert adopted(driver.world(), "epoch-2", HEALTH).probation_left_ms == 0


def given_up() -> Driver:
    """v2 was committed, has its restart policy, and is about to be given up on probation."""
    driver = device()
    driver.tell(command(2, "v2", policy=Policy(probation_ms=1000)))
    driver.run(until=lambda d, _: d.record.phase is Phase.IDLE and bool(d.outcomes))
    assert [c.restart_policy for c in driver.engine.containers] == ["unless-stopped"]
    driver.engine.behaviours = {V2: Behaviour(bad_at=20)}
    return driver


def test_the_version_that_was_given_up_is_not_revived_beside_the_other() -> None:
    """Both had a restart policy, and a boot would have started both."""
    driver = given_up()
    driver.run(until=lambda d, s: s == Start("c1", trusted=True))
    assert [c.restart_policy for c in driver.engine.containers if c.id == "c2"] == ["no"]
    driver.cut(Cut.KEEP)
    assert driver.run().running() == ["v1"]


def test_a_policy_that_cannot_be_set_does_not_keep_the_client_down() -> None:
    driver = given_up()
    driver.engine.act_failures[SetRestartPolicy] = 10**6
    driver.run(until=lambda d, _: d.running() == ["v1"])


def test_what_is_given_up_with_its_volume_is_stopped_first() -> None:
    """In duty whatever runs and is not sick is kept: it would be current again, and said to be gone."""
    driver = on_trial(Policy(snapshot=True), Behaviour(migrates=True))
    driver.steps(1)
    for _ in range(LIMITS.boots + 1):
        driver.cut(Cut.KEEP)
        driver.engine.act(Start("c2", trusted=True))
        driver.steps(1)
    assert driver.run().running() == ["v1"] and driver.record.reason is Reason.PROBATION_FAILED
    assert driver.engine.volume == ""


def test_current_has_every_turn_while_the_other_cannot_be_started() -> None:
    driver = device()
    driver.tell(command(2, "v2"))
    driver.run()
    driver.engine.behaviours = {V2: Behaviour(crashes=True)}
    driver.engine.act(Stop("c2"))
    driver.run(until=lambda d, _: d.record.duty)
    world = replace(driver.world(), restores=LIMITS.restore_attempts, error=None, dirty=False, failures=0)
    assert not any(c.generation == 1 for c in world.containers)
    for images in (world.images, {V2: ImageState.PRESENT}):
        step = decide(driver.record, replace(world, images=images, since_restore_ms=10**6), 0, LIMITS)
        assert step == Start("c2", trusted=True)
    step = decide(driver.record, replace(world, images={}, containers=()), 0, LIMITS)
    assert isinstance(step, Pull) and step.image.version == "v2", "neither: current first"


def test_what_is_between_two_starts_makes_the_other_ready_and_hammers_nobody() -> None:
    driver = device()
    driver.tell(command(2, "v2"))
    driver.run()
    driver.engine.behaviours = {V2: Behaviour(crashes=True)}
    driver.engine.act(Stop("c2"))
    driver.run(until=lambda d, _: d.record.duty)
    limits = replace(LIMITS, backoff_limit_ms=300_000, backoff_first_ms=100_000)
    world = replace(driver.world(), restores=2, error=None, dirty=False, failures=0)
    soon, late = replace(world, since_restore_ms=0), replace(world, since_restore_ms=limits.revive_rest_ms)
    assert decide(driver.record, soon, 0, limits) == Create(image("v1"), 1)
    gone = replace(soon, images={V2: ImageState.PRESENT})
    assert decide(driver.record, gone, 0, limits) == Pull(image("v1"))
    assert isinstance(decide(driver.record, late, 0, limits), Wait)
