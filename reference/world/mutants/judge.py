"""It can fail: each mutant takes one safeguard away, and is to be killed by an invariant. Controls change nothing.

A patch table beside the production path: a mutant is a set of functions that the machine drives in production's place.
Nothing in the core knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from reference.core.errors import BlackstartError
from reference.core.limits import Limits
from reference.world.cycles import Edges
from reference.world.explore import Explored, Explorer
from reference.world.machine import Rules
from reference.world.nouns import LIMITS
from reference.world.stories import story

MOST_STATES = 400_000
"""States of one story and depth in which a mutant is looked for."""


@dataclass(frozen=True)
class Mutant:
    """One safeguard less. `stories` in which it is looked for, in this order, at each depth from 0 on."""

    name: str
    safeguard: str
    """What it takes away."""
    rules: Rules
    stories: tuple[str, ...] = ("success",)
    part: str = "updater"
    """Whose safeguard: updater, journal, outbox, delivery or dedupe."""
    limits: Limits = LIMITS
    cuts: int | None = 2
    """How deep it is looked for at most; None: with any number of cuts, for cycles."""
    faults: int = 1


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant. `by` is empty when nothing was broken."""

    name: str
    part: str
    safeguard: str
    by: tuple[str, ...] = ()
    story: str = ""
    depth: int | None = None
    """Cuts on the way to it; None: any number of them (a cycle), or the search's."""
    states: int = 0
    how: str = "enumerate"

    @property
    def killed(self) -> bool:
        """Whether an invariant was broken."""
        return bool(self.by)


@dataclass
class Baseline:
    """Production in the same stories: what kills it there kills no mutant."""

    clean: dict[tuple[str, int | None, int, Limits], bool] = field(default_factory=dict)

    def holds(self, name: str, cuts: int | None, faults: int, limits: Limits) -> bool:
        """Whether production's rules break nothing there. Worked out once."""
        key = (name, cuts, faults, limits)
        if key not in self.clean:
            self.clean[key] = not _explore(name, Rules(), cuts, faults, limits)[0]
        return self.clean[key]


def judge(mutant: Mutant, baseline: Baseline) -> Verdict:
    """Look for a mutant, the shallow depths first."""
    verdict = Verdict(mutant.name, mutant.part, mutant.safeguard)
    states = 0
    for cuts in _depths(mutant.cuts):
        for name in mutant.stories:
            by, explored = _explore(name, mutant.rules, cuts, mutant.faults, mutant.limits)
            states += explored.states
            if by and baseline.holds(name, cuts, mutant.faults, mutant.limits):
                return replace(verdict, by=by, story=name, depth=cuts, states=states)
    return replace(verdict, states=states)


def _depths(most: int | None) -> Iterator[int | None]:
    yield from range(3 if most is None else most + 1)
    if most is None:
        yield None


def _explore(
    name: str, rules: Rules, cuts: int | None, faults: int, limits: Limits
) -> tuple[tuple[str, ...], Explored]:
    told = story(name)
    # The bounds of the enumeration hold for the limits that a trial has to live through.
    machine = told.machine(limits, rules, unbounded=cuts is None)
    edges = Edges() if cuts is None else None
    explorer = Explorer(
        told, machine, cuts=cuts, faults=faults, most_states=MOST_STATES, most_found=1, edges=edges
    )
    try:
        explored = explorer.run()
    except (BlackstartError, LookupError, TypeError, ValueError, AttributeError, AssertionError):
        return (), explorer.explored  # An exception is no verdict: it shows a broken mutant, not a safeguard.
    by = tuple(sorted({v.invariant for found in explored.found for v in found.violations}))
    if edges is not None and not by and edges.endless():
        by = (edges.violation.invariant,)
    return by, explored
