"""The explorer: a story cut at every atom, with everything that each cut may leave, again and again.

States are merged: one that was reached with fewer cuts, or as many, is not walked again. Each carries the way to it,
so that what is found can be played again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from reference.core import invariants
from reference.core.errors import Reason
from reference.core.invariants import Violation
from reference.core.model import Outcome
from reference.core.steps import Wait
from reference.world import talk
from reference.world.atoms import Atom
from reference.world.cycles import Edges
from reference.world.engine import Boot
from reference.world.machine import Machine, State, Watch
from reference.world.story import Ends, Story

MOST_STEPS = 500
"""Steps that a story may take without another cut."""
MOST_FOUND = 5
"""Violations of one story that are told; it is not walked on then."""


class Path(NamedTuple):
    """How a walk was come to: from another one, after so many of its atoms, by this branch.

    The atoms of the branch itself (an event's, a message's) are the first `length` ones of the walk.
    """

    before: Path | None
    atoms: int
    branch: str
    length: int = 0

    def branches(self) -> list[tuple[int, str]]:
        """From the beginning on: after how many atoms of the walk before, and what happened then."""
        found = []
        path: Path | None = self
        while path is not None and path.before is not None:
            found.append((path.atoms, path.branch))
            path = path.before
        return found[::-1]


KILLED = "the agent is killed"
"""The branch on which nothing else ends: no boot, and nothing is lost."""
BEGINNING = Path(None, 0, "")


@dataclass(frozen=True, slots=True)
class Found:
    """Something that does not hold, with the cuts and events that lead to it."""

    story: str
    violations: tuple[Violation, ...]
    branches: tuple[tuple[int, str], ...]
    atoms: int
    """After so many atoms of the last walk."""


@dataclass
class Explored:
    """What came of a story."""

    story: str
    states: int = 0
    cuts: int = 0
    depth: int = 0
    closed: bool = False
    """No new state was left at the last depth."""
    found: list[Found] = field(default_factory=list)
    atoms: set[Atom] = field(default_factory=set)
    atoms_cut: set[Atom] = field(default_factory=set)
    killers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By invariant: at which depth, and after how many states, it was first broken."""


class _ViolatedError(Exception):
    def __init__(self, found: tuple[Violation, ...], path: Path, atoms: int) -> None:
        super().__init__(found)
        self.found, self.path, self.atoms = found, path, atoms


