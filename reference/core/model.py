"""The nouns of an update: images, containers, health, the command, what is installed, and the world as observed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from reference.core.errors import Reason


class Phase(StrEnum):
    """Where an update is. The value is what the journal stores and the status message says."""

    IDLE = "idle"
    ACCEPTED = "accepted"
    PULLING = "pulling"
    STAGED = "staged"
    SWITCHING = "switching"
    VERIFYING = "verifying"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"
    CLEANING_UP = "cleaning_up"


class Outcome(StrEnum):
    """How an update ended. `failed` never switched; `rolled_back` did, and came back."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"


@dataclass(frozen=True, slots=True)
class Image:
    """An image by content. `digest` is as commanded (index or manifest), never a tag.

    `repository` is `host[:port]/name`; `version` is for people and never decides anything.
    """

    repository: str
    digest: str
    version: str


@dataclass(frozen=True, slots=True)
class Health:
    """What counts as healthy: `probe` (an HTTP path) answers well for `stable_for_ms` without a break.

    Where the image has a check of its own, that has to be good, too; with an empty `probe` it is all that counts.
    Failing probes are forgiven for `start_period_ms`; a process life that is not healthy at the age of
    `start_period_ms + window_ms` has failed.
    """

    probe: str = "/healthz"
    start_period_ms: int = 10_000
    window_ms: int = 60_000
    stable_for_ms: int = 10_000

    @property
    def deadline_ms(self) -> int:
        """Age of a process life, in ms, at which it must be healthy."""
        return self.start_period_ms + self.window_ms


class Handover(StrEnum):
    """How the client goes from one version to the next. The value is what the command says."""

    STOP_FIRST = "stop_first"
    """The old version is stopped, then the new one is started."""
    OVERLAP = "overlap"
    """The new one is started first and stands by; the old one is stopped when it is ready. Where both allow it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How to update, beyond what is always done."""

    snapshot: bool = False
    """Copy the volume while nothing runs on it, and bring the copy back when the update rolls back."""
    probation_ms: int = 0
    """For so long after the commit a version that cannot be healthy falls back to previous."""
    lock_wait_ms: int = 0
    """For so long the switch waits while the update lock is taken; 0: for as long as the device's own limit says."""
    handover: Handover = Handover.STOP_FIRST
    """`overlap` where both versions allow it; where one does not, and with a snapshot, it is `stop_first`."""


@dataclass(frozen=True, slots=True)
class Command:
    """A verified order to run `image`. `generation` is the service's counter per client, strictly rising."""

    job_id: str
    generation: int
    image: Image
    health: Health
    expires_at_ms: int
    """Wall time in ms since 1970."""
    policy: Policy = Policy()
    correlation_id: str | None = None
    """Names the request that began it all, in every log from the API to the device and back."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A version that passed its trial (or was adopted): how to recognise it and how to bring it back."""

    image: Image
    health: Health
    generation: int
    container_id: str | None = None
    restart_policy: str = "unless-stopped"


class ContainerState(StrEnum):
    """Docker's words."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class HealthState(StrEnum):
    """Docker's words, per process life.

    `starting` until the first good probe; `unhealthy` once probes fail in a row after that and after the start
    period.
    """

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ours, as the engine and the probe see it. `generation` is its immutable label."""

    id: str
    generation: int
    image: Image
    state: ContainerState
    started_this_boot: bool = False
    """Boot scope: it was started since the boot, so that an exit is told from a cut."""
    up_ms: int = 0
    """Boot scope: age of the present process life."""
    health: HealthState = HealthState.STARTING
    """Process scope."""
    healthy_ms: int = 0
    """Process scope: for how long every probe of this life was good."""
    watched_ms: int | None = None
    """Process scope: for how long this life was probed by this agent; None when that is as long as it is up."""
    exit_code: int | None = None
    restart_policy: str = "no"
    configuration: str = ""
    """Digest of mounts, networks, environment: the same over any history."""
    overlaps: bool = False
    """It may stand by beside another one of the client: it touches the volume only while it has the lease."""
    standby: bool = False
    """Process scope: it stands by, without the lease. Its health, and how long it was watched, are then those of that."""

    @property
    def running(self) -> bool:
        """Whether it has a living process."""
        return self.state is ContainerState.RUNNING

    @property
    def active(self) -> bool:
        """Whether it runs and works on the volume: what only stands by does not."""
        return self.running and not self.standby

    @property
    def judged_ms(self) -> int:
        """For how long its present life could have shown that it is healthy: an agent that starts late waits anew."""
        return self.up_ms if self.watched_ms is None else min(self.watched_ms, self.up_ms)

    def stable(self, health: Health) -> bool:
        """Whether its present life has passed the trial that `health` describes."""
        healthy = self.active and self.health is HealthState.HEALTHY
        return healthy and self.healthy_ms >= health.stable_for_ms

    def sick(self, health: Health) -> bool:
        """Whether its present life has failed: turned unhealthy, or still not healthy at its deadline."""
        late = self.health is not HealthState.HEALTHY and self.judged_ms > health.deadline_ms
        return self.running and (self.health is HealthState.UNHEALTHY or late)

    def unsteady(self, health: Health) -> bool:
        """Whether its present life is good now and then, but had long enough to be stable and is not."""
        return (
            self.active
            and not self.stable(health)
            and self.judged_ms > health.deadline_ms + health.stable_for_ms
        )


