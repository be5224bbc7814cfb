"""Where a story comes to rest, and which cut led there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from reference.core.errors import Reason
from reference.core.model import Outcome, Phase
from reference.world.atoms import Atom
from reference.world.explore import KILLED, Explorer, turn
from reference.world.machine import Machine, State
from reference.world.story import Story

MOST_ATOMS = 2000
"""Atoms of a walk to its end."""


class End(NamedTuple):
    """A device at rest. Versions by name; None: there is none."""

    outcome: Outcome | None
    """Of the last job; None: it never had one."""
    reason: Reason | None
    runs: str | None
    current: str | None
    previous: str | None

    @property
    def brief(self) -> str:
        """In a few words."""
        word = self.outcome.value if self.outcome is not None else "no outcome"
        return f"{word}, {self.runs} runs" if self.runs else f"{word}, nothing runs"


class Landing(NamedTuple):
    """A cut, by where it came, and where the device came to rest."""

    phase: Phase
    step: str
    atom: Atom
    label: str
    """What the cut left, as the explorer names it."""
    back: Phase
    """The phase that the journal has then."""
    end: End


def end_of(machine: Machine, state: State) -> End:
    """The end that this state is."""
    job = next(reversed(machine.services[state.service].jobs), None)
    record = machine.memory_of(state).record
    running = [c.image.version for c in machine.engines[state.engine].containers if c.running]
    return End(
        job.outcome if job is not None else None,
        job.reason if job is not None else None,
        running[0] if len(running) == 1 else None,
        record.current.image.version if record.current is not None else None,
        record.previous.image.version if record.previous is not None else None,
    )


def ends(story: Story, cuts: int = 1) -> frozenset[End]:
    """Every end that a story comes to with at most so many cuts, wherever they come."""
    machine = story.machine()
    found: set[End] = set()
    Explorer(story, machine, cuts=cuts, faults=0, ends=lambda state: found.add(end_of(machine, state))).run()
    return frozenset(found)


def landings(story: Story) -> Iterator[Landing]:
    """Every cut of a story that goes its way without events and faults, and where each led."""
    machine = story.machine()
    known: dict[State, End] = {}
    state = story.begin(machine)
    for _ in range(MOST_ATOMS):
        looked, decision = machine.look(state)
        phase = machine.memory_of(state).record.phase
        way, _ = turn(story, machine, state, story.commands)
        if way is None:
            return
        step = "Message" if way[0][0].startswith("message") else type(decision.step).__name__
        for atom, after in way:
            for label, left in [*machine.cut(after), (KILLED, machine.killed(after))]:
                back = machine.memory_of(left).record.phase
                yield Landing(phase, step, atom, label, back, _rest(story, machine, left, known))
        state = way[-1][1]
        if story.hopeless and machine.memory_of(looked).record.duty:
            return


def _rest(story: Story, machine: Machine, state: State, known: dict[State, End]) -> End:
    """Where the device comes to rest from here, without another cut."""
    chain: list[State] = []
    seen: set[State] = set()
    while state not in known and state not in seen:
        chain.append(state)
        seen.add(state)
        way, _ = turn(story, machine, state, story.commands)
        if way is None:
            break
        state = way[-1][1]
    end = known.get(state) or end_of(machine, state)
    known.update((one, end) for one in chain)
    return end
