"""What the faults of the network have in common: ways through Toxiproxy, each watched while the fault is in force."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from chaos.faults.base import Family, Fault, FaultError, Ground, Need, Params, Wants
from chaos.scenario.model import FaultUse, Link
from reference.core.errors import BlackstartError

if TYPE_CHECKING:
    from chaos.proxies.links import Passage
    from chaos.proxies.toxics import Stream
    from chaos.proxies.watch import Seen, Watch


@dataclass(slots=True)
class Hurt:
    """One way, and what is on it."""

    passage: Passage
    watch: Watch
    toxics: list[str] = field(default_factory=list)
    open_then: int = 0
    """Connections that were open when it was cut off, each time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A toxic that a fault puts on each of its ways, with attributes in Toxiproxy's own units."""

    kind: str
    attributes: dict[str, int]
    streams: tuple[Stream, ...] = ("downstream",)


class NetworkFault(Fault):
    """On every way of a link, or on the device's own. What it does to one way: `hurt` and `let_go`."""

    family: ClassVar[Family] = Family.NETWORK
    needs: ClassVar[tuple[Need, ...]] = (Need.TOXIPROXY,)
    links: ClassVar[tuple[Link, ...]] = tuple(Link)

    def __init__(self, ground: Ground, use: FaultUse, given: Params, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self.ways: list[Hurt] = []

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:
        if use.link is not None:
            wants.toxic.add(use.link)

    @classmethod
    def needs_for(cls, use: FaultUse) -> tuple[Need, ...]:
        database = (Need.POSTGRESQL,) if use.link is Link.SERVICE_DATABASE else ()
        return (*cls.needs, *database)

    @property
    def key(self) -> str:
        """By which this coming of the fault is told from others on the same way."""
        return f"{self.name}-{id(self)}"

    async def begin(self) -> None:
        assert self.use.link is not None, "the scenario's check asks for it"
        passages = self.ground.passages(self.use.link, self.use.device)
        if not passages:
            raise FaultError(f"there is no way through Toxiproxy on {self.use.link}", where=self.name)
        for passage in passages:
            self.ways.append(Hurt(passage, passage.watch()))
            await self.hurt(self.ways[-1])

    async def heal(self) -> None:
        failed: BlackstartError | None = None
        for way in self.ways:
            way.watch.close()
            try:
                await self.let_go(way)
            except BlackstartError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def fired(self) -> str:
        told = [(way.passage.name, self.shown(way)) for way in self.ways]
        if not told or not all(
            text for _, text in told
        ):  # A way that nobody met it on: not everybody was hurt.
            return ""
        name, text = told[0]
        others = f" (and on {len(told) - 1} more)" if len(told) > 1 else ""
        return f"{name}: {text}{others}"

    @abstractmethod
    async def hurt(self, way: Hurt) -> None:
        """Put it in force on one way."""

    @abstractmethod
    async def let_go(self, way: Hurt) -> None:
        """Undo what was done so far; again is success."""

    @abstractmethod
    def shown(self, way: Hurt) -> str:
        """What was seen on one way since it was hurt, with numbers; empty: nothing that the fault did."""


class ToxicFault(NetworkFault):
    """One that is nothing but toxics."""

    given: Any
    looks_before: ClassVar[bool] = False
    """Whether what was seen while the toxics were being put there counts, too."""

    @abstractmethod
    def toxics(self) -> Sequence[Wanted]:
        """Those that are put on each way, in order."""

    @abstractmethod
    def proof(self, seen: Seen) -> str:
        """What shows that somebody met them; empty: nothing does."""

    async def hurt(self, way: Hurt) -> None:
        for wanted in self.toxics():
            for stream in wanted.streams:
                way.toxics.append(await way.passage.add(wanted.kind, stream, **wanted.attributes))
        if not self.looks_before:
            way.watch.close()
            way.watch = way.passage.watch()

    async def let_go(self, way: Hurt) -> None:
        while way.toxics:
            # Forgotten first: a server that hangs is started again without it.
            await way.passage.remove(way.toxics.pop())

    def shown(self, way: Hurt) -> str:
        return self.proof(way.watch.seen())


class CutOff(NetworkFault):
    """One that takes a way down."""

    async def hurt(self, way: Hurt) -> None:
        way.open_then += way.passage.meter.open
        await way.passage.down(self.key)

    async def let_go(self, way: Hurt) -> None:
        await way.passage.up(self.key)

    def shown(self, way: Hurt) -> str:
        seen = way.watch.seen()
        ended = seen.resets + len(seen.ends)
        # Others may have ended by themselves, where the way was up in between.
        cut = min(ended, way.open_then)
        if not cut + seen.refused:
            return ""
        return f"{several(cut, 'connection')} cut, {several(seen.refused, 'attempt')} to connect refused"


def ms(seconds: float) -> str:
    """`0.1234` -> `123 ms`."""
    return f"{seconds * 1000:.0f} ms"


def several(count: int, one: str) -> str:
    """`1 connection`, `2 connections`."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"
