"""What device and service say to each other in the model world: in good order, and with one fault."""

from __future__ import annotations

from collections.abc import Iterator

from reference.core.invariants import Violation
from reference.core.model import Command
from reference.world import rules
from reference.world import service as services
from reference.world.atoms import Atom
from reference.world.machine import Machine, Said, State, Way
from reference.world.service import Service

Turn = tuple[Way, tuple[Violation, ...]]
Orders = dict[int, Command]
"""The commands of a story, by generation."""


def exchange(machine: Machine, state: State, orders: Orders) -> Turn | None:
    """What is to be said now, one thing: a birth that is not answered yet, a status, a command. None: all is said."""
    memory, service = machine.memory_of(state), machine.services[state.service]
    record = memory.record
    if record.floor is None or service.client.epoch != record.epoch:
        return birth(machine, state)
    if memory.outbox:
        return status(machine, state)
    for job in services.waiting(service):
        if job.generation in orders:
            return command(machine, state, orders[job.generation])
    for job in services.canceling(service):
        found = cancel(machine, state, job.id, job.generation)
        if found is not None:
            return found
    return None


def birth(machine: Machine, state: State) -> Turn:
    """The device announces itself and is answered."""
    key = ("birth", machine.read(state), state.service)
    return _turn(machine, state, machine.said(key, lambda: _birth(machine, state)))


def _birth(machine: Machine, state: State) -> Said:
    memory, service = machine.memory_of(state), machine.services[state.service]
    record = memory.record
    open_job = record.job.job_id if record.job is not None else None
    after, floor = services.born(service, record.epoch, record.floor, open_job)
    found = tuple(rules.service_is_final(service, after))
    if floor is None:
        return machine.service(after), None, found
    known = machine.rules.receive_birth_answer(memory, "nonce", "nonce", record.epoch, floor)
    return machine.service(after), machine.memory(known), found


def status(machine: Machine, state: State, *, acknowledged: bool = True) -> Turn:
    """The device tells all that it has to tell. Not `acknowledged`: what the service answers is lost."""
    key = ("status", machine.read(state), state.service)
    service, memory, found = machine.said(key, lambda: _status(machine, state))
    return _turn(machine, state, (service, memory if acknowledged else None, found))


def _status(machine: Machine, state: State) -> Said:
    memory, service = machine.memory_of(state), machine.services[state.service]
    after, told = services.heard(service, memory.outbox, memory.record.epoch)
    found = tuple(rules.service_is_final(service, after))
    for job_id, sequence in told:
        memory = machine.rules.receive_acknowledgement(memory, memory.record.epoch, job_id, sequence)
    return machine.service(after), machine.memory(memory), found


def _turn(machine: Machine, state: State, said: Said) -> Turn:
    service, memory, found = said
    heard = State(state.journal, state.engine, state.process, state.boot, service, state.watch)
    if memory is None:
        return [(Atom.MESSAGE_OUT, heard)], found
    way, broken = _stored(machine, heard, memory)
    return [(Atom.MESSAGE_OUT, heard), (Atom.MESSAGE_IN, heard), *way], found + broken


def command(machine: Machine, state: State, order: Command) -> Turn:
    """A command arrives, the first time or again."""
    key = ("command", machine.read(state), order.job_id, order.generation)
    _, memory, _ = machine.said(key, lambda: _command(machine, state, order))
    way, found = _stored(machine, state, memory)
    return [(Atom.MESSAGE_IN, state), *way], found


def _command(machine: Machine, state: State, order: Command) -> Said:
    memory, _ = machine.rules.receive(machine.memory_of(state), order, 0, machine.limits)
    return state.service, machine.memory(memory), ()


def cancel(machine: Machine, state: State, job_id: str, generation: int) -> Turn | None:
    """A cancel arrives. None: it changes nothing."""
    memory = machine.memory(machine.rules.receive_cancel(machine.memory_of(state), job_id, generation))
    if memory == machine.read(state):
        return None
    way, found = _stored(machine, state, memory)
    return [(Atom.MESSAGE_IN, state), *way], found


def faults(machine: Machine, state: State, orders: Orders) -> Iterator[tuple[str, Turn]]:
    """One message that goes another way than in good order, at this moment.

    A lost one is no fault of its own: in good order nothing is said until the device has nothing else to do.
    """
    service: Service = machine.services[state.service]
    for generation in sorted(orders):
        if any(j.generation == generation for j in service.jobs):
            yield f"command {generation} once more", command(machine, state, orders[generation])
    if machine.memory_of(state).outbox:
        yield "status, its acknowledgement lost", status(machine, state, acknowledged=False)
        yield "status, out of turn", status(machine, state)
    yield "birth, out of turn", birth(machine, state)


def _stored(machine: Machine, state: State, memory: int | None) -> Turn:
    return ([], ()) if memory is None or memory == machine.read(state) else machine.write(state, memory)
