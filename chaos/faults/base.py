"""What a fault is: one file each, registered by name. It does one thing, undoes it, and shows that it happened.

    class BlackHole(NetworkFault): ...      # chaos/faults/black_hole.py
    register(BlackHole)

The runner makes one object for each coming of a fault, calls `begin`, waits, calls `heal`, and asks `fired`. A fault
that cannot show that it happened makes the verdict unknown.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from chaos.scenario.model import FaultUse, Link, Part
from reference.core.errors import InputError, ServiceError

if TYPE_CHECKING:
    import httpx

    from chaos.guard import Guard
    from chaos.history import Recorder
    from chaos.power import Power
    from chaos.proxies.links import Passage
    from chaos.proxies.mqtt import MqttWay
    from chaos.proxies.registry import RegistryFront
    from chaos.scenario import Scenario
    from reference.stack import Device, Stack


class Family(StrEnum):
    """What a fault hurts."""

    NETWORK = "network"
    MQTT = "mqtt"
    REGISTRY = "registry"
    POWER = "power"
    PARTS = "parts"
    HOSTILE = "hostile"


class Need(StrEnum):
    """A real part, or a right, that this machine may not have; `chaos.needs` says why one is missing."""

    TOXIPROXY = "toxiproxy"
    DOCKER = "docker"
    ROOT = "root"
    LOOP = "loop"
    """Loop devices and ext4, for a disk that loses power or is slow."""
    BLKIO = "blkio"
    """A cgroup that can throttle a disk."""
    FAKETIME = "faketime"
    POSTGRESQL = "postgresql"
    MOSQUITTO = "mosquitto"
    DISTRIBUTION = "distribution"


@dataclass(slots=True)
class Wants:
    """What faults ask of the bench before it is set up. Each fault adds to it; nobody takes away."""

    toxic: set[Link] = field(default_factory=set)
    """Links that lead through Toxiproxy."""
    registry_tls: bool = False
    """Devices reach the registry over TLS, with a certificate of the bench's authority."""
    disk_bytes: int = 0
    """Each device lives on an ext4 image of this size, which can lose power, fill up or be slow; 0: on this machine's
    file system."""
    faketime: bool = False
    """Agents get a clock of their own."""
    settings: dict[str, object] = field(default_factory=dict)
    """Of every device's agent, laid over the usual ones."""
    published: set[str] = field(default_factory=set)
    """Versions that a fault publishes itself: the bench leaves them alone."""


class Params(Part):
    """What a fault takes under `with`. Quantities as in a scenario: `chaos.scenario.quantities`."""


class NoParams(Params):
    """Nothing."""


class Clock(Protocol):
    """A device's wall clock."""

    async def shift(self, by_ms: int) -> None:
        """Let it be so far from this machine's from now on; 0: the same again."""

    async def told_ms(self) -> int:
        """What time the device believes it is, in ms since 1970."""


class Ground(Protocol):
    """What a fault may touch: parts that this run has started, and nothing else."""

    scenario: Scenario
    folder: Path
    """Of this run; everything of it is in there."""
    stack: Stack
    recorder: Recorder
    guard: Guard
    front: RegistryFront

    @property
    def devices(self) -> Sequence[Device]:
        """All devices; the first one is number 1."""

    @property
    def api(self) -> httpx.AsyncClient:
        """An Administrator's, straight to the service."""

    @property
    def jobs(self) -> Mapping[str, Sequence[str]]:
        """Ids of the jobs that were ordered, by client id, in order; the first install is the first."""

    def chosen(self, device: int | None) -> Sequence[Device]:
        """That device, or all of them."""

    def passages(self, link: Link, device: int | None) -> Sequence[Passage]:
        """The ways through Toxiproxy of a link; only of that device where each has its own."""

    def mqtt(self, device: Device) -> MqttWay:
        """The device's way to the broker, packet by packet."""

    def power(self, device: Device) -> Power:
        """The device's power: its disk's, and that of everything that runs on it."""

    def clock(self, device: Device) -> Clock:
        """The device's clock, where `Wants.faketime` was set."""

    def postgres(self) -> Any:
        """The database server, where the bench has one (`chaos.postgres.Postgres`)."""

    async def start_agent(self, device: Device) -> None:
        """Start the device's agent (again), with what the bench gives it."""


