"""A scenario as data. Its shape is Chaos Toolkit's: a steady state, a method, rollbacks; and what has to come of it.

The simulator reads the same files: nothing here touches a real part. What a fault takes under `with` is the fault's own
(`chaos.faults`), and is checked where real parts are known.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from chaos.scenario.quantities import Duration, DurationRange, Fraction, FractionRange
from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.model import Outcome, Phase

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=80)]
VersionName = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$")]
Device = Annotated[int, Field(ge=1, le=50)]
LEAST_MEMORY = 16
"""MiB: with less no client starts, and with less than 6 Docker refuses it."""


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Part(BaseModel):
    """What every object of a scenario is: closed, unchangeable, its keys in kebab-case."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=_kebab,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class Link(StrEnum):
    """What connects two parts, and can be hurt on the way."""

    DEVICE_BROKER = "device-broker"
    DEVICE_REGISTRY = "device-registry"
    SERVICE_BROKER = "service-broker"
    SERVICE_DATABASE = "service-database"
    API_CLIENT = "api-client"


class Happening(StrEnum):
    """Events that something can be placed at, beside phases."""

    ORDER_ACCEPTED = "order-accepted"
    """The API has answered 202."""
    COMMAND_DELIVERED = "command-delivered"
    """A command on its way to the device; it stands still until the fault is in force."""
    STATUS_SENT = "status-sent"
    """A status on its way from the device; it stands still until the fault is in force."""
    DEVICE_CONNECTED = "device-connected"
    """The broker has taken the device's connection."""
    PULL_BEGINS = "pull-begins"
    """The device asks the registry for the image's manifest."""
    CLIENT_DOWN = "client-down"
    """The first probe that failed."""
    CLIENT_BACK = "client-back"
    """The first good probe after one that failed."""
    JOB_ENDED = "job-ended"
    """The API shows an end of the job."""
    FAULT_IN_FORCE = "fault-in-force"
    """A fault (`of`) has been put in force."""
    FAULT_HEALED = "fault-healed"
    """A fault (`of`) was healed."""


class When(Part):
    """The moment at which something is done: one of `phase`, `event`, `time`, `pulled`."""

    phase: Phase | None = None
    """As this phase becomes durable in the device's journal; the device stands still until the fault is in force."""
    event: Happening | None = None
    """At this event."""
    time: DurationRange | None = None
    """So long after the method began."""
    pulled: FractionRange | None = None
    """When this much of the image's layers has come; the registry stands still until the fault is in force."""
    of: Name | None = None
    """With `fault-in-force` and `fault-healed`: the fault's `name`."""
    nth: Annotated[int, Field(ge=1, le=1000)] = 1
    """At the n-th time that it happens."""
    then: DurationRange = DurationRange(0, 0)
    """So long after it."""
    device: Device | None = None
    """Seen on this device only; without it on the one that the fault or the action is for, else on any."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [n for n in ("phase", "event", "time", "pulled") if getattr(self, n) is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} together" if given else "nothing"
            raise ValueError(f"one of phase, event, time and pulled says when; here is {what}")
        named = self.event in (Happening.FAULT_IN_FORCE, Happening.FAULT_HEALED)
        if named != (self.of is not None):
            raise ValueError(
                f"{self.event} needs `of`, the name of a fault"
                if named
                else "`of` goes with fault-in-force and fault-healed"
            )
        return self


class Repeat(Part):
    """The fault comes again."""

    times: Annotated[int, Field(ge=2, le=1000)]
    """So often in all."""
    every: DurationRange
    """From one coming to the next."""


class FaultUse(Part):
    """A fault, and where, when and for how long."""

    fault: Name
    name: Name | None = None
    """By which `of` finds it, and the report; without it the fault's own name."""
    link: Link | None = None
    """Where, for faults of the network."""
    device: Device | None = None
    """The device that it is done to; without it every device, or what all share."""
    with_: dict[str, object] = Field(default_factory=dict, alias="with")
    """What the fault takes: `blackstart chaos list --faults`."""
    when: When | None = None
    """Without it: in its turn, when the method begins."""
    for_: DurationRange | None = Field(default=None, alias="for")
    """How long it lasts; without it until the method's end."""
    repeat: Repeat | None = None

    @property
    def label(self) -> str:
        """What it is called in this scenario."""
        return self.name or self.fault


class Update(Part):
    """The admin asks for a version."""

    action: Literal["update"]
    to: VersionName = "2.0.0"
    """Which one."""
    device: Device | None = None
    """Without it every device."""
    when: When | None = None


class Cancel(Part):
    """The admin cancels the last job."""

    action: Literal["cancel"]
    device: Device | None = None
    when: When | None = None


class Wait(Part):
    """The method goes on after a while, or when something has happened."""

    action: Literal["wait"]
    for_: DurationRange | None = Field(default=None, alias="for")
    until: When | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.for_ is None) == (self.until is None):
            raise ValueError("wait takes one of `for` and `until`")
        return self


