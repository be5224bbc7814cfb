"""Errors, limits, what is observed, the invariants' own sight, and a journal made anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery, errors, invariants
from reference.core.adopt import adopted, outdated
from reference.core.delivery import Memory
from reference.core.errors import BlackstartError, Reason, Retry, retry_of
from reference.core.job import Job, JobStatus, Report
from reference.core.limits import Limits
from reference.core.model import Container, ContainerState, HealthState, ImageState, Outcome, Phase, World
from reference.core.steps import Journal, Remove, RemoveImage, Start, Stop, Wait
from reference.core.update import UpdateRecord
from tests.core.engine import HEALTH, LIMITS, command, image, installed
from tests.core.world import updated

LIVE = Container("c1", 1, image("v1"), ContainerState.RUNNING, True, 500, HealthState.HEALTHY, 100)
V1 = LIVE.image.digest
PRESENT = {V1: ImageState.PRESENT}


# ---- errors


def test_every_error_says_what_where_and_what_to_do() -> None:
    error = errors.InputError("no such file", where="a.yaml:3", todo="Make it.")
    assert str(error) == "a.yaml:3: no such file. Make it."
    assert str(errors.InputError("Why?", todo="Because.")) == "Why? Because."
    assert str(errors.InputError("short")) == "short"


def test_every_error_has_a_reason_of_its_own_kind() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, BlackstartError)]
    assert len(kinds) == 9
    assert all(k("x").reason is k.default for k in kinds)
    assert errors.EngineError("x", reason=Reason.START_REFUSED).reason is Reason.START_REFUSED


def test_unknown_trouble_is_never_hammered() -> None:
    assert retry_of(Reason.REGISTRY_UNREACHABLE) is Retry.MANY
    assert retry_of(Reason.PULL_CORRUPT) is Retry.FEW
    assert {r for r in Reason if retry_of(r) is Retry.NEVER} >= {Reason.DISK_FULL, Reason.IMAGE_UNSAFE}


# ---- limits


def test_backoff_grows_to_its_limit_with_equal_jitter() -> None:
    limits = Limits()
    assert [limits.backoff_ms(n, 1000) for n in (0, 1, 2, 3)] == [500, 500, 1000, 2000]
    assert limits.backoff_ms(10**9, 1000) == 300_000
    assert limits.backoff_ms(1, -5) == limits.backoff_ms(1, 0) == 250
    assert limits.backoff_ms(1, 5000) == 500
    assert limits.backoff_ms(1, 1000, Reason.REGISTRY_THROTTLED) == 10_000


def test_tries_by_class() -> None:
    limits = Limits()
    reasons = (Reason.ENGINE_ERROR, Reason.PULL_CORRUPT, Reason.DISK_FULL)
    assert [limits.attempts(r) for r in reasons] == [8, 3, 1]
    assert [limits.acts(r) for r in reasons] == [3, 3, 1]


# ---- what is observed


def test_a_life_is_judged_by_how_long_it_was_watched() -> None:
    old = replace(LIVE, up_ms=10_000, health=HealthState.STARTING, healthy_ms=0)
    assert old.sick(HEALTH), "no one says for how long it was watched: as long as it is up"
    assert not replace(old, watched_ms=HEALTH.deadline_ms).sick(HEALTH)
    assert replace(old, watched_ms=HEALTH.deadline_ms + 1).sick(HEALTH)
    assert not replace(old, state=ContainerState.EXITED).sick(HEALTH)


def test_unsteady_is_good_for_too_short_after_long_enough() -> None:
    bound = HEALTH.deadline_ms + HEALTH.stable_for_ms
    wavering = replace(LIVE, up_ms=bound, healthy_ms=50)
    assert not wavering.unsteady(HEALTH)
    assert replace(wavering, up_ms=bound + 1).unsteady(HEALTH)
    assert not replace(LIVE, up_ms=bound + 1).unsteady(HEALTH)


def test_a_container_is_known_by_id_then_by_label_and_image() -> None:
    world = World("b", (LIVE,))
    assert world.pick("c1", 9, V1) is LIVE
    assert world.pick("c1", 1, "other") is None
    assert world.pick("gone", 1, V1) is LIVE
    assert world.pick(None, 2, V1) is None
    assert world.find(None) is None
    assert world.running_beside(LIVE) is None and world.running_beside(None) is LIVE


# ---- what the invariants see


def seen(found: list[invariants.Violation]) -> set[str]:
    return {v.invariant for v in found}


CURRENT = UpdateRecord("e", floor=1, current=installed(1, "v1", "c1"))
STAGED = replace(CURRENT, phase=Phase.STAGED, floor=2, job=command(2, "v2"))
CANDIDATE = Container("c2", 2, image("v2"), ContainerState.CREATED)
WORLD = World("b", (LIVE, CANDIDATE), {**PRESENT, image("v2").digest: ImageState.PRESENT}, dirty=False)


@pytest.mark.parametrize(
    ("record", "step", "world", "name"),
    [
        (CURRENT, Wait(1, ""), replace(WORLD, containers=(LIVE, replace(LIVE, id="x"))), "never_two_active"),
        (
            CURRENT,
            Wait(1, ""),
            replace(WORLD, containers=(replace(LIVE, configuration="a"), replace(CANDIDATE, configuration="b"))),
            "same_configuration",
        ),
        (STAGED, Remove("c1"), WORLD, "current_kept"),
        (STAGED, RemoveImage(V1), WORLD, "current_kept"),
        (STAGED, Start("c2"), WORLD, "stop_is_journaled"),
        (STAGED, Stop("c1"), WORLD, "stop_is_journaled"),
        (CURRENT, Start("c1"), replace(WORLD, dirty=True), "synced_before_start"),
        (STAGED, Journal(replace(STAGED, phase=Phase.COMMITTING)), WORLD, "success_proved"),
        (
            STAGED,
            Journal(replace(STAGED, phase=Phase.CLEANING_UP, outcome=Outcome.SUCCEEDED)),
            WORLD,
            "success_proved",
        ),
        (STAGED, Journal(replace(STAGED, floor=1)), WORLD, "generations_rise"),
        (STAGED, Journal(replace(STAGED, floor=None)), WORLD, "generations_rise"),
        (STAGED, Journal(replace(STAGED, job=command(1, "v1"))), WORLD, "generations_rise"),
        (replace(STAGED, attempts=99), Wait(1, ""), WORLD, "bounded"),
        (replace(STAGED, boots=99), Wait(1, ""), WORLD, "bounded"),
        (CURRENT, Wait(1, ""), replace(WORLD, images=dict.fromkeys("abcd", ImageState.PRESENT)), "bounded"),
    ],
)  # fmt: skip
def test_every_invariant_sees_its_breach(record: UpdateRecord, step: object, world: World, name: str) -> None:
    assert name in seen(invariants.every_step(Memory(record), step, world, LIMITS))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "step",
    [
        Wait(1, ""), Remove("c2"), RemoveImage("sha256:v9"), Start("c1", trusted=True), Stop("c2"), Stop("gone"),
        Journal(replace(STAGED, phase=Phase.SWITCHING)), Journal(replace(STAGED, attempts=1)),
        Journal(replace(STAGED, epoch="other", floor=None, phase=Phase.IDLE, job=None)),
    ],
)  # fmt: skip
def test_what_is_right_is_left_alone(step: object) -> None:
    assert invariants.every_step(Memory(STAGED), step, WORLD, LIMITS) == []  # type: ignore[arg-type]


def test_no_report_is_ahead_of_the_record() -> None:
    done = Report("job-2", 2, 1, JobStatus.SUCCEEDED, Phase.CLEANING_UP)
    others = (replace(done, job_id="x"), replace(done, status=JobStatus.IN_PROGRESS))
    assert seen(invariants.status_not_ahead(Memory(STAGED, outbox=(done,)))) == {"status_not_ahead"}
    assert invariants.status_not_ahead(Memory(STAGED, outbox=others)) == []
    assert invariants.status_not_ahead(Memory(CURRENT, outbox=(done,))) == []
    refused = replace(done, status=JobStatus.REJECTED)
    assert invariants.status_not_ahead(Memory(STAGED, outbox=(refused,))) == []


def test_convergence_is_one_healthy_trusted_container() -> None:
    good = World("b", (LIVE,), PRESENT)
    assert invariants.converged(CURRENT, good) == []
    assert invariants.converged(UpdateRecord("e"), World("b")) == []
    for record, world in (
        (STAGED, good),
        (replace(CURRENT, queued=command(2, "v2")), good),
        (UpdateRecord("e"), good),
        (CURRENT, replace(good, containers=())),
        (CURRENT, replace(good, containers=(replace(LIVE, id="x", generation=7),))),
        (CURRENT, replace(good, containers=(replace(LIVE, health=HealthState.STARTING),))),
        (CURRENT, replace(good, images={})),
    ):
        assert seen(invariants.converged(record, world)) == {"converges"}


def test_history_and_agreement() -> None:
    assert invariants.one_install_per_generation([1, 2, 5]) == []
    trial, end = (Phase.SWITCHING, 4), (Phase.IDLE, None)
    told = [(Phase.STAGED, 4), trial, trial, (Phase.VERIFYING, 4), end, (Phase.SWITCHING, None), end, trial]
    assert invariants.switched(told) == [4, 4], (
        "a boot within a trial is not another switch, a second trial is"
    )
    assert seen(invariants.one_install_per_generation([1, 1])) == {"one_install_per_generation"}
    done = Job("j", 1, JobStatus.SUCCEEDED, outcome=Outcome.SUCCEEDED)
    assert invariants.terminal_is_final(Job("j", 1), done) == []
    assert invariants.terminal_is_final(done, done) == []
    changed = replace(done, status=JobStatus.FAILED)
    assert seen(invariants.terminal_is_final(done, changed)) == {"terminal_is_final"}
    assert invariants.agrees(done, Outcome.SUCCEEDED, None) == []
    assert seen(invariants.agrees(done, Outcome.FAILED, None)) == {"service_agrees"}


# ---- a journal made anew


def test_what_runs_is_adopted_and_left_running() -> None:
    new = replace(LIVE, id="c2", generation=2, image=image("v2"))
    old = replace(LIVE, state=ContainerState.EXITED)
    record = adopted(World("b", (old, new), WORLD.images), "e2", HEALTH)
    assert (record.epoch, record.floor, record.phase) == ("e2", None, Phase.IDLE)
    assert record.current is not None and record.current.container_id == "c2"
    assert record.previous is not None and record.previous.container_id == "c1"


def test_when_nothing_runs_the_oldest_is_adopted_that_is_whole() -> None:
    old, new = replace(LIVE, state=ContainerState.EXITED), CANDIDATE
    record = adopted(World("b", (new, old), WORLD.images), "e2", HEALTH)
    assert record.current is not None and record.current.container_id == "c1"
    torn = {**WORLD.images, V1: ImageState.BROKEN}
    record = adopted(World("b", (new, old), torn), "e2", HEALTH)
    assert record.current is not None and record.current.container_id == "c2" and record.previous is None
    both = dict.fromkeys(torn, ImageState.BROKEN)
    record = adopted(World("b", (new, old), both), "e2", HEALTH)
    assert record.current is not None and record.current.container_id == "c1"
    assert adopted(World("b"), "e2", HEALTH) == UpdateRecord("e2")


def test_a_record_that_is_older_than_what_was_made_is_seen() -> None:
    driver = updated()
    world, record = driver.world(), driver.record
    assert not outdated(record, world)
    assert outdated(replace(record, floor=1, current=record.previous, previous=None), world)
    assert not outdated(replace(record, floor=1), world), "it knows the generation that runs"
    assert not outdated(UpdateRecord("new"), world), "it has made nothing"


def test_nothing_older_than_what_runs_is_taken_and_what_runs_may_be_told_again() -> None:
    """The service was restored from a backup and has forgotten the generation, or its answer went with the journal."""
    record = updated().record
    assert record.current is not None and record.current.generation == 2
    memory = delivery.Memory(replace(record, floor=None))
    memory = delivery.receive_birth_answer(memory, "n", "n", memory.record.epoch, 0)
    _, older = delivery.receive(memory, command(1, "v1"), None, LIMITS)
    after, same = delivery.receive(memory, command(2, "v2"), None, LIMITS)
    assert (older, same) == (delivery.Verdict.REJECTED, delivery.Verdict.ACCEPTED)
    assert after.record.queued is not None and after.record.queued.generation == 2