class Fault(ABC):
    """One coming of one fault."""

    name: ClassVar[str]
    family: ClassVar[Family]
    about: ClassVar[str]
    """One sentence: what happens to whom."""
    shown_by: ClassVar[str]
    """What proves that it fired."""
    params: ClassVar[type[Params]] = NoParams
    needs: ClassVar[tuple[Need, ...]] = ()
    links: ClassVar[tuple[Link, ...]] = ()
    """The links that it can be on; empty: it takes no `link`."""
    lasts: ClassVar[bool] = True
    """Whether there is something to heal; False: it takes no `for`."""

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        """`given`: the checked `with`, an object of `params`."""
        self.ground = ground
        self.use = use
        self.given = given
        self.chance = chance

    @classmethod  # noqa: B027 - most ask for nothing
    def wants(cls, use: FaultUse, wants: Wants) -> None:
        """Ask of the bench what it needs, before it is set up."""

    @classmethod
    def needs_for(cls, use: FaultUse) -> tuple[Need, ...]:  # noqa: ARG003
        """Real parts that have to be there for this use of it."""
        return cls.needs

    async def prepare(self) -> None:  # noqa: B027 - most have nothing to make ready
        """Make ready what takes long and hurts nobody yet, before the method begins. `begin` does what was not done here.

        Raises BlackstartError.
        """

    @abstractmethod
    async def begin(self) -> None:
        """Do it; when this returns it is in force. Raises BlackstartError when it cannot be done."""

    @abstractmethod
    async def heal(self) -> None:
        """Undo it; again is success, and so is after a `begin` that failed half-way."""

    @abstractmethod
    async def fired(self) -> str:
        """What shows that it happened to somebody: one sentence with numbers; empty: nothing does.

        Asked just before `heal`, and again at the end of the method when it was empty.
        """


class Instant(Fault):
    """A fault that is done when it is done: nothing to heal."""

    lasts = False

    async def heal(self) -> None:
        """Nothing."""


_FAULTS: dict[str, type[Fault]] = {}


def register(fault: type[Fault]) -> type[Fault]:
    """Make a fault known by its name; a class decorator."""
    if fault.name in _FAULTS and _FAULTS[fault.name] is not fault:
        raise ValueError(f"two faults are called {fault.name}")
    _FAULTS[fault.name] = fault
    return fault


def registered() -> Mapping[str, type[Fault]]:
    """Those of the modules that were imported; `chaos.faults.all_faults` imports them all."""
    return _FAULTS


def checked(fault: type[Fault], use: FaultUse) -> Params:
    """The `with` of a use, and whether the rest of it fits the fault. Raises InputError that names the key."""
    if fault.links and use.link is None:
        raise InputError(
            f"{fault.name} needs a link", where="link", todo=f"One of: {', '.join(fault.links)}."
        )
    if use.link is not None and use.link not in fault.links:
        known = f"One of: {', '.join(fault.links)}." if fault.links else "Leave it out."
        raise InputError(f"{fault.name} cannot be on {use.link}", where="link", todo=known)
    if use.for_ is not None and not fault.lasts:
        raise InputError(
            f"{fault.name} is done at once, and takes no `for`", where="for", todo="Leave it out."
        )
    try:
        return fault.params.model_validate(use.with_)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in ("with", *first["loc"]))
        known = ", ".join(f.alias or n for n, f in fault.params.model_fields.items())
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(
            f"{fault.name}: {said}", where=place, todo=f"It takes: {known or 'nothing'}."
        ) from None


class FaultError(ServiceError):
    """A fault could not be put in force, or not be healed."""


__all__ = [
    "BaseModel", "Clock", "ConfigDict", "Family", "Fault", "FaultError", "Ground", "Instant", "Need", "NoParams",
    "Params", "Wants", "checked", "register", "registered",
]  # fmt: skip