class ImageState(StrEnum):
    """An image that is not listed is absent; one that is listed and fails its check is broken."""

    PRESENT = "present"
    BROKEN = "broken"


class SnapshotState(StrEnum):
    """A copy of the client's volumes, by the generation that it was made for. One that is not listed is not there."""

    PREPARED = "prepared"
    """There is room for it, and nothing was copied."""
    TAKEN = "taken"
    RESTORED = "restored"
    """It is what the client runs on; what it replaced is kept aside."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last act failed.

    `trusted` tells a start of current or previous from an act of the job.
    """

    reason: Reason
    message: str = ""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """All that is observed. The scope of each field says what forgets it: a process end, a boot, or nothing."""

    boot_id: str
    """Boot scope."""
    containers: tuple[Container, ...] = ()
    """Durable, the engine's; running and its ages end with the boot."""
    images: dict[str, ImageState] = field(default_factory=dict)
    """Durable, the engine's: by digest."""
    dirty: bool = True
    """Process scope: engine data may not be on the disk. True at process start."""
    error: Failure | None = None
    """Process scope."""
    failures: int = 0
    """Process scope: failed acts in a row. A sync between them does not end the row."""
    since_failure_ms: int = 0
    """Process scope: since the last of `failures`; means nothing when there were none."""
    restores: int = 0
    """Process scope: starts of current or previous since one of them was last stable, or since a rollback began.

    On probation: since it was last journaled that some of it has been survived, and those by the engine, too.
    """
    since_restore_ms: int = 0
    """Process scope: since the last of `restores`."""
    engine_restarted: bool = False
    """Boot scope: the engine was restarted for this job."""
    jitter_permille: int = 0
    """The driver's stream, drawn anew for each failure."""
    outage_ms: int | None = None
    """Process scope: how long the client was last seen without a healthy process; None if that is not known."""
    hold: bool = False
    """Durable, the operator's: nothing is to be started, stopped or changed."""
    locked_ms: int | None = None
    """Process scope: for how long the update lock has kept this job from its switch; None: it is not taken."""
    locked_by: str = ""
    """Who says to have taken it."""
    snapshots: dict[int, SnapshotState] = field(default_factory=dict)
    """Durable, the engine's: by generation."""
    survived_ms: int = 0
    """Process scope: how long current has been healthy since `probation_left_ms` was last journaled."""

    def pick(self, container_id: str | None, generation: int, digest: str) -> Container | None:
        """The journaled container of that image; without it (removed and made again) one with that label."""
        of_image = [c for c in self.containers if c.image.digest == digest]
        alike = (c for c in of_image if c.generation == generation)
        return next((c for c in of_image if c.id == container_id), next(alike, None))

    def find(self, installed: Installed | None) -> Container | None:
        """The container of an installed version."""
        if installed is None:
            return None
        return self.pick(installed.container_id, installed.generation, installed.image.digest)

    def running_beside(self, container: Container | None) -> Container | None:
        """Some container that runs and is not this one."""
        return next(
            (c for c in self.containers if c.running and (container is None or c.id != container.id)), None
        )
