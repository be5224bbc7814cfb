"""What may happen once in a story, at any moment between two steps of the updater."""

from __future__ import annotations

from reference.core.model import Command
from reference.core.steps import Journal
from reference.world import engine as engines
from reference.world import rules, talk
from reference.world import service as services
from reference.world.atoms import Atom
from reference.world.disk import StoredImage
from reference.world.machine import Machine, State
from reference.world.nouns import image
from reference.world.story import Event, Happening


def order(wanted: Command) -> Event:
    """The service orders it, and the device hears of it at once or later."""

    def happens(machine: Machine, state: State) -> Happening:
        before = machine.services[state.service]
        after = services.ordered(before, wanted)
        found = tuple(rules.service_is_final(before, after))
        state = state._replace(service=machine.service(after))
        yield f"generation {wanted.generation} is ordered", ([(Atom.MESSAGE_IN, state)], found)
        way, broken = talk.command(machine, state, wanted)
        yield f"generation {wanted.generation} is ordered and heard", (way, found + broken)

    return happens


def cancel(job_id: str, generation: int) -> Event:
    """A cancel of the job is sent, and heard at once or later."""

    def happens(machine: Machine, state: State) -> Happening:
        before = machine.services[state.service]
        job = before.job(job_id)
        if job is None or job.status.terminal:
            return
        after = before._replace(cancels=(*before.cancels, job_id))
        state = state._replace(service=machine.service(after))
        yield f"{job_id} is canceled", ([(Atom.MESSAGE_IN, state)], ())
        if (turn := talk.cancel(machine, state, job_id, generation)) is not None:
            yield f"{job_id} is canceled, and the device hears of it", turn

    return happens


def stale(wanted: Command) -> Event:
    """A command of long ago arrives."""

    def happens(machine: Machine, state: State) -> Happening:
        yield f"generation {wanted.generation} arrives", talk.command(machine, state, wanted)

    return happens


def corrupt(machine: Machine, state: State) -> Happening:
    """The journal is damaged, and found so when the updater starts again."""
    lost = machine.lost(state)
    yield "the journal is lost", ([(Atom.OPEN_READ, lost)], ())


def upgrade(machine: Machine, state: State) -> Happening:
    """Another agent takes over: it opens the journal and writes it anew in its own version."""
    begun = machine.killed(state)
    way, found = machine.open(begun)
    again, broken = machine.write(way[-1][1], machine.read(begun))
    yield "the agent is upgraded", ([*way, *again], found + broken)


def journal_full(machine: Machine, state: State) -> Happening:
    """The journal cannot be written now; the agent reads it again, and goes on a second later.

    A COMMIT that raised may be in the log all the same: it is read again, synced, and believed then.
    """
    state, decision = machine.look(state)
    if not isinstance(decision.step, Journal):
        return
    later = machine.wait(state, 1000)
    yield "the journal is full", ([(Atom.WAIT_PASS, later)], ())
    way, found = machine.go(state, decision)
    known = machine.reread(way[-1][1]._replace(journal=way[0][1].journal))
    yield "the journal is full after it was written", ([way[0], (Atom.OPEN_SYNC, known)], found)


def release(machine: Machine, state: State) -> Happening:
    """The operator ends the hold."""
    process = machine.processes[state.process]
    if process.hold:
        free = machine.processes.number(process._replace(hold=False))
        yield "the hold ends", ([(Atom.WAIT_PASS, state._replace(process=free))], ())


def unlock(machine: Machine, state: State) -> Happening:
    """The client gives the update lock back."""
    process = machine.processes[state.process]
    if process.lock:
        free = machine.processes.number(process._replace(lock=False, locked_ms=0))
        yield "the lock is given back", ([(Atom.WAIT_PASS, state._replace(process=free))], ())


def prune(version: str) -> Event:
    """Somebody removes an image that no container uses."""

    def happens(machine: Machine, state: State) -> Happening:
        engine, digest = machine.engines[state.engine], image(version).digest
        unused = digest in engine.images and not any(c.image.digest == digest for c in engine.containers)
        if unused:
            left: tuple[StoredImage, ...] = tuple(i for i in engine.disk.images if i.digest != digest)
            engine = engine._replace(disk=engine.disk._replace(images=left))
            pruned = state._replace(engine=machine.engine(engine))
            yield f"the image of {version} is pruned", ([(Atom.UNLIST_PURGE, pruned)], ())

    return happens


def killed(machine: Machine, state: State) -> Happening:
    """The client's process ends by itself, for no reason of its own."""
    engine = machine.engines[state.engine]
    for container in engine.containers:
        if container.running:
            gone = engines.ended(engine, container.id)
            killed = state._replace(engine=machine.engine(gone))
            yield f"{container.image.version} is killed", ([(Atom.STOP_GONE, killed)], ())