class Explorer:
    """Walks a story with at most `cuts` cuts and `faults` message faults; `cuts` None: with any number.

    `most_states` bounds it: what is left then is not `closed`. `edges`, when given, is told of every step and cut of a
    trial, for `reference.world.cycles`; `ends` of every state in which nothing more happens.
    """

    def __init__(
        self,
        story: Story,
        machine: Machine,
        *,
        cuts: int | None = 2,
        faults: int = 1,
        most_states: int | None = None,
        most_found: int = MOST_FOUND,
        edges: Edges | None = None,
        ends: Callable[[State], None] = lambda _: None,
        progress: Callable[[Explored], None] = lambda _: None,
    ) -> None:
        self._story, self._machine, self._orders = story, machine, story.commands
        self._most_cuts, self._most_faults, self._most_states = cuts, faults, most_states
        self._most_found, self._edges = most_found, edges
        self._ends, self._progress = ends, progress
        self.explored = Explored(story.name)
        # By faults used: states at which the updater looked, and all states, those between two atoms included.
        self._walked: list[set[State]] = [set() for _ in range(faults + 1)]
        self._judged: list[set[State]] = [set() for _ in range(faults + 1)]
        self._next: list[dict[State, Path]] = [{} for _ in range(faults + 1)]
        self._todo: list[dict[State, Path]] = [{} for _ in range(faults + 1)]
        self._fired: dict[tuple[int, int], int] = {}

    def run(self) -> Explored:
        """Go on until no new state is left, or the bounds are met."""
        self._todo[0][self._story.begin(self._machine)] = BEGINNING
        while any(self._todo) and len(self.explored.found) < self._most_found:
            self._level()
            self._count()
            self._progress(self.explored)
            if self._most_states is not None and self.explored.states > self._most_states:
                break
            self.explored.depth += any(map(bool, self._next))
            self._todo, self._next = self._next, [{} for _ in self._next]
        left = any((*self._todo, *self._next))
        self.explored.closed = self._most_cuts is None and not self.explored.found and not left
        self.explored.states = len(set().union(*self._judged, *self._walked))
        return self.explored

    def _count(self) -> None:
        self.explored.states = sum(map(len, self._judged))

    def _level(self) -> None:
        for faults, todo in enumerate(self._todo):
            while todo:
                state, path = todo.popitem()
                try:
                    self._walk(state, path, faults)
                except _ViolatedError as violated:
                    self._count()
                    self._tell(violated)
                    if len(self.explored.found) >= self._most_found:
                        return

    def _tell(self, violated: _ViolatedError) -> None:
        branches = tuple(violated.path.branches())
        self.explored.found.append(Found(self._story.name, violated.found, branches, violated.atoms))
        for violation in violated.found:
            first = (self.explored.depth, self.explored.states)
            self.explored.killers.setdefault(violation.invariant, first)

    def _known(self, state: State, faults: int) -> bool:
        return state in self._walked[0] or (
            faults > 0 and any(state in w for w in self._walked[1 : faults + 1])
        )

    def _walk(self, state: State, path: Path, faults: int) -> None:
        chain: set[State] = set()
        atoms = path.length
        self._reach(state, path, atoms, faults, self._boot(state, path))
        while True:
            if state in chain or atoms > MOST_STEPS:
                self._cycle(state, path, atoms)
                return
            if self._known(state, faults):
                return
            chain.add(state)
            self._walked[faults].add(state)
            self._branch(state, path, atoms, faults)
            way, found = turn(self._story, self._machine, state, self._orders)
            if found:
                raise _ViolatedError(found, path, atoms)
            if way is None:
                self._ends(state)
                return
            if self._edges is not None:
                self._edges.step(self._machine, state, way)
            for atom, after in way:
                atoms += 1
                self._reach(after, path, atoms, faults, atom)
            state = way[-1][1]

    def _boot(self, state: State, path: Path) -> Atom | None:
        """What a walk begins with: a boot in which something was revived, or nothing."""
        machine = self._machine
        if machine.processes[state.process].opened or path.branch == KILLED:
            return None
        return Atom.BOOT_REVIVE if any(c.running for c in machine.engines[state.engine].containers) else None

    def _cycle(self, state: State, path: Path, atoms: int) -> None:
        found = endless(self._story, self._machine, state)
        if found:
            raise _ViolatedError(found, path, atoms)

    def _branch(self, state: State, path: Path, atoms: int, faults: int) -> None:
        """Every event and every message fault that may come now."""
        machine = self._machine
        if not machine.processes[state.process].opened:
            return
        for number, event in enumerate(self._story.events):
            if machine.watches[state.watch].fired & (1 << number):
                continue
            for label, (way, found) in event(machine, state):
                noted = [(atom, self._noted(after, number)) for atom, after in way]
                self._leap(noted, found, Path(path, atoms, label, len(way)), faults)
        if faults < self._most_faults:
            for label, (way, found) in talk.faults(machine, state, self._orders):
                self._leap(way, found, Path(path, atoms, label, len(way)), faults + 1)

    def _noted(self, state: State, event: int) -> State:
        """The state in which this event is remembered to have happened."""
        key = (state.watch, event)
        watch = self._fired.get(key)
        if watch is None:
            watches = self._machine.watches
            known: Watch = watches[state.watch]
            watch = self._fired[key] = watches.number(known._replace(fired=known.fired | 1 << event))
        return State(state.journal, state.engine, state.process, state.boot, state.service, watch)

    def _leap(
        self, way: list[tuple[Atom, State]], found: tuple[Violation, ...], path: Path, faults: int
    ) -> None:
        if found:
            raise _ViolatedError(found, path, 0)
        for number, (atom, after) in enumerate(way, 1):
            self._reach(after, path, number, faults, atom)
        if way and not self._known(way[-1][1], faults):
            self._todo[faults].setdefault(way[-1][1], path)

    def _reach(self, state: State, path: Path, atoms: int, faults: int, atom: Atom | None) -> None:
        """A state after an atom: what has to hold in any, and everything that a cut here leaves, for the next depth."""
        if atom is not None:
            self.explored.atoms.add(atom)
        bounded = self._most_cuts is not None and self.explored.depth >= self._most_cuts
        if atom is not None and not bounded:
            self.explored.atoms_cut.add(atom)
        if state in self._judged[0] or (faults > 0 and state in self._judged[faults]):
            return
        self._judged[faults].add(state)
        machine = self._machine
        found = machine.holds(state, everything=not self._story.strangers)
        if found:
            raise _ViolatedError(found, path, atoms)
        if bounded:
            return
        coming = self._next[faults]
        left = machine.cut(state)
        left.append((KILLED, machine.killed(state)))
        self.explored.cuts += len(left)
        if self._edges is not None:
            self._edges.cut(machine, state, left)
        for label, after in left:
            if after not in coming and not self._known(after, faults):
                coming[after] = Path(path, atoms, label)


