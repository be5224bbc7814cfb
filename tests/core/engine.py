"""A model of a container engine on a device that loses power.

It keeps containers and images twice, as they are and as the disk has them; `Cut.LOSE` boots from the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reference.core.errors import EngineError, Reason, RegistryError
from reference.core.limits import Limits
from reference.core.model import (
    Command,
    Container,
    ContainerState,
    Health,
    HealthState,
    Image,
    ImageState,
    Installed,
    Policy,
    SnapshotState,
)
from reference.core.steps import (
    Act,
    Create,
    PrepareSnapshot,
    Pull,
    Remove,
    RemoveImage,
    RemoveSnapshot,
    RestartEngine,
    RestoreSnapshot,
    SetRestartPolicy,
    Snapshot,
    Start,
    Stop,
    Sync,
)

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
    probation_attempts=2,
    probation_step_ms=200,
    lock_wait_ms=300,
)
"""Small bounds, so that every one of them is met in a few steps."""
FAR = 10**15


def image(version: str) -> Image:
    """An image whose digest is its version, for short messages."""
    return Image("registry.test/client", f"sha256:{version}", version)


def command(
    generation: int,
    version: str,
    *,
    expires_at_ms: int = FAR,
    job_id: str | None = None,
    policy: Policy | None = None,
) -> Command:
    job_id = job_id or f"job-{generation}"
    return Command(job_id, generation, image(version), HEALTH, expires_at_ms, policy or Policy())


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
    migrates: bool = False
    """It changes the volume's format when it starts: a version that does not know it exits."""
    last_boot: int | None = None
    """From the boot after this one on it exits when it is started."""


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
    volume: str = ""
    """Its format: the version that migrated it. What a version writes is on the disk at once, which is the worst."""
    disk_volume: str = ""
    snapshots: dict[int, tuple[SnapshotState, str]] = field(default_factory=dict)
    disk_snapshots: dict[int, tuple[SnapshotState, str]] = field(default_factory=dict)
    restarts: int = 0
    revived: int = 0
    """Starts by the engine itself, until somebody looks."""

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
            (self.volume, self.disk_volume),
            tuple(self.snapshots.items()),
            tuple(self.disk_snapshots.items()),
        )

    def fork(self) -> ModelEngine:
        other = copy(self)
        other.images, other.disk_images = dict(self.images), dict(self.disk_images)
        other.snapshots, other.disk_snapshots = dict(self.snapshots), dict(self.disk_snapshots)
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
            case PrepareSnapshot(generation):
                self.snapshots.setdefault(generation, (SnapshotState.PREPARED, ""))
            case Snapshot(generation):
                self.snapshots[generation] = (SnapshotState.TAKEN, self.volume)
            case RestoreSnapshot(generation):
                state, copied = self.snapshots[generation]
                assert state is SnapshotState.TAKEN
                self.snapshots[generation], self.volume = (SnapshotState.RESTORED, self.volume), copied
            case RemoveSnapshot(generation):
                self.snapshots.pop(generation, None)
            case RestartEngine():
                self.freed, self.stuck = True, False
                self.restarts += 1

    def sync(self) -> None:
        self.disk_containers, self.disk_images = self.containers, dict(self.images)
        self.disk_volume, self.disk_snapshots = self.volume, dict(self.snapshots)

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
        does = self.behaviour(container)
        if does.migrates:
            self.volume = self.disk_volume = container.image.digest
        foreign = self.volume not in ("", container.image.digest)
        worn = does.last_boot is not None and self.boot > does.last_boot
        if does.crashes or foreign or worn:
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
            if c.restart_policy == "no":
                return gone
            self.revived += 1
            return self._started(gone)
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
            # Not one probe was made yet: all that is known of a life is how old it is.
            self.containers = tuple(
                replace(c, watched_ms=0, healthy_ms=0, health=HealthState.STARTING) for c in self.containers
            )
            return
        if kind in (Cut.LOSE, Cut.LOSE_IMAGES):
            torn = {d: ImageState.BROKEN for d in self.images if d not in self.disk_images}
            self.images = {**self.disk_images, **torn}
        if kind in (Cut.LOSE, Cut.LOSE_CONTAINERS):
            self.containers = self.disk_containers
        if kind is Cut.LOSE:
            self.volume, self.snapshots = self.disk_volume, dict(self.disk_snapshots)
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
