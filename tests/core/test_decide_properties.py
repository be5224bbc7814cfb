"""`decide` over records and worlds that nobody thought of."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from reference.core.delivery import Memory
from reference.core.errors import Reason
from reference.core.model import (
    Command,
    Container,
    ContainerState,
    Failure,
    HealthState,
    ImageState,
    Installed,
    Outcome,
    Phase,
    Policy,
    SnapshotState,
    World,
)
from reference.core.record import HOLDS
from reference.core.steps import Journal, Remove, SetRestartPolicy, Start, Step, Stop, Wait
from reference.core.update import UpdateRecord, decide
from tests.core.engine import HEALTH, LIMITS, ModelEngine, command, image
from tests.core.world import Driver, ViolatedError

VERSIONS = st.sampled_from(["v1", "v2", "v3"])
GENERATIONS = st.integers(1, 4)
IDS = st.sampled_from(["c1", "c2", "c3"])
POLICIES = st.sampled_from(["no", "always", "unless-stopped"])
AGES = st.sampled_from([0, 1, 50, 99, 100, 200, 201, 300, 301, 10**6])
COUNTS = st.integers(0, 4)
BOOTS = st.sampled_from(["boot-1", "boot-2"])
REASONS = st.sampled_from(list(Reason))

installs = st.builds(
    Installed, VERSIONS.map(image), st.just(HEALTH), GENERATIONS, st.none() | IDS, POLICIES
)  # fmt: skip
policies = st.builds(Policy, st.booleans(), st.sampled_from([0, 100, 400]), st.sampled_from([0, 50]))
commands: st.SearchStrategy[Command] = st.builds(
    command, GENERATIONS, VERSIONS, expires_at_ms=st.integers(0, 2**40), policy=policies
)
containers = st.builds(
    Container,
    id=IDS,
    generation=GENERATIONS,
    image=VERSIONS.map(image),
    state=st.sampled_from(ContainerState),
    started_this_boot=st.booleans(),
    up_ms=AGES,
    health=st.sampled_from(HealthState),
    healthy_ms=AGES,
    exit_code=st.none() | st.integers(0, 255),
    restart_policy=POLICIES,
    watched_ms=st.none() | AGES,
)
failures = st.builds(Failure, REASONS, st.just("m"), st.booleans())
worlds = st.builds(
    World,
    boot_id=BOOTS,
    containers=st.lists(containers, max_size=3, unique_by=lambda c: c.id).map(tuple),
    images=st.dictionaries(VERSIONS.map(lambda v: image(v).digest), st.sampled_from(ImageState), max_size=3),
    dirty=st.booleans(),
    error=st.none() | failures,
    failures=COUNTS,
    since_failure_ms=AGES,
    restores=COUNTS,
    since_restore_ms=AGES,
    engine_restarted=st.booleans(),
    jitter_permille=st.integers(0, 1000),
    outage_ms=st.none() | AGES,
    hold=st.booleans(),
    locked_ms=st.none() | AGES,
    snapshots=st.dictionaries(GENERATIONS, st.sampled_from(SnapshotState), max_size=2),
    survived_ms=AGES,
)


@st.composite
def records(draw: st.DrawFn) -> UpdateRecord:
    phase = draw(st.sampled_from(Phase))
    job = None if phase is Phase.IDLE else draw(commands)
    return UpdateRecord(
        epoch="e",
        phase=phase,
        floor=draw(st.none() | st.just(9)),
        current=draw(st.none() | installs),
        previous=draw(st.none() | installs),
        job=job,
        queued=draw(st.none() | commands),
        cancel=draw(st.booleans()),
        candidate_id=draw(st.none() | IDS),
        outcome=draw(st.sampled_from(Outcome)) if phase is Phase.CLEANING_UP else None,
        reason=draw(st.none() | REASONS),
        attempts=draw(COUNTS),
        boots=draw(st.integers(0, LIMITS.boots)),
        boot_id=draw(st.none() | BOOTS),
        duty=draw(st.booleans()),
        probation_left_ms=draw(st.sampled_from([0, 150, 400])),
    )


clocks = st.none() | st.integers(0, 2**41)


@given(records(), worlds, clocks)
def test_it_always_answers_and_always_the_same(
    record: UpdateRecord, world: World, now_ms: int | None
) -> None:
    step = decide(record, world, now_ms, LIMITS)
    assert isinstance(step, Step)
    assert decide(record, world, now_ms, LIMITS) == step


@given(records(), worlds, clocks)
def test_a_step_does_something(record: UpdateRecord, world: World, now_ms: int | None) -> None:
    step = decide(record, world, now_ms, LIMITS)
    if isinstance(step, Journal):
        assert step.record != record
        assert step.record.epoch == record.epoch and step.record.floor == record.floor
    elif isinstance(step, Wait):
        assert step.for_ms > 0
    elif isinstance(step, Start | Stop | Remove | SetRestartPolicy):
        found = {c.id: c for c in world.containers}[step.container_id]
        if isinstance(step, Start):
            assert not found.running and not world.dirty
        elif isinstance(step, Stop):
            assert found.running
        elif isinstance(step, SetRestartPolicy):
            assert found.restart_policy != step.policy


@given(records(), worlds, clocks)
def test_nothing_starts_beside_another_one(record: UpdateRecord, world: World, now_ms: int | None) -> None:
    if isinstance(decide(record, world, now_ms, LIMITS), Start):
        assert not any(c.running for c in world.containers)


@given(records(), worlds, clocks)
def test_a_lower_phase_never_follows_a_commit(record: UpdateRecord, world: World, now_ms: int | None) -> None:
    step = decide(record, world, now_ms, LIMITS)
    if record.phase is Phase.COMMITTING and isinstance(step, Journal):
        assert step.record.phase in (Phase.COMMITTING, Phase.CLEANING_UP)
        assert step.record.outcome in (None, Outcome.SUCCEEDED)


@given(records(), worlds)
def test_from_anywhere_the_job_ends_and_something_trusted_runs(record: UpdateRecord, world: World) -> None:
    """Whatever was journaled and whatever is there: when faults stop, it converges."""
    running = False
    alone = []
    for container in world.containers:  # The engine itself never runs two; see never_two_active.
        keep = not (container.running and running)
        running = running or container.running
        alone.append(container if keep else replace(container, state=ContainerState.EXITED))
    engine = ModelEngine()
    engine.containers, engine.images = tuple(alone), world.images
    engine.snapshots = {generation: (state, "") for generation, state in world.snapshots.items()}
    driver = Driver(Memory(record), engine, check=False)
    driver.run()
    assert driver.record.phase is Phase.IDLE and driver.record.queued is None
    assert len(driver.running()) == (0 if driver.record.current is None else 1)


@given(records(), worlds, clocks)
def test_under_a_hold_nothing_is_touched(record: UpdateRecord, world: World, now_ms: int | None) -> None:
    step = decide(record, replace(world, hold=True), now_ms, LIMITS)
    if record.phase in HOLDS:
        assert isinstance(step, Journal | Wait)


def test_a_run_that_does_not_end_is_seen() -> None:
    driver = Driver(Memory(UpdateRecord("e")), ModelEngine(), decide=lambda *_: Wait(1, "never at rest"))
    driver.memory = Memory(replace(driver.record, phase=Phase.ACCEPTED, job=command(1, "v1"), floor=1))
    try:
        driver.run()
    except ViolatedError as error:
        assert error.names == {"converges"}
    else:
        raise AssertionError("it was said to converge")
