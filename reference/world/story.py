"""A story: a device, what is ordered, what else may happen, and every way in which it may end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from reference.core.delivery import ClientState, Memory
from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.limits import Limits
from reference.core.model import Command, Container, ContainerState, HealthState, Outcome
from reference.core.record import UpdateRecord
from reference.world import service as services
from reference.world.disk import LAYERS, RUNNING, Disk, StoredContainer, StoredImage
from reference.world.engine import Boot, Engine, Setting
from reference.world.machine import EPOCHS, Machine, Rules, State
from reference.world.nouns import LIMITS, Behaviour, command, image, installed
from reference.world.process import Process
from reference.world.service import Service
from reference.world.talk import Turn

Ends = dict[str, tuple[Outcome | JobStatus, Reason | None]]
"""By job: its outcome and reason at the service; the status where the device never gave it an outcome."""


@dataclass(frozen=True)
class Ending:
    """How a story may end: what the service shows, and which versions run."""

    ends: Ends
    runs: tuple[str, ...]


Happening = Iterator[tuple[str, Turn]]
Event = Callable[[Machine, State], Happening]
"""What may happen once, at any moment between two steps: every way in which it can go."""


@dataclass(frozen=True)
class Story:
    """All that makes a story. What cuts may do to it is the explorer's business."""

    name: str
    about: str
    endings: tuple[Ending, ...]
    orders: tuple[Command, ...] = field(default_factory=lambda: (command(2, "v2"),))
    """Ordered before it begins."""
    later: tuple[Command, ...] = ()
    """Ordered by one of the events."""
    versions: dict[str, Behaviour] = field(default_factory=dict)
    first: bool = False
    """Nothing is installed yet."""
    pulls: tuple[tuple[str, tuple[Reason, ...]], ...] = ()
    acts: tuple[tuple[str, int, Reason], ...] = ()
    hold: bool = False
    lock: bool = False
    events: tuple[Event, ...] = ()
    boots: tuple[Boot, ...] = tuple(Boot)
    strangers: bool = False
    """Somebody else takes images away: then no rule can keep them."""
    hopeless: bool = False
    """No trusted version can be healthy: the duty goes on for ever, and that is the end."""

    @property
    def commands(self) -> dict[int, Command]:
        """All commands of it, by generation."""
        return {c.generation: c for c in (*self.orders, *self.later)}

    def machine(
        self, limits: Limits = LIMITS, rules: Rules | None = None, *, unbounded: bool = False
    ) -> Machine:
        """A world for it. `unbounded`: there may be any number of cuts in it."""
        behaviours = {image(version).digest: does for version, does in self.versions.items()}
        return Machine(Setting(behaviours, self.boots), limits, rules, unbounded=unbounded)

    def begin(self, machine: Machine) -> State:
        """Its first state: the commands are ordered, and no device has heard of them."""
        service = Service(ClientState(issued=1, reported=1, epoch=EPOCHS[0]))
        for order in self.orders:
            service = services.ordered(service, order)
        memory, engine = fresh() if self.first else device(self.versions)
        pulls = tuple(sorted((image(v).digest, reasons) for v, reasons in self.pulls))
        engine = engine._replace(pulls=pulls, acts=self.acts)
        process = Process(opened=True, hold=self.hold, lock=self.lock)
        return machine.begin(memory, engine, process, service)

    def allows(self, ends: Ends, runs: Iterable[str], excused: Iterable[str] = ()) -> bool:
        """Whether this is one of its endings. `excused`: jobs that more cuts than they have to live through ended."""
        excused, runs = set(excused), tuple(runs)
        if not excused:
            return any(e.ends == ends and e.runs == runs for e in self.endings)
        left = {job: end for job, end in ends.items() if job not in excused}
        return any(left.items() <= e.ends.items() for e in self.endings)


def fresh() -> tuple[Memory, Engine]:
    """A device on which nothing was installed."""
    return Memory(UpdateRecord(EPOCHS[0], floor=1)), Engine()


def device(versions: dict[str, Behaviour] | None = None) -> tuple[Memory, Engine]:
    """A device that runs v1 (generation 1) as well as v1 can."""
    does = (versions or {}).get("v1", Behaviour())
    bad = does.crashes or does.refused
    old = Container(
        "c1", 1, image("v1"), ContainerState.EXITED if bad else ContainerState.RUNNING, not does.refused,
        0 if bad else 350, HealthState.STARTING if bad else HealthState.HEALTHY, 0 if bad else 100,
        exit_code=1 if bad else None, restart_policy="unless-stopped", configuration="same",
        watched_ms=0 if bad else 350, overlaps=does.overlaps,
    )  # fmt: skip
    files = StoredContainer("c1", 1, image("v1"), (True,), ("unless-stopped",), (RUNNING,))
    disk = Disk((files,), (StoredImage(image("v1").digest, (True,), (LAYERS,)),))
    record = UpdateRecord(EPOCHS[0], floor=1, current=installed(1, "v1", "c1"))
    return Memory(record), Engine((old,), disk)
