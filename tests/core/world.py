"""A model of engine, device and driver: what the updater runs on in these tests.

The engine keeps containers and images twice, as they are and as the disk has them; a `Cut.LOSE` boots from the disk.
Time passes only in `Wait` steps. The driver is the loop of the edge agent: observe, decide, check, journal or act.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reference.core import delivery, invariants
from reference.core.delivery import Memory
from reference.core.errors import BlackstartError, EngineError, Reason, RegistryError
from reference.core.limits import Limits
from reference.core.model import (
    Command,
    Container,
    ContainerState,
    Failure,
    Health,
    HealthState,
    Image,
    ImageState,
    Installed,
    Outcome,
    Phase,
    World,
)
from reference.core.steps import (
    Act,
    Create,
    Journal,
    Pull,
    Remove,
    RemoveImage,
    RestartEngine,
    SetRestartPolicy,
    Start,
    Step,
    Stop,
    Sync,
    Wait,
)
from reference.core.update import UpdateRecord, decide

HEALTH = Health(start_period_ms=50, window_ms=150, stable_for_ms=100)
LIMITS = Limits(
    pull_attempts_many=3,
    pull_attempts_few=2,
    act_attempts=2,
    boots=3,
    restore_attempts=2,
    revive_attempts_in_job=1,
    backoff_first_ms=100,
    backoff_limit_ms=400,
    backoff_throttled_ms=300,
    poll_ms=50,
    watch_ms=100,
)
"""Small bounds, so that every one of them is met in a few steps."""
FAR = 10**15


def image(version: str) -> Image:
    """An image whose digest is its version, for short messages."""
    return Image("registry.test/client", f"sha256:{version}", version)


def command(generation: int, version: str, *, expires_at_ms: int = FAR, job_id: str | None = None) -> Command:
    return Command(job_id or f"job-{generation}", generation, image(version), HEALTH, expires_at_ms)


def installed(generation: int, version: str, container_id: str | None = None) -> Installed:
    return Installed(image(version), HEALTH, generation, container_id)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a version does when it is started. Ages in ms of one process life; None: never."""

    refused: bool = False
    stuck_port: bool = False
    """Refused until the engine is restarted."""
    crashes: bool = False
    healthy_at: int | None = 20
    bad_at: int | None = None
    dies_at: int | None = None
    flaps_every: int | None = None
    """Every so often one probe fails: never unhealthy, and never good for longer than this."""


GOOD = Behaviour()


class Cut(StrEnum):
    """What is lost. AGENT: the updater's process only; the others: all processes, and a boot follows."""

    AGENT = "agent"
    KEEP = "keep"
    """Nothing on the disk."""
    LOSE = "lose"
    """All that was not synced; an image half there is broken."""
    LOSE_IMAGES = "lose-images"
    """Only the images that were not synced: writes reach a disk one by one."""
    LOSE_CONTAINERS = "lose-containers"
    """Only what was not synced of the containers."""
    STICK = "stick"
    """Nothing, but the engine refuses every start until it is restarted: a port is still allocated."""


class ViolatedError(AssertionError):
    """An invariant was broken; `names` are the invariants'."""

    def __init__(self, found: list[invariants.Violation], trace: list[str]) -> None:
        super().__init__("\n".join([*(f"{v.invariant}: {v.detail}" for v in found), "--", *trace]))
        self.names = {v.invariant for v in found}


