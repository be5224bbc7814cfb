"""What may go wrong, as a list that a seed draws before anything happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from reference.core.errors import InputError

DEVICES = 5
ROUNDS = 60
"""So long things go wrong. Then nothing more does."""
Chance = Callable[[], float]
"""A seeded stream: the next number in [0, 1)."""


class Kind(StrEnum):
    """The value is what is counted, shown and stored."""

    ORDER = "order"
    """No fault: a version is ordered if no job is open."""
    NEW_ORDER = "new_order"
    """A version is ordered, and the job that is open put aside for it."""
    CANCEL = "cancel"
    COMMAND_LOST = "command_lost"
    COMMAND_DOUBLED = "command_doubled"
    COMMAND_REORDERED = "command_reordered"
    """It arrives after a newer one."""
    STALE_COMMAND = "stale_command"
    """One of long ago arrives again."""
    RETAINED_COMMAND = "retained_command"
    """The device connects again, and the broker gives it the last command that it has kept."""
    CANCEL_LOST = "cancel_lost"
    STATUS_LOST = "status_lost"
    STATUS_DOUBLED = "status_doubled"
    STATUS_REORDERED = "status_reordered"
    """It arrives after a newer one."""
    ACKNOWLEDGEMENT_LOST = "acknowledgement_lost"
    ACKNOWLEDGEMENT_LATE = "acknowledgement_late"
    """It arrives when the device has something newer to say."""
    BIRTH_LOST = "birth_lost"
    BIRTH_DOUBLED = "birth_doubled"
    BIRTH_LATE = "birth_late"
    """It arrives when the device may have announced itself anew."""
    ANSWER_LOST = "answer_lost"
    ANSWER_REPLAYED = "answer_replayed"
    """An answer to a birth of long ago arrives again."""
    LINK_DOWN = "link_down"
    """The device is offline; what is sent to it waits at the broker."""
    SESSION_TAKEOVER = "session_takeover"
    """A second connection under the device's name; what goes to and comes from the first one is lost."""
    BROKER_RESTART = "broker_restart"
    """All that is on its way is lost."""
    SERVICE_RESTART = "service_restart"
    SERVICE_RESTORED = "service_restored"
    """It comes back from a backup."""
    SERVICE_CLOCK = "service_clock"
    """It restarts, and its clock has jumped, one way or the other."""
    CLOCK_BACK = "clock_back"
    CLOCK_FORWARD = "clock_forward"
    POWER_CUT = "power_cut"
    AGENT_KILLED = "agent_killed"
    JOURNAL_LOST = "journal_lost"


FAULTS = tuple(k for k in Kind if k is not Kind.ORDER)
MESSAGES = frozenset({
    Kind.COMMAND_LOST, Kind.COMMAND_DOUBLED, Kind.COMMAND_REORDERED, Kind.CANCEL_LOST, Kind.STATUS_LOST,
    Kind.STATUS_DOUBLED, Kind.STATUS_REORDERED, Kind.ACKNOWLEDGEMENT_LOST, Kind.ACKNOWLEDGEMENT_LATE,
    Kind.BIRTH_LOST, Kind.BIRTH_DOUBLED, Kind.BIRTH_LATE, Kind.ANSWER_LOST,
})  # fmt: skip
"""These meet the next message of their kind; the others strike at their time."""

SHORT = 1
"""Of an order's `m`: its command expires soon. 0: never."""


class Fault(NamedTuple):
    """One entry of the list. What `n` and `m` mean is the kind's business; any number means something."""

    kind: Kind
    at: int
    """The round from which on it strikes."""
    device: int
    n: int = 0
    m: int = 0

    def to_json(self) -> dict[str, str | int]:
        """As it is written to a file."""
        return {"kind": self.kind.value, "at": self.at, "device": self.device, "n": self.n, "m": self.m}