def turn(
    story: Story, machine: Machine, state: State, orders: talk.Orders
) -> tuple[list[tuple[Atom, State]] | None, tuple[Violation, ...]]:
    """The next atoms of a state, None when nothing more happens; and what does not hold now."""
    if not machine.processes[state.process].opened:
        if machine.outdated(state):
            state = machine.lost(state)
        return machine.open(state)
    state, decision = machine.look(state)
    found = machine.violations(state, decision)
    if found:
        return None, found
    if isinstance(decision.step, Wait):
        said = talk.exchange(machine, state, orders)
        if said is not None:
            return said
    if decision.resting:
        return None, judged(story, machine, state)
    return machine.go(state, decision)


def endless(story: Story, machine: Machine, state: State) -> tuple[Violation, ...]:
    """What is wrong with a walk without an end: nothing in the duty of a device on which nothing can be healthy."""
    record = machine.memory_of(state).record
    if machine.processes[state.process].hold:
        return ()  # Nobody ends the hold here; where somebody does, is another walk.
    trusted = [i.image.version for i in (record.current, record.previous) if i is not None]
    bad = [v for v in trusted if v in story.versions and story.versions[v].crashes]
    # With any number of cuts a job may end before its trial, or its good version be given up for too many boots.
    hopeless = (story.hopeless and record.duty) or (machine.unbounded and bad == trusted)
    if not hopeless:
        return (Violation("converges", "a cycle, or no end in sight"),)
    return judged_end(story, machine, state)


def judged(story: Story, machine: Machine, state: State) -> tuple[Violation, ...]:
    """What does not hold at rest."""
    world = machine.world(state)
    record = machine.memory_of(state).record
    found = () if story.hopeless else tuple(invariants.converged(record, world))
    return found + judged_end(story, machine, state)


def judged_end(story: Story, machine: Machine, state: State) -> tuple[Violation, ...]:
    """Whether a story may end so."""
    service, memory = machine.services[state.service], machine.memory_of(state)
    ends: Ends = {j.id: (j.outcome or j.status, j.reason) for j in service.jobs}
    runs = tuple(c.image.version for c in machine.engines[state.engine].containers if c.running)
    found: list[Violation] = []
    if any(not j.status.terminal for j in service.jobs):
        found.append(Violation("expected_outcome", f"not ended: {ends}"))
    elif not story.allows(ends, () if story.hopeless else runs, excused(story, machine, state)):
        found.append(Violation("expected_outcome", f"{ends} and {runs} run"))
    for report in memory.finished:
        job = service.job(report.job_id)
        told = job is not None and job.generation == report.generation and job.epoch == memory.record.epoch
        lost = (
            job is not None and job.reason is Reason.JOURNAL_CORRUPT
        )  # The service's word: nobody else could end it.
        if job is not None and told and job.late_outcome is None and not lost:
            found += invariants.agrees(job, report.outcome, report.reason)
    return tuple(found)


def excused(story: Story, machine: Machine, state: State) -> set[str]:
    """Jobs whose end more cuts than a trial, or a pull, has to live through explain."""
    worn = machine.watches[state.watch].worn
    found = set()
    for job in machine.services[state.service].jobs:
        tried = job.outcome in (Outcome.ROLLED_BACK, Outcome.ROLLBACK_FAILED)
        rolled_back = tried and job.reason is Reason.TOO_MANY_BOOTS
        given_up = story.first and (job.outcome, job.reason) == (Outcome.FAILED, Reason.TOO_MANY_BOOTS)
        not_pulled = (job.outcome, job.reason) == (Outcome.FAILED, Reason.ENGINE_ERROR)
        if job.generation in worn and (rolled_back or given_up):
            found.add(job.id)
        if machine.unbounded and not_pulled and Boot.FLAKY in story.boots:
            found.add(job.id)
        if machine.unbounded and machine.memory_of(state).record.reason is Reason.PROBATION_FAILED:
            found.add(job.id)
    return found