class RestartAgent(Part):
    """An operator restarts the updater; the client is not to notice."""

    action: Literal["restart-agent"]
    device: Device | None = None
    when: When | None = None


class Hold(Part):
    """An operator holds the device: nothing is to be touched but a trial under way. `release` ends it."""

    action: Literal["hold", "release"]
    device: Device | None = None
    when: When | None = None


Action = Annotated[Update | Cancel | Wait | RestartAgent | Hold, Field(discriminator="action")]


def _kind(item: object) -> str:
    """Which of the two an item of the method is."""
    is_fault = "fault" in item if isinstance(item, dict) else isinstance(item, FaultUse)
    return "fault" if is_fault else "action"


Item = Annotated[Annotated[Action, Tag("action")] | Annotated[FaultUse, Tag("fault")], Discriminator(_kind)]


class Handover(StrEnum):
    """How the new version takes over."""

    STOP_FIRST = "stop-first"
    OVERLAP = "overlap"


class VersionSpec(Part):
    """A version that is not simply a good one."""

    version: VersionName
    defect: str = ""
    """What it does wrong: `crash-on-start`, `never-healthy`, `dies-in-window` ..., `slow-start:500` with a time in ms."""
    architecture: Annotated[str, Field(pattern=r"^[a-z0-9]*$")] = ""
    """For another machine than this one."""
    lost: bool = False
    """Known to the service under a digest that the registry does not have."""
    layer: Annotated[int, Field(ge=0, le=256)] = 0
    """MiB of a further layer that cannot be compressed, to have something to pull."""
    snapshot: bool = False
    """Its updates copy the volume first."""
    handover: Handover = Handover.STOP_FIRST
    """How it takes over."""
    start_period: Duration | None = None
    """In place of the bench's own, which is short."""
    window: Duration | None = None
    """How long it has to become healthy, and stay so, before it counts."""
    stable_for: Duration | None = None
    """How much of that it has to be healthy for without a break."""
    probation: Duration | None = None
    """For so long after the commit a fall back to the version before is possible."""


class Bench(Part):
    """The real parts."""

    devices: Device = 1
    """How many."""
    runtime: Literal["process", "docker"] = "process"
    """What runs the client: the embedded runtime, or a Docker Engine (needs root)."""
    broker: Literal["amqtt", "mosquitto"] = "amqtt"
    """The embedded one, or Mosquitto."""
    database: Literal["sqlite", "postgresql"] = "sqlite"
    """The service's: a file, or a PostgreSQL of the run's own."""
    registry: Literal["embedded", "distribution"] = "embedded"
    """Ours, or CNCF's Distribution (Debian: docker-registry)."""
    network: Literal["host", "bridge"] = "host"
    """Of the client, under Docker."""
    begins: VersionName | None = "1.0.0"
    """What runs before the method; null: nothing was ever installed."""
    versions: tuple[VersionSpec, ...] = ()
    """Those that are not simply good; every other one that is named is."""
    limits: dict[str, Annotated[int, Field(ge=1, le=2**31)]] = Field(default_factory=dict)
    """Bounds of the updater that differ, by name: reference/core/limits.py."""
    pull_watchdog: Duration | None = None
    """How long a pull may be silent."""
    memory: Annotated[int, Field(ge=0, le=4096)] = 0
    """MiB that a container may take, under Docker, 16 or more; 0: as much as there is."""

    @field_validator("memory")
    @classmethod
    def _enough(cls, memory: int) -> int:
        if 0 < memory < LEAST_MEMORY:
            raise ValueError(f"{memory} MiB are too little for any client: at least {LEAST_MEMORY}")
        return memory

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.network == "bridge" and self.runtime != "docker":
            raise ValueError("the process runtime has no network of its own: bridge needs runtime: docker")
        names = [spec.version for spec in self.versions]
        if len(set(names)) != len(names):
            raise ValueError("a version is there twice")
        return self

    def spec(self, version: str) -> VersionSpec:
        """What there is to know of a version."""
        return next((s for s in self.versions if s.version == version), VersionSpec(version=version))


class Fleet(Part):
    """The same story on simulated devices: read by the simulator, not by the bench."""

    devices: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    online: Fraction = 1.0
    """How many of them are there when the method begins."""


class SteadyProbe(StrEnum):
    """What has to hold before anything is done, or the run is unknown."""

    CLIENT_HEALTHY = "client-healthy"
    SERVICE_READY = "service-ready"
    DEVICE_CONNECTED = "device-connected"
    AGENT_AT_REST = "agent-at-rest"


class SteadyState(Part):
    """How things are when all is well."""

    title: str = "the client answers, and all parts are there"
    probes: tuple[SteadyProbe, ...] = tuple(SteadyProbe)


