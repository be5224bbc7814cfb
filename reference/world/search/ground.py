"""What both sides stand on: the round, what is on its way, the trace, and what did not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from reference.core.invariants import Violation
from reference.world.search.faults import DEVICES, Fault, Kind
from reference.world.search.parties import Client, Device
from reference.world.search.wire import DOWN, UP, Answer, Down, Flight, Ordered, Up, about
from reference.world.search.world import ROUND_MS, World

Say = Callable[[int | None, str], None]
"""Told with each line of the trace, and which device it is about; None: all."""


class Ground:
    """`now` is a round. `found`: what did not hold, with who it was."""

    def __init__(self, world: World, say: Say | None = None) -> None:
        self.world, self._say = world, say
        self.round = 0
        self.service_ms = 0
        """How far the service's clock is from the truth."""
        self.hearing_at = 0
        self.service_at = 0
        """The round from which on the service is there."""
        self.devices = [Device(n, world.device) for n in range(DEVICES)]
        self.clients = [Client(world.client) for _ in range(DEVICES)]
        self.jobs = [0] * DEVICES
        self.restored: set[tuple[int, str]] = set()
        """Jobs that a backup has brought back."""
        self.restores = 0
        self.armed: list[list[Fault]] = [[] for _ in range(DEVICES)]
        self.fired: Counter[Kind] = Counter()
        self.found: list[Violation] = []
        self.trace: list[int] = []
        for client in self.clients:
            client.named = 1

    def say(self, who: int | None, what: str, *, at_service: bool = False) -> None:
        """A line of the trace for people."""
        if self._say is not None:
            where = "service" if at_service or who is None else f"device {who}"
            self._say(who, f"{self.round:5}  {where:8}  {what}")

    def wrong(self, who: int, found: tuple[Violation, ...]) -> None:
        """Something does not hold."""
        for violation in found:
            told = Violation(violation.invariant, f"device {who}: {violation.detail}")
            if told not in self.found:
                self.found.append(told)
                self.say(who, f"VIOLATED {violation.invariant}: {violation.detail}")

    def clock_ms(self) -> int:
        """The service's clock."""
        return self.round * ROUND_MS + self.service_ms

    # ---- the way between

    def _fault(self, who: int, kinds: tuple[Kind, ...]) -> Fault | None:
        for fault in self.armed[who]:
            if fault.kind in kinds:
                self.armed[who].remove(fault)
                return fault
        return None

    def _put(self, who: int, queue: list[Flight], message: Down | Up, kinds: tuple[Kind, ...]) -> None:
        due = self.round + 1
        fault = self._fault(who, kinds) if self.armed[who] else None
        if fault is None:
            queue.append(Flight(due, message))
            return
        late = due + 2 + fault.n % 12
        if fault.kind.value.endswith("lost"):
            self.count(fault.kind)
            self.say(who, f"{about(message, self.world.driver)} is lost")
        elif fault.kind.value.endswith("doubled"):
            queue += [Flight(due, message), Flight(late, message, fault.kind)]
        else:
            queue.append(Flight(late, message, fault.kind))

    def count(self, kind: Kind) -> None:
        """A fault has had an effect."""
        self.fired[kind] += 1

    def to_device(self, who: int, message: Down) -> None:
        """Give it to the broker."""
        kinds = DOWN[type(message)]
        device = self.devices[who]
        if isinstance(message, Ordered):
            device.commands.append(message)
        elif isinstance(message, Answer):
            device.answers.append(message)
        self._put(who, device.down, message, kinds)

    def to_service(self, who: int, message: Up) -> None:
        """Give it to the broker."""
        self._put(who, self.devices[who].up, message, UP[type(message)])
