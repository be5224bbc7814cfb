"""Cycles through cuts: with any number of cuts, something that was never trusted is started a bounded number of times.

A device that is cut again and again makes no progress, and nothing can change that. But a trial must not go on for ever:
a way that leads from a state back to it, over whatever cuts, and starts an untrusted version on the way, is a defect.
"""

from __future__ import annotations

from array import array

from reference.core.invariants import Violation
from reference.core.model import Phase
from reference.world.atoms import Atom
from reference.world.machine import Machine, State, Way

_TRIAL = (Phase.SWITCHING, Phase.VERIFYING)


class Edges:
    """The graph of one story's trials. States in which no trial goes on are left out: no cycle of one passes there."""

    def __init__(self) -> None:
        self._numbers: dict[State, int] = {}
        self._from, self._to, self._starts = array("L"), array("L"), array("B")
        self._trials: dict[int, bool] = {}

    def step(self, machine: Machine, state: State, way: Way) -> None:
        """The updater goes on from a state, by these atoms."""
        for atom, after in way:
            if after != state and self._trial(machine, state) and self._trial(machine, after):
                self._add(self._number(state), self._number(after), atom is Atom.START_SPAWN)
            state = after

    def cut(self, machine: Machine, state: State, left: list[tuple[str, State]]) -> None:
        """A cut in this state leaves one of those."""
        if not self._trial(machine, state):
            return
        begin = self._number(state)
        for _, after in left:
            if self._trial(machine, after):
                self._add(begin, self._number(after), False)

    def _trial(self, machine: Machine, state: State) -> bool:
        """Whether some value that the journal may have after a cut is in a trial."""
        found = self._trials.get(state.journal)
        if found is None:
            values = machine.journals[state.journal]
            found = any(machine.memories[m].record.phase in _TRIAL for m in values)
            self._trials[state.journal] = found
        return found

    def _number(self, state: State) -> int:
        return self._numbers.setdefault(state, len(self._numbers))

    def _add(self, begin: int, end: int, starts: bool) -> None:
        self._from.append(begin)
        self._to.append(end)
        self._starts.append(starts)

    @property
    def violation(self) -> Violation:
        """What `endless` means."""
        return Violation("bounded", "an untrusted version is started again and again, over cuts without end")

    def endless(self) -> bool:
        """Whether something untrusted is started on a cycle."""
        home = self._components()
        edges = zip(self._from, self._to, self._starts, strict=True)
        return any(starts and home[begin] == home[end] for begin, end, starts in edges)

    def _components(self) -> array[int]:
        """The strongly connected component of each state (Tarjan 1972, without recursion)."""
        count = len(self._numbers)
        first, edges = self._sorted(count)
        order, low, home = (array("l", [-1]) * count for _ in range(3))
        stack: list[int] = []
        seen = components = 0
        for root in range(count):
            if order[root] >= 0:
                continue
            work = [(root, first[root])]
            order[root] = low[root] = seen
            seen += 1
            stack.append(root)
            while work:
                node, edge = work.pop()
                if edge < first[node + 1]:
                    work.append((node, edge + 1))
                    after = edges[edge]
                    if order[after] < 0:
                        order[after] = low[after] = seen
                        seen += 1
                        stack.append(after)
                        work.append((after, first[after]))
                    elif home[after] < 0:
                        low[node] = min(low[node], order[after])
                    continue
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    while True:
                        member = stack.pop()
                        home[member] = components
                        if member == node:
                            break
                    components += 1
        return home

    def _sorted(self, count: int) -> tuple[array[int], array[int]]:
        """Edges by where they begin, and where those of each state begin among them."""
        first = array("L", [0]) * (count + 1)
        for begin in self._from:
            first[begin + 1] += 1
        for number in range(count):
            first[number + 1] += first[number]
        place, edges = array("L", first), array("L", [0]) * len(self._to)
        for begin, end in zip(self._from, self._to, strict=True):
            edges[place[begin]] = end
            place[begin] += 1
        return first, edges
