"""What device and service say to each other in the model: in good order, and with one fault at any moment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core.delivery import Memory
from reference.core.job import JobStatus
from reference.core.model import Outcome, Phase
from reference.core.record import UpdateRecord
from reference.core.steps import Wait
from reference.world import talk
from reference.world.atoms import Atom
from reference.world.machine import Machine, State
from reference.world.nouns import command
from reference.world.stories import story

SUCCESS = story("success")
ORDERS = SUCCESS.commands
FAULTS = {
    "command 2 once more",
    "status, its acknowledgement lost",
    "status, out of turn",
    "birth, out of turn",
}


def begun() -> tuple[Machine, State]:
    """The service has ordered v2, and the device has not heard of it."""
    machine = SUCCESS.machine()
    return machine, SUCCESS.begin(machine)


def taken() -> tuple[Machine, State]:
    """The device has the command, and has not told so."""
    machine, state = begun()
    return machine, said(machine, state)


def said(machine: Machine, state: State) -> State:
    """One exchange in good order."""
    found = talk.exchange(machine, state, ORDERS)
    assert found is not None
    way, violations = found
    assert violations == ()
    return way[-1][1]


def worked(machine: Machine, state: State, phase: Phase) -> State:
    """The updater goes on to this phase, and says nothing."""
    for _ in range(60):
        state, decision = machine.look(state)
        if machine.memory_of(state).record.phase is phase:
            return state
        way, found = machine.go(state, decision)
        assert found == ()
        state = way[-1][1]
    raise AssertionError(f"it never comes to {phase}")


def statuses(machine: Machine, state: State) -> list[JobStatus]:
    return [job.status for job in machine.services[state.service].jobs]


# ---- in good order


def test_a_command_is_heard_then_stored_then_told() -> None:
    machine, state = begun()
    found = talk.exchange(machine, state, ORDERS)
    assert found is not None
    assert [atom for atom, _ in found[0]] == [Atom.MESSAGE_IN, Atom.JOURNAL_APPEND, Atom.JOURNAL_SYNC]
    state = found[0][-1][1]
    assert machine.memory_of(state).record.queued == command(2, "v2")
    assert statuses(machine, state) == [JobStatus.QUEUED], "nobody has told the service"
    found = talk.exchange(machine, state, ORDERS)
    assert found is not None
    assert [atom for atom, _ in found[0]] == [
        Atom.MESSAGE_OUT, Atom.MESSAGE_IN, Atom.JOURNAL_APPEND, Atom.JOURNAL_SYNC,
    ]  # fmt: skip
    state = found[0][-1][1]
    assert statuses(machine, state) == [JobStatus.IN_PROGRESS]
    assert machine.memory_of(state).outbox == ()
    assert talk.exchange(machine, state, ORDERS) is None, "all is said"


def test_a_device_that_does_not_know_its_floor_is_born_first() -> None:
    machine, state = begun()
    record = UpdateRecord("epoch-2")
    journal = machine.journals.number((machine.memory(Memory(record)),))
    state = said(machine, state._replace(journal=journal))
    assert machine.services[state.service].client.epoch == "epoch-2"
    assert machine.memory_of(state).record.floor == 1, "so that generation 2 is taken"
    assert machine.memory_of(said(machine, state)).record.queued == command(2, "v2")


def test_a_cancel_is_sent_until_it_is_obeyed() -> None:
    machine, state = taken()
    state = said(machine, state)
    service = machine.services[state.service]
    state = state._replace(service=machine.service(service._replace(cancels=("job-2",))))
    state = said(machine, state)
    assert machine.memory_of(state).record.queued is None, "it waited: it has ended"
    state = said(machine, state)
    assert statuses(machine, state) == [JobStatus.CANCELED]
    assert talk.exchange(machine, state, ORDERS) is None
    job = machine.services[state.service].job("job-2")
    assert job is not None and job.outcome is Outcome.FAILED


def test_a_command_of_no_order_is_not_sent() -> None:
    machine, state = begun()
    assert talk.exchange(machine, state, {}) is None


# ---- with one fault


def test_these_are_the_faults() -> None:
    machine, state = taken()
    assert {label for label, _ in talk.faults(machine, state, ORDERS)} == FAULTS
    machine, state = begun()
    quiet = {label for label, _ in talk.faults(machine, state, ORDERS)}
    assert quiet == {label for label in FAULTS if not label.startswith("status")}, "there is nothing to tell"


@pytest.mark.parametrize("phase", [Phase.ACCEPTED, Phase.STAGED, Phase.VERIFYING, Phase.CLEANING_UP])
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_no_fault_breaks_anything_or_changes_what_is_installed(phase: Phase, fault: str) -> None:
    machine, state = taken()
    state = worked(machine, state, phase)
    before = machine.memory_of(state)
    ways = dict(talk.faults(machine, state, ORDERS))
    way, found = ways[fault]
    assert found == ()
    after = way[-1][1]
    assert machine.memory_of(after).record == before.record
    assert (after.engine, after.process) == (state.engine, state.process)


def test_an_acknowledgement_that_is_lost_leaves_the_report_and_the_next_one_takes_it() -> None:
    machine, state = taken()
    way, found = dict(talk.faults(machine, state, ORDERS))["status, its acknowledgement lost"]
    assert [atom for atom, _ in way] == [Atom.MESSAGE_OUT] and found == ()
    lost = way[-1][1]
    assert statuses(machine, lost) == [JobStatus.IN_PROGRESS]
    assert lost.journal == state.journal and machine.memory_of(lost).outbox != ()
    again = said(machine, lost)
    assert machine.memory_of(again).outbox == ()
    assert again == said(machine, state), "told twice is told once"


def test_a_command_that_comes_again_is_answered_and_taken_once() -> None:
    machine, state = taken()
    state = said(machine, state)
    way, _ = dict(talk.faults(machine, state, ORDERS))["command 2 once more"]
    after = machine.memory_of(way[-1][1])
    assert after.record == machine.memory_of(state).record
    assert [(r.job_id, r.status) for r in after.outbox] == [("job-2", JobStatus.IN_PROGRESS)]


def test_a_birth_out_of_turn_changes_nothing() -> None:
    machine, state = taken()
    way, found = dict(talk.faults(machine, state, ORDERS))["birth, out of turn"]
    assert found == () and way[-1][1].journal == state.journal


def test_a_replaced_epoch_gets_no_answer() -> None:
    machine, state = taken()
    service = machine.services[state.service]
    client = replace(service.client, epoch="epoch-2", replaced=frozenset({"epoch-1"}))
    state = state._replace(service=machine.service(service._replace(client=client)))
    way, found = talk.birth(machine, state)
    assert [atom for atom, _ in way] == [Atom.MESSAGE_OUT] and found == ()
    assert not all(j.status.terminal for j in machine.services[way[-1][1].service].jobs), "and ends nothing"


def test_the_updater_waits_when_something_is_to_be_said() -> None:
    """What is said is said between two steps that wait: this is where the explorer asks for it."""
    machine, state = begun()
    _, decision = machine.look(state)
    assert isinstance(decision.step, Wait) and talk.exchange(machine, state, ORDERS) is not None
