"""The driver in these tests: observe, decide, check every invariant, then journal or act on the model engine.

Time passes only in `Wait` steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace

from reference.core import delivery, invariants
from reference.core.delivery import Memory
from reference.core.errors import BlackstartError, Reason
from reference.core.limits import Limits
from reference.core.model import (
    Command,
    Container,
    ContainerState,
    Failure,
    HealthState,
    ImageState,
    Outcome,
    Phase,
    World,
)
from reference.core.steps import (
    Act,
    Journal,
    RestartEngine,
    Start,
    Step,
    Sync,
    Wait,
)
from reference.core.update import UpdateRecord, decide
from tests.core.engine import (
    LIMITS,
    Behaviour,
    Cut,
    ModelEngine,
    command,
    image,
    installed,
)


class ViolatedError(AssertionError):
    """An invariant was broken; `names` are the invariants'."""

    def __init__(self, found: list[invariants.Violation], trace: list[str]) -> None:
        super().__init__("\n".join([*(f"{v.invariant}: {v.detail}" for v in found), "--", *trace]))
        self.names = {v.invariant for v in found}


Decide = Callable[[UpdateRecord, World, int | None, Limits], Step]
Advance = Callable[[Memory, UpdateRecord], Memory]


@dataclass
class Driver:
    """The loop. `memory` and `engine` are durable, the rest is the process's."""

    memory: Memory
    engine: ModelEngine
    limits: Limits = LIMITS
    now_ms: int | None = 0
    decide: Decide = decide
    advance: Advance = delivery.advance
    check: bool = True

    # process scope
    dirty: bool = True
    error: Failure | None = None
    failures: int = 0
    since_failure_ms: int = 0
    restores: int = 0
    since_restore_ms: int = 0
    outage_ms: int | None = None
    survived_ms: int = 0
    locked_ms: int = 0
    # what somebody on the device asks for; durable
    hold: bool = False
    lock: bool = False
    # boot scope
    restarted_for: str | None = None

    # what a judge saw
    outcomes: dict[str, tuple[Outcome, Reason | None]] = field(default_factory=dict)
    switched: tuple[int, ...] = ()
    history: list[tuple[Phase, Step | Cut]] = field(default_factory=list)

    @property
    def trace(self) -> list[str]:
        """What was done so far, for people."""
        return [f"-- cut: {s}" if isinstance(s, Cut) else f"{p}: {_short(s)}" for p, s in self.history]

    @property
    def record(self) -> UpdateRecord:
        return self.memory.record

    def key(self) -> Hashable:
        """All that the future depends on, and what is judged at the end."""
        volatile = (self.dirty, self.error, self.failures, self.since_failure_ms, self.restores)
        asked = (self.hold, self.lock, self.survived_ms, self.locked_ms)
        rest = (
            self.since_restore_ms,
            self.outage_ms,
            self.restarted_for,
            tuple(self.outcomes.items()),
            asked,
        )
        outbox = tuple(replace(r, sequence=0) for r in self.memory.outbox)
        return (self.record, outbox, self.engine.key(), volatile, rest, self.switched)

    def fork(self) -> Driver:
        other = copy(self)
        other.engine, other.outcomes, other.history = (
            self.engine.fork(),
            dict(self.outcomes),
            list(self.history),
        )
        return other

    def world(self) -> World:
        job = self.record.job.job_id if self.record.job is not None else ""
        return World(
            boot_id=f"boot-{self.engine.boot}",
            containers=self.engine.containers,
            images=dict(self.engine.images),
            dirty=self.dirty,
            error=self.error,
            failures=self.failures,
            since_failure_ms=self.since_failure_ms,
            restores=self.restores,
            since_restore_ms=self.since_restore_ms,
            engine_restarted=self.restarted_for == job,
            jitter_permille=1000,
            outage_ms=self.outage_ms,
            hold=self.hold,
            locked_ms=self.locked_ms if self.lock else None,
            snapshots={generation: state for generation, (state, _) in self.engine.snapshots.items()},
            survived_ms=self.survived_ms,
        )

    def next_step(self) -> tuple[Step, World]:
        """Observe and decide, with every invariant checked. Raises ViolatedError."""
        world = self.world()
        for installed_ in (self.record.current, self.record.previous):
            found = world.find(installed_)
            on_probation = self.record.probation_left_ms > 0 and not self.record.duty
            stable = installed_ is not None and found is not None and found.stable(installed_.health)
            if stable and not on_probation:
                self.restores = 0
                world = replace(world, restores=0)
        step = self.decide(self.record, world, self.now_ms, self.limits)
        self.history.append((self.record.phase, step))
        if self.check:
            found_ = invariants.every_step(self.memory, step, world, self.limits)
            if found_:
                raise ViolatedError(found_, self.trace)
        return step, world

    def take(self, step: Step) -> None:
        """Carry the step out."""
        if isinstance(step, Journal):
            self._journal(step.record)
        elif isinstance(step, Wait):
            self._pass(step.for_ms)
        else:
            self._act(step)
        if self.check and (found := invariants.status_not_ahead(self.memory)):
            raise ViolatedError(found, self.trace)

    def _journal(self, record: UpdateRecord) -> None:
        before = self.record
        self.memory = self.advance(self.memory, record)
        self.error = None
        if before.phase is not record.phase:
            self.failures = 0
        if before.probation_left_ms != record.probation_left_ms or before.current != record.current:
            self.survived_ms = self.restores = 0
        if record.phase is Phase.SWITCHING and before.phase is not Phase.SWITCHING:
            assert record.job is not None
            self.switched = (*self.switched, record.job.generation)
        if before.outcome is None and record.outcome is not None:
            assert record.job is not None
            self.outcomes[record.job.job_id] = (record.outcome, record.reason)

    def _act(self, step: Act) -> None:
        self.error = None
        trusted = isinstance(step, Start) and step.trusted
        if trusted:
            self.restores, self.since_restore_ms = self.restores + 1, 0
        self.dirty = not isinstance(step, Sync | RestartEngine) or (
            self.dirty and isinstance(step, RestartEngine)
        )
        if isinstance(step, RestartEngine):
            self.restarted_for = self.record.job.job_id if self.record.job is not None else ""
        try:
            self.engine.act(step)
        except BlackstartError as error:
            self.dirty = True
            self.error = Failure(error.reason, error.what, trusted)
            self.failures, self.since_failure_ms = self.failures + 1, 0
        else:
            self.failures = 0

    def _pass(self, ms: int) -> None:
        assert ms > 0, "a wait that does not wait is a busy loop"
        up = any(c.health is HealthState.HEALTHY for c in self.engine.containers if c.running)
        if not up:
            self.outage_ms = min((self.outage_ms or 0) + ms, 1000)
        self.engine.advance(ms)
        current = self.world().find(self.record.current)
        probation = self.record.probation_left_ms > 0 and self.record.phase is Phase.IDLE
        healthy = current is not None and current.running and current.health is HealthState.HEALTHY
        self.survived_ms = self.survived_ms + ms if probation and healthy else 0
        self.restores += self.engine.revived if probation else 0
        self.engine.revived = 0
        waits = self.lock and self.record.phase is Phase.STAGED and not self.hold
        self.locked_ms = self.locked_ms + ms if waits else 0
        # Ages that decide nothing any more are capped, so that a state that comes back is known again.
        self.since_failure_ms = min(self.since_failure_ms + ms, 1000) if self.failures else 0
        self.since_restore_ms = min(self.since_restore_ms + ms, 1000) if self.restores else 0

    def cut(self, kind: Cut) -> None:
        """The process ends and begins again, after a boot unless `kind` is AGENT."""
        self.history.append((self.record.phase, kind))
        self.engine.cut(kind)
        self.dirty, self.error, self.failures, self.since_failure_ms = True, None, 0, 0
        self.restores, self.since_restore_ms, self.outage_ms = 0, 0, None
        self.survived_ms = self.locked_ms = 0
        if kind is not Cut.AGENT:
            self.restarted_for = None

    def resting(self, step: Step, world: World) -> bool:
        """Whether nothing more will happen by itself."""
        record = self.record
        if record.phase is not Phase.IDLE or record.queued is not None or not isinstance(step, Wait):
            return False
        previous = record.previous.image.digest if record.previous is not None else ""
        if record.probation_left_ms > 0 and world.images.get(previous) is ImageState.PRESENT:
            return record.current is None
        current = world.find(record.current)
        return record.current is None or (current is not None and current.stable(record.current.health))

    def run(self, most: int = 300, until: Callable[[Driver, Step], bool] | None = None) -> Driver:
        """Step until nothing more happens, or (`until`) until it says so before a step is taken.

        Raises ViolatedError when an invariant breaks or the end is not reached in `most` steps.
        """
        for _ in range(most):
            step, world = self.next_step()
            if until is not None:
                if until(self, step):
                    return self
            elif self.resting(step, world):
                if self.check and (found := self.judged(world)):
                    raise ViolatedError(found, self.trace)
                return self
            self.take(step)
        raise ViolatedError([invariants.Violation("converges", f"not in {most} steps")], self.trace)

    def judged(self, world: World) -> list[invariants.Violation]:
        """What must hold at rest."""
        return [
            *invariants.converged(self.record, world),
            *invariants.one_install_per_generation(self.switched),
        ]

    def steps(self, count: int) -> list[Step]:
        """Take so many steps and answer them."""
        taken = []
        for _ in range(count):
            step, _world = self.next_step()
            self.take(step)
            taken.append(step)
        return taken

    def tell(self, order: Command) -> delivery.Verdict:
        """A command arrives."""
        self.memory, verdict = delivery.receive(self.memory, order, self.now_ms, self.limits)
        return verdict

    def running(self) -> list[str]:
        """Versions that run."""
        return [c.image.version for c in self.engine.containers if c.running]


