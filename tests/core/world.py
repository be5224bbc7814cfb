"""The driver in these tests: observe, decide, check every invariant, then journal or act on the model engine.

A handle that may be changed on what `reference.world` gives: what a process knows, and how the world looks to it. Time
passes only in `Wait` steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace

from reference.core import delivery, invariants
from reference.core.delivery import Memory
from reference.core.errors import Reason
from reference.core.limits import Limits
from reference.core.model import Command, Outcome, Phase, Policy, World
from reference.core.steps import Act, Journal, Step, Wait
from reference.core.update import UpdateRecord, decide
from reference.world import process as processes
from reference.world import story
from reference.world.engine import RefusedError
from reference.world.machine import Machine, resting
from reference.world.process import Process
from reference.world.replay import brief
from reference.world.service import Service
from tests.core.engine import LIMITS, Behaviour, Cut, ModelEngine, command, image


class ViolatedError(AssertionError):
    """An invariant was broken; `names` are the invariants'."""

    def __init__(self, found: list[invariants.Violation], trace: list[str]) -> None:
        super().__init__("\n".join([*(f"{v.invariant}: {v.detail}" for v in found), "--", *trace]))
        self.names = {v.invariant for v in found}


Decide = Callable[[UpdateRecord, World, int | None, Limits], Step]
Advance = Callable[[Memory, UpdateRecord], Memory]


@dataclass
class Driver:
    """The loop. `memory` and `engine` are durable, `process` is one life of the updater."""

    memory: Memory
    engine: ModelEngine
    limits: Limits = LIMITS
    now_ms: int | None = 0
    decide: Decide = decide
    advance: Advance = delivery.advance
    check: bool = True
    process: Process = field(default_factory=lambda: Process(opened=True))

    # what a judge saw
    outcomes: dict[str, tuple[Outcome, Reason | None]] = field(default_factory=dict)
    switched: tuple[int, ...] = ()
    history: list[tuple[Phase, Step | Cut]] = field(default_factory=list)

    @property
    def trace(self) -> list[str]:
        """What was done so far, for people."""
        return [f"-- cut: {s}" if isinstance(s, Cut) else f"{p}: {brief(s)}" for p, s in self.history]

    @property
    def record(self) -> UpdateRecord:
        """What is journaled."""
        return self.memory.record

    @property
    def restores(self) -> int:
        """Starts of trusted versions in a row."""
        return self.process.restores

    @property
    def hold(self) -> bool:
        """Whether an operator holds the device."""
        return self.process.hold

    @hold.setter
    def hold(self, wanted: bool) -> None:
        self.process = self.process._replace(hold=wanted)

    @property
    def lock(self) -> bool:
        """Whether the client has taken the update lock."""
        return self.process.lock

    @lock.setter
    def lock(self, wanted: bool) -> None:
        self.process = self.process._replace(lock=wanted)

    def fork(self) -> Driver:
        """Another one that has come as far."""
        other = copy(self)
        other.engine, other.outcomes, other.history = (
            self.engine.fork(),
            dict(self.outcomes),
            list(self.history),
        )
        return other

    def world(self) -> World:
        """The world as `decide` sees it."""
        machine = Machine(self.engine.setting, self.limits)
        seen = machine.world(machine.begin(self.memory, self.engine.state, self.process, Service()))
        return replace(seen, boot_id=f"boot-{self.engine.boot}")

    def next_step(self) -> tuple[Step, World]:
        """Observe and decide, with every invariant checked. Raises ViolatedError."""
        world = self.world()
        settled = processes.settled(self.process, self.record, world)
        if settled != self.process:
            self.process = settled
            world = self.world()
        step = self.decide(self.record, world, self.now_ms, self.limits)
        self.history.append((self.record.phase, step))
        if self.check and (found := invariants.every_step(self.memory, step, world, self.limits)):
            raise ViolatedError(found, self.trace)
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
        self.process = processes.journaled(self.process, before, record)
        if record.phase is Phase.SWITCHING and before.phase is not Phase.SWITCHING:
            assert record.job is not None
            self.switched = (*self.switched, record.job.generation)
        if before.outcome is None and record.outcome is not None:
            assert record.job is not None
            self.outcomes[record.job.job_id] = (record.outcome, record.reason)

    def _act(self, step: Act) -> None:
        failure = None
        try:
            self.engine.act(step)
        except RefusedError as refused:
            failure = refused.failure
        job_id = self.record.job.job_id if self.record.job is not None else ""
        self.process = processes.acted(self.process, step, failure, job_id, self.limits)

    def _pass(self, ms: int) -> None:
        assert ms > 0, "a wait that does not wait is a busy loop"
        before = self.world()
        revived = self.engine.advance(ms)
        self.process = processes.waited(
            self.process, self.record, before, self.world(), ms, self.limits, revived
        )

    def cut(self, kind: Cut) -> None:
        """The process ends and begins again, after a boot unless `kind` is AGENT."""
        self.history.append((self.record.phase, kind))
        self.engine.cut(kind)
        self.process = processes.fresh(self.process, boot=kind is not Cut.AGENT)

    def run(self, most: int = 300, until: Callable[[Driver, Step], bool] | None = None) -> Driver:
        """Step until nothing more happens, or (`until`) until it says so before a step is taken.

        Raises ViolatedError when an invariant breaks or the end is not reached in `most` steps.
        """
        for _ in range(most):
            step, world = self.next_step()
            if until is not None:
                if until(self, step):
                    return self
            elif resting(self.record, step, world):
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


# ---- where a test begins


def device(behaviours: Mapping[str, Behaviour] | None = None, *, first: bool = False) -> Driver:
    """A device that runs v1 (generation 1) as well as it can, or (`first`) nothing yet. `behaviours` by version."""
    by_version = dict(behaviours or {})
    memory, engine = story.fresh() if first else story.device(by_version)
    by_digest = {image(version).digest: does for version, does in by_version.items()}
    return Driver(memory, ModelEngine(by_digest, engine))


def updated(behaviours: Mapping[str, Behaviour] | None = None) -> Driver:
    """A device that was updated from v1 to v2 (generation 2): v2 is current, v1 previous."""
    driver = device(behaviours)
    driver.tell(command(2, "v2"))
    return driver.run()


def ordered(
    behaviours: Mapping[str, Behaviour] | None = None, *, first: bool = False, policy: Policy | None = None
) -> Driver:
    """A device that has just taken the command for v2."""
    driver = device(behaviours, first=first)
    driver.tell(command(2, "v2", policy=policy))
    return driver


def held() -> Driver:
    """As `ordered`, and an operator holds the device."""
    driver = ordered()
    driver.hold = True
    return driver


def locked() -> Driver:
    """As `ordered`, and the client has taken the update lock."""
    driver = ordered()
    driver.lock = True
    return driver


def pull_fails(*reasons: Reason) -> Driver:
    """As `ordered`; the next pulls of v2 fail so."""
    driver = ordered()
    driver.engine.pull_failures[image("v2").digest] = reasons
    return driver