@dataclass
class ModelEngine:
    """Containers, images and what they do; the disk's view of both; one boot after another."""

    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    containers: tuple[Container, ...] = ()
    images: dict[str, ImageState] = field(default_factory=dict)
    disk_containers: tuple[Container, ...] = ()
    disk_images: dict[str, ImageState] = field(default_factory=dict)
    pull_failures: dict[str, tuple[Reason, ...]] = field(default_factory=dict)
    """Registry trouble, by digest: used up one by one."""
    act_failures: dict[type, int] = field(default_factory=dict)
    """So many times an act of this kind fails."""
    boot: int = 1
    made: int = 0
    freed: bool = False
    """The engine was restarted in this boot, so no port is stuck."""
    stuck: bool = False
    """The last cut left a port allocated."""
    restarts: int = 0

    def key(self) -> Hashable:
        """All that its future depends on."""
        return (
            self.containers,
            tuple(sorted(self.images.items())),
            self.disk_containers,
            tuple(sorted(self.disk_images.items())),
            tuple(sorted(self.pull_failures.items())),
            tuple((kind.__name__, n) for kind, n in self.act_failures.items()),
            self.boot,
            self.freed,
            self.stuck,
        )

    def fork(self) -> ModelEngine:
        other = copy(self)
        other.images, other.disk_images = dict(self.images), dict(self.disk_images)
        other.pull_failures, other.act_failures = dict(self.pull_failures), dict(self.act_failures)
        return other

    def behaviour(self, container: Container) -> Behaviour:
        return self.behaviours.get(container.image.digest, GOOD)

    # -- what the updater asks for

    def act(self, step: Act) -> None:
        """Carry out a step. Raises RegistryError and EngineError."""
        if (left := self.act_failures.get(type(step), 0)) > 0:
            self.act_failures[type(step)] = left - 1
            raise EngineError(f"no {type(step).__name__} today")
        match step:
            case Pull(wanted):
                self._pull(wanted)
            case Create(wanted, generation):
                self._create(wanted, generation)
            case Start(container_id):
                self._start(container_id)
            case Stop(container_id):
                self._change(container_id, _stopped)
            case Remove(container_id):
                self.containers = tuple(c for c in self.containers if c.id != container_id)
            case RemoveImage(digest):
                if any(c.image.digest == digest for c in self.containers):
                    raise EngineError(f"{digest} is in use")
                self.images.pop(digest, None)
            case SetRestartPolicy(container_id, policy):
                self._change(container_id, lambda c: replace(c, restart_policy=policy))
            case Sync():
                self.sync()
            case RestartEngine():
                self.freed, self.stuck = True, False
                self.restarts += 1

    def sync(self) -> None:
        self.disk_containers, self.disk_images = self.containers, dict(self.images)

    def _pull(self, wanted: Image) -> None:
        failures = self.pull_failures.get(wanted.digest, ())
        if failures:
            self.pull_failures[wanted.digest] = failures[1:]
            raise RegistryError(f"no pull of {wanted.version}", reason=failures[0])
        self.images[wanted.digest] = ImageState.PRESENT

    def _create(self, wanted: Image, generation: int) -> None:
        if self.images.get(wanted.digest) is not ImageState.PRESENT:
            raise EngineError("no such image", reason=Reason.IMAGE_INVALID)
        if any(c.generation == generation and c.image == wanted for c in self.containers):
            return
        self.made += 1
        made = Container(
            f"c{generation}-{self.made}", generation, wanted, ContainerState.CREATED, configuration="same"
        )
        self.containers = (*self.containers, made)

    def _start(self, container_id: str) -> None:
        found = next((c for c in self.containers if c.id == container_id), None)
        if found is None:
            raise EngineError("no such container")
        does = self.behaviour(found)
        broken = self.images.get(found.image.digest) is not ImageState.PRESENT
        if does.refused or (does.stuck_port and not self.freed) or self.stuck or broken:
            raise EngineError("the start was refused", reason=Reason.START_REFUSED)
        self._change(container_id, self._started)

    def _started(self, container: Container) -> Container:
        if container.running:
            return container
        fresh = replace(container, started_this_boot=True, up_ms=0, watched_ms=0, healthy_ms=0)
        fresh = replace(fresh, health=HealthState.STARTING, exit_code=None)
        if self.behaviour(container).crashes:
            return replace(fresh, state=ContainerState.EXITED, exit_code=1)
        return replace(fresh, state=ContainerState.RUNNING)

    def _change(self, container_id: str, change: Callable[[Container], Container]) -> None:
        self.containers = tuple(change(c) if c.id == container_id else c for c in self.containers)

    # -- what happens by itself

    def advance(self, ms: int) -> None:
        self.containers = tuple(self._older(c, ms) if c.running else c for c in self.containers)

    def _older(self, c: Container, ms: int) -> Container:
        does, up = self.behaviour(c), c.up_ms + ms
        if does.dies_at is not None and up >= does.dies_at:
            gone = replace(_stopped(c), exit_code=3)
            return gone if c.restart_policy == "no" else self._started(gone)
        return self._probed(replace(c, up_ms=up, watched_ms=(c.watched_ms or 0) + ms))

    def _probed(self, c: Container) -> Container:
        does = self.behaviour(c)
        if does.healthy_at is None or c.up_ms < does.healthy_at:
            return replace(c, health=HealthState.STARTING, healthy_ms=0)
        if does.bad_at is not None and c.up_ms >= does.bad_at:
            return replace(c, health=HealthState.UNHEALTHY, healthy_ms=0)
        good = min(c.up_ms - does.healthy_at, c.watched_ms or 0)
        if does.flaps_every is not None:
            good %= does.flaps_every
        return replace(c, health=HealthState.HEALTHY, healthy_ms=min(good, HEALTH.stable_for_ms))

    def cut(self, kind: Cut) -> None:
        """A power cut and a boot, or (AGENT) only the updater's end: then nothing here but the watching is lost."""
        if kind is Cut.AGENT:
            watched = (replace(c, watched_ms=0, healthy_ms=0) for c in self.containers)
            self.containers = tuple(self._probed(c) if c.running else c for c in watched)
            return
        if kind in (Cut.LOSE, Cut.LOSE_IMAGES):
            torn = {d: ImageState.BROKEN for d in self.images if d not in self.disk_images}
            self.images = {**self.disk_images, **torn}
        if kind in (Cut.LOSE, Cut.LOSE_CONTAINERS):
            self.containers = self.disk_containers
        self.boot += 1
        self.freed, self.stuck = False, kind is Cut.STICK
        self.containers = tuple(self._booted(c) for c in self.containers)
        self.sync()

    def _booted(self, c: Container) -> Container:
        was_running = c.running
        down = replace(c, started_this_boot=False, exit_code=None, up_ms=0, healthy_ms=0, watched_ms=0)
        down = replace(down, health=HealthState.STARTING)
        if was_running:
            down = replace(down, state=ContainerState.EXITED, exit_code=137)
        tried = c.restart_policy == "always" or (c.restart_policy == "unless-stopped" and was_running)
        does = self.behaviour(c)
        whole = self.images.get(c.image.digest) is ImageState.PRESENT
        free = not (does.refused or does.stuck_port or self.stuck)
        return self._started(down) if tried and whole and free else down


