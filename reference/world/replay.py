"""A way through a story played again: the same cuts and events at the same atoms, one line each, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reference.core.errors import InputError
from reference.core.invariants import Violation
from reference.core.steps import Journal, Step, Wait
from reference.world import talk
from reference.world.explore import KILLED, endless, turn
from reference.world.machine import Machine, State, Way
from reference.world.story import Story
from reference.world.talk import Turn

Branches = Sequence[tuple[int, str]]


class Replay:
    """Plays a story with `branches`: after how many atoms of the walk before, and what happens then.

    `lines` says what was done, `found` what did not hold at the end.
    """

    def __init__(self, story: Story, machine: Machine, branches: Branches, most_atoms: int = 2000) -> None:
        self._story, self._machine, self._branches = story, machine, list(branches)
        self._most = most_atoms
        self.lines: list[str] = []
        self.found: tuple[Violation, ...] = ()

    def run(self) -> tuple[Violation, ...]:
        """Play it to its end. Raises InputError when some branch does not exist in this story."""
        state = self._story.begin(self._machine)
        begun: Way = []
        for atoms, label in self._branches:
            state, begun = self._leap(self._on(state, begun, atoms), label)
        self._judge(begun)
        state = begun[-1][1] if begun else state
        seen: set[State] = set()
        while state not in seen and len(seen) < self._most:
            seen.add(state)
            way = self._turn(state)
            if way is None:
                return self.found
            self._judge(way)
            state = way[-1][1]
        self.found += endless(self._story, self._machine, state)
        self.lines.append("(and so on)")
        return self.found

    def _judge(self, way: Way) -> None:
        """What has to hold between two atoms, too."""
        for _, state in way:
            self.found += self._machine.holds(state, everything=not self._story.strangers)

    def _on(self, state: State, way: Way, atoms: int) -> State:
        """The state after so many atoms of a walk that begins with `way`."""
        left = atoms
        while left > len(way):
            left -= len(way)
            state = way[-1][1] if way else state
            further = self._turn(state)
            if further is None:
                raise InputError(f"the walk ends {left} atoms before {atoms}", where=self._story.name)
            way = further
        return way[left - 1][1] if left else state

    def _leap(self, state: State, label: str) -> tuple[State, Way]:
        """Where the next walk begins, and the atoms that it begins with: a cut has none."""
        cuts = dict([*self._machine.cut(state), (KILLED, self._machine.killed(state))])
        self.lines.append(f"-- {label}")
        if label in cuts:
            return cuts[label], []
        for known, (way, found) in self._ways(state):
            if known == label:
                self.found += found
                return state, way
        names = ", ".join(repr(name) for name in [*cuts, *(known for known, _ in self._ways(state))])
        raise InputError(f"there is no {label!r} here, only {names}", where=self._story.name)

    def _ways(self, state: State) -> Iterator[tuple[str, Turn]]:
        machine = self._machine
        if not machine.processes[state.process].opened:
            return
        yield from talk.faults(machine, state, self._story.commands)
        for event in self._story.events:
            yield from event(machine, state)

    def _turn(self, state: State) -> Way | None:
        machine = self._machine
        way, found = turn(self._story, machine, state, self._story.commands)
        self.found += found
        if machine.processes[state.process].opened:
            state, decision = machine.look(state)
            record = machine.memory_of(state).record
            said = "" if not way or not way[0][0].startswith("message") else "  (a message)"
            self.lines.append(f"{record.phase}: {brief(decision.step)}{said}")
        else:
            self.lines.append("open the journal")
        return way or None


def brief(step: Step) -> str:
    """A step in a few words."""
    if isinstance(step, Journal):
        r = step.record
        why = f" {r.outcome or ''} {r.reason or ''}".rstrip()
        return f"Journal {r.phase}{why} attempts={r.attempts} boots={r.boots}"
    if isinstance(step, Wait):
        return f"Wait {step.for_ms} ms: {step.why}"
    return repr(step).replace("container_id=", "")