_WEIGHTS: Mapping[Kind, int] = {
    Kind.NEW_ORDER: 4, Kind.CANCEL: 3, Kind.COMMAND_LOST: 2, Kind.COMMAND_DOUBLED: 2, Kind.COMMAND_REORDERED: 2,
    Kind.STALE_COMMAND: 3, Kind.RETAINED_COMMAND: 2, Kind.CANCEL_LOST: 2, Kind.STATUS_LOST: 4, Kind.STATUS_DOUBLED: 3,
    Kind.STATUS_REORDERED: 4, Kind.ACKNOWLEDGEMENT_LOST: 3, Kind.ACKNOWLEDGEMENT_LATE: 3, Kind.BIRTH_LOST: 2,
    Kind.BIRTH_DOUBLED: 3, Kind.BIRTH_LATE: 2, Kind.ANSWER_LOST: 2, Kind.ANSWER_REPLAYED: 3, Kind.LINK_DOWN: 3, Kind.SESSION_TAKEOVER: 2,
    Kind.BROKER_RESTART: 1, Kind.SERVICE_RESTART: 1, Kind.SERVICE_RESTORED: 2, Kind.SERVICE_CLOCK: 2,
    Kind.CLOCK_BACK: 2, Kind.CLOCK_FORWARD: 2, Kind.POWER_CUT: 8, Kind.AGENT_KILLED: 4, Kind.JOURNAL_LOST: 3,
}  # fmt: skip
_LOTS = tuple(kind for kind, weight in _WEIGHTS.items() for _ in range(weight))
LARGE = 1 << 20


def draw(chance: Chance) -> tuple[Fault, ...]:
    """The list of one seed, in the order of time."""

    def below(n: int) -> int:
        return int(chance() * n)

    found = []
    for device in range(DEVICES):
        found.append(Fault(Kind.ORDER, 1 + below(8), device, below(LARGE)))
        found.append(Fault(Kind.ORDER, 24 + below(24), device, below(LARGE)))
    # Most of them meet one device: what is looked for are faults that come together.
    victim = below(DEVICES)
    for _ in range(5 + below(9)):
        kind = _LOTS[below(len(_LOTS))]
        device = victim if chance() < 0.6 else below(DEVICES)
        fault = Fault(kind, 1 + below(ROUNDS - 12), device, below(LARGE), below(LARGE))
        found += _with(fault, below)
    return tuple(sorted(found, key=lambda f: f.at))


def _with(fault: Fault, below: Callable[[int], int]) -> list[Fault]:
    """A fault, and what it needs to have an effect most of the time."""
    kind, at, device = fault.kind, fault.at, fault.device
    if kind is Kind.COMMAND_REORDERED:
        orders = [Fault(Kind.NEW_ORDER, t, device, below(LARGE)) for t in (at, at + 2 + below(3))]
        return [fault, *orders]
    if kind in (Kind.CLOCK_BACK, Kind.CLOCK_FORWARD):
        found = [fault, Fault(Kind.NEW_ORDER, at + below(3), device, below(LARGE), SHORT)]
        if kind is Kind.CLOCK_BACK:
            found.append(Fault(Kind.LINK_DOWN, at, device, 16 + below(8)))
        return found
    if kind is Kind.CANCEL_LOST:
        return [fault, Fault(Kind.CANCEL, at + below(3), device)]
    return [fault]


def from_json(value: object, where: str) -> tuple[Fault, ...]:
    """A list as it was written. Raises InputError."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError("its faults are not a list", where=where)
    return tuple(_fault(entry, f"{where}: fault {number}") for number, entry in enumerate(value, 1))


def _fault(entry: object, where: str) -> Fault:
    if not isinstance(entry, Mapping):
        raise InputError("is not an object", where=where)
    kinds = {k.value: k for k in Kind}
    kind = kinds.get(str(entry.get("kind")))
    if kind is None:
        raise InputError(
            f"there is no fault {entry.get('kind')!r}", where=where, todo=f"Known: {', '.join(kinds)}."
        )
    numbers = []
    for name in ("at", "device", "n", "m"):
        number = entry.get(name)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < LARGE:
            raise InputError(f"{name} has to be a number from 0 to {LARGE - 1}", where=where)
        numbers.append(number)
    at, device, n, m = numbers
    if device >= DEVICES:
        raise InputError(f"device has to be below {DEVICES}", where=where)
    return Fault(kind, at, device, n, m)