def _stopped(c: Container) -> Container:
    if not c.running:
        return c
    return replace(
        c, state=ContainerState.EXITED, exit_code=0, health=HealthState.STARTING, healthy_ms=0, up_ms=0
    )


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
    # boot scope
    restarted_for: str | None = None

    # what a judge saw
    outcomes: dict[str, tuple[Outcome, Reason | None]] = field(default_factory=dict)
    switched: tuple[int, ...] = ()
    trace: list[str] = field(default_factory=list)

    @property
    def record(self) -> UpdateRecord:
        return self.memory.record

    def key(self) -> Hashable:
        """All that the future depends on, and what is judged at the end."""
        volatile = (self.dirty, self.error, self.failures, self.since_failure_ms, self.restores)
        rest = (self.since_restore_ms, self.outage_ms, self.restarted_for, tuple(self.outcomes.items()))
        outbox = tuple(replace(r, sequence=0) for r in self.memory.outbox)
        return (self.record, outbox, self.engine.key(), volatile, rest, self.switched)

    def fork(self) -> Driver:
        other = copy(self)
        other.engine, other.outcomes, other.trace = self.engine.fork(), dict(self.outcomes), list(self.trace)
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
        )

    def next_step(self) -> tuple[Step, World]:
        """Observe and decide, with every invariant checked. Raises ViolatedError."""
        world = self.world()
        for installed_ in (self.record.current, self.record.previous):
            found = world.find(installed_)
            if installed_ is not None and found is not None and found.stable(installed_.health):
                self.restores = 0
                world = replace(world, restores=0)
        step = self.decide(self.record, world, self.now_ms, self.limits)
        self.trace.append(f"{self.record.phase}: {_short(step)}")
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
        # Ages that decide nothing any more are capped, so that a state that comes back is known again.
        self.since_failure_ms = min(self.since_failure_ms + ms, 1000) if self.failures else 0
        self.since_restore_ms = min(self.since_restore_ms + ms, 1000) if self.restores else 0

    def cut(self, kind: Cut) -> None:
        """The process ends and begins again, after a boot unless `kind` is AGENT."""
        self.trace.append(f"-- cut: {kind}")
        self.engine.cut(kind)
        self.dirty, self.error, self.failures, self.since_failure_ms = True, None, 0, 0
        self.restores, self.since_restore_ms, self.outage_ms = 0, 0, None
        if kind is not Cut.AGENT:
            self.restarted_for = None

    def resting(self, step: Step, world: World) -> bool:
        """Whether nothing more will happen by itself."""
        record = self.record
        if record.phase is not Phase.IDLE or record.queued is not None or not isinstance(step, Wait):
            return False
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