class Delivery(Part):
    """What has to be seen on the wire and in the journal."""

    commands: Annotated[int, Field(ge=0)] | None = None
    """The command was put on the wire to the device at least so often."""
    installs: Annotated[int, Field(ge=0)] | None = None
    """The device switched exactly so often."""
    statuses: Annotated[int, Field(ge=0)] | None = None
    """At least so many statuses came from the device."""


class Invariant(StrEnum):
    """What must hold whatever happens; docs/chaos.md says what each means."""

    NEVER_TWO_ACTIVE = "never-two-active"
    SAME_CONFIGURATION = "same-configuration"
    CURRENT_KEPT = "current-kept"
    SUCCESS_PROVED = "success-proved"
    STATUS_NOT_AHEAD = "status-not-ahead"
    ONE_INSTALL_PER_GENERATION = "one-install-per-generation"
    TERMINAL_IS_FINAL = "terminal-is-final"
    SERVICE_AGREES = "service-agrees"
    CONVERGES = "converges"


class Expect(Part):
    """What has to come of it. What is not said is not asked, but for the invariants, the samples and what runs."""

    outcome: Annotated[tuple[Outcome, ...], Field(min_length=1)] | None = None
    """Of the last job of each device, as the API shows it: one, or several that are all right. null: no job at all."""
    status: JobStatus | None = None
    """Of the same job."""
    reason: Annotated[tuple[Reason, ...], Field(min_length=1)] | None = None
    """One, or several that are all right; null: none."""
    runs: VersionName | None = None
    """What answers in the end; without it what the outcome leads to."""
    refused: Reason | None = None
    """A message was refused by the device for this."""
    downtime: Duration | None = None
    """All outages of a device together, at most."""
    rollback: Duration | None = None
    """From the rollback's being journaled to the old version's first good probe, at most."""
    converges: Duration = 30_000
    """From the last fault's end until everything is at rest, at most."""
    untouched: bool = False
    """The client was not stopped, and missed no probe."""
    samples_lost: Annotated[int, Field(ge=0)] = 0
    """At most so many of the client's samples are missing or torn."""
    delivery: Delivery = Delivery()
    """What has to be seen on the way."""
    most_at_once: Annotated[int, Field(ge=1)] = 1
    """So many client processes of a device may live at once: more only where somebody else starts them."""
    invariants: Literal["all"] | tuple[Invariant, ...] = "all"
    """Which have to hold; without it all of them."""

    @field_validator("outcome", "reason", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given

    @property
    def checked(self) -> tuple[Invariant, ...]:
        """The invariants that are asked for."""
        return tuple(Invariant) if self.invariants == "all" else self.invariants

    @property
    def judges_outcome(self) -> bool:
        """Whether anything is said of the outcome."""
        return "outcome" in self.model_fields_set

    @property
    def judges_reason(self) -> bool:
        """Whether anything is said of the reason."""
        return "reason" in self.model_fields_set


class Scenario(Part):
    """One story: what is done to real parts or to a simulated fleet, and what has to come of it."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    """What it is about, in a few words."""
    description: str = ""
    """What else there is to know of it, for people."""
    proves: Annotated[str, Field(max_length=400)] = ""
    """The promise that it keeps honest: a line of the specification, a complaint about others."""
    tags: tuple[Name, ...] = ()
    """By which scenarios can be chosen."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Of all chance: ranges, jitter, what a fault picks."""
    time_limit: Duration = 90_000
    """Longest that the method may take, from its beginning to the end of every job."""
    bench: Bench = Bench()
    fleet: Fleet = Fleet()
    steady_state_hypothesis: SteadyState = SteadyState()
    method: Annotated[tuple[Item, ...], Field(min_length=1)]
    """What is done: actions in their turn, faults and whatever has a `when` at its moment."""
    rollbacks: tuple[Action, ...] = ()
    """Done after the method, in their turn, however it went; every fault is healed before. None waits for anything."""
    expect: Expect = Expect()

    @property
    def faults(self) -> tuple[FaultUse, ...]:
        """The faults of the method, in order."""
        return tuple(item for item in self.method if isinstance(item, FaultUse))

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that it needs, each once."""
        named = [item.to for item in (*self.method, *self.rollbacks) if isinstance(item, Update)]
        first = [self.bench.begins] if self.bench.begins is not None else []
        return tuple(dict.fromkeys([*first, *(s.version for s in self.bench.versions), *named]))

    @model_validator(mode="after")
    def _hangs_together(self, info: ValidationInfo) -> Self:
        from chaos.scenario.deeds import untimely
        from chaos.scenario.sense import dangling

        # Whoever reads a file asks by itself, and for all of it: it knows the lines.
        later = isinstance(info.context, dict) and info.context.get("sense") == "later"
        for wrong in () if later else (*dangling(self), *untimely(self)):
            raise ValueError(f"{wrong.what}. {wrong.todo}".strip())
        return self
