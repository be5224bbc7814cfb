"""What is on its way between service and devices, and what may be done to it."""

from __future__ import annotations

from typing import NamedTuple

from reference.world.search.device import Driver
from reference.world.search.faults import Kind


class Ordered(NamedTuple):
    """Service to device: run this."""

    command: int


class Canceled(NamedTuple):
    """Service to device: give it up."""

    job_id: str
    generation: int


class Answer(NamedTuple):
    """Service to device: to its birth."""

    nonce: int
    epoch: str
    floor: int
    replaced: bool = False
    """This journal was given up."""


class Acknowledged(NamedTuple):
    """Service to device: a report is stored."""

    epoch: str
    job_id: str
    sequence: int


class Announced(NamedTuple):
    """Device to service: its birth."""

    nonce: int
    epoch: str
    floor: int | None
    open_job: str | None
    running: str | None


class Status(NamedTuple):
    """Device to service: a report."""

    report: int
    epoch: str
    running: str | None


Down = Ordered | Canceled | Answer | Acknowledged
Up = Announced | Status


class Flight(NamedTuple):
    """A message on its way, until the round `due`; what was done to it on purpose."""

    due: int
    message: Down | Up
    fault: Kind | None = None


DOWN: dict[type[Down], tuple[Kind, ...]] = {
    Ordered: (Kind.COMMAND_LOST, Kind.COMMAND_DOUBLED, Kind.COMMAND_REORDERED),
    Canceled: (Kind.CANCEL_LOST,),
    Answer: (Kind.ANSWER_LOST,),
    Acknowledged: (Kind.ACKNOWLEDGEMENT_LOST, Kind.ACKNOWLEDGEMENT_LATE),
}
UP: dict[type[Up], tuple[Kind, ...]] = {
    Announced: (Kind.BIRTH_LOST, Kind.BIRTH_DOUBLED, Kind.BIRTH_LATE),
    Status: (Kind.STATUS_LOST, Kind.STATUS_DOUBLED, Kind.STATUS_REORDERED),
}


def code(message: Down | Up) -> int:
    """The same for the same message in every process."""
    match message:
        case Ordered():
            return 11
        case Canceled(_, generation):
            return 1_000 + generation
        case Answer(nonce, _, floor, replaced):
            return 1_000_000 + 1_000 * nonce + (999 if replaced else floor)
        case Acknowledged(_, _, sequence):
            return 3_000 + sequence
        case _:
            return 12


def about(message: Down | Up, driver: Driver) -> str:
    """A message in a few words."""
    match message:
        case Ordered(number):
            order = driver.commands[number]
            return f"command {order.generation} ({order.job_id}, {order.image.version})"
        case Canceled(job_id, generation):
            return f"cancel of {job_id}, generation {generation}"
        case Answer(nonce, epoch, floor, replaced):
            said = "that journal was replaced" if replaced else f"floor {floor}"
            return f"answer to birth {nonce} of {epoch}: {said}"
        case Acknowledged(epoch, job_id, sequence):
            return f"acknowledgement of report {sequence} of {job_id} in {epoch}"
        case Announced(nonce, epoch, floor, open_job, _):
            return f"birth {nonce} of {epoch}, floor {floor}, open {open_job or '-'}"
        case Status(number, epoch, _):
            r = driver.reports[number]
            told = " ".join(str(x) for x in (r.status, r.phase, r.outcome, r.reason) if x is not None)
            return f"report {r.sequence} of {r.job_id} in {epoch}: {told}"