def in_phase(phase: Phase) -> Callable[[Driver, Step], bool]:
    """For `run(until=...)`: the record is in this phase."""
    return lambda driver, _step: driver.record.phase is phase


def about_to(kind: type[Step]) -> Callable[[Driver, Step], bool]:
    """For `run(until=...)`: a step of this kind is next."""
    return lambda _driver, step: isinstance(step, kind)


def device(behaviours: Mapping[str, Behaviour] | None = None, *, first: bool = False) -> Driver:
    """A device that runs v1 (generation 1) well, or (`first`) nothing yet. `behaviours` by version."""
    by_digest = {image(version).digest: does for version, does in (behaviours or {}).items()}
    engine = ModelEngine(by_digest)
    if first:
        return Driver(Memory(UpdateRecord("epoch-1", floor=0)), engine)
    old = Container(
        "c1", 1, image("v1"), ContainerState.RUNNING, True, 500, HealthState.HEALTHY, 100,
        restart_policy="unless-stopped", configuration="same", watched_ms=500,
    )  # fmt: skip
    if engine.behaviour(old).crashes:
        old = replace(
            old, state=ContainerState.EXITED, exit_code=1, health=HealthState.STARTING, healthy_ms=0
        )
    engine.containers, engine.images = (old,), {old.image.digest: ImageState.PRESENT}
    engine.sync()
    return Driver(Memory(UpdateRecord("epoch-1", floor=1, current=installed(1, "v1", "c1"))), engine)


def updated(behaviours: Mapping[str, Behaviour] | None = None) -> Driver:
    """A device that was updated from v1 to v2 (generation 2): v2 is current, v1 previous."""
    driver = device(behaviours)
    driver.tell(command(2, "v2"))
    return driver.run()


def _short(step: Step) -> str:
    if isinstance(step, Journal):
        r = step.record
        why = f" {r.outcome or ''} {r.reason or ''}".rstrip()
        return f"Journal {r.phase}{why} attempts={r.attempts} boots={r.boots}"
    return repr(step).replace("container_id=", "")
