"""`blackstart crash enumerate` and `crash mutants`: stories over all cores, progress, tables, files that replay."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reference.cli.output import FAILED, GOOD, show_json
from reference.core.errors import InputError
from reference.world.atoms import MERGED, Atom
from reference.world.cycles import Edges
from reference.world.explore import Explored, Explorer, Found
from reference.world.nouns import CLOSING, LIMITS
from reference.world.replay import Replay
from reference.world.stories import STORIES, story
from reference.world.story import Story

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from rich.status import Status

DEPTH = 2
"""Cuts in a row, without --unbounded."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Enumerated:
    """What came of all stories."""

    unbounded: bool
    stories: list[Explored] = field(default_factory=list)
    whole: bool = True
    """All stories: then every kind of atom has to have been cut."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By story: what it took one process."""
    wall_s: float = 0.0

    @property
    def found(self) -> list[Found]:
        """All violations."""
        return [found for one in self.stories for found in one.found]

    @property
    def per_s(self) -> int:
        """Distinct merged states a second, in one process."""
        return round(sum(s.states for s in self.stories) / max(sum(self.seconds.values()), 1e-9))

    def to_json(self) -> dict[str, object]:
        """For machines."""
        atoms = set().union(*(s.atoms for s in self.stories)) if self.stories else set()
        cut = set().union(*(s.atoms_cut for s in self.stories)) if self.stories else set()
        return {
            "stories": len(self.stories),
            "states": sum(s.states for s in self.stories),
            "cuts": sum(s.cuts for s in self.stories),
            "max_depth": max((s.depth for s in self.stories), default=0),
            "closed": sorted(s.story for s in self.stories if s.closed),
            "violations": [_found(f, unbounded=self.unbounded) for f in self.found],
            "states_per_s": self.per_s,
            "coverage": {"atoms": len(atoms), "atoms_cut": len(cut), "never": sorted(set(Atom) - atoms)},
            "seconds": round(self.wall_s, 1),
        }

    def exit_code(self) -> int:
        """1 when something did not hold, an atom was not cut, or (unbounded) a story was not closed."""
        open_ = self.unbounded and any(not s.closed for s in self.stories)
        atoms = set().union(*(s.atoms for s in self.stories))
        uncut = atoms - set().union(*(s.atoms_cut for s in self.stories))
        return FAILED if self.found or open_ or (self.whole and uncut) else GOOD


def _found(found: Found, *, unbounded: bool) -> dict[str, object]:
    return {
        "story": found.story,
        "unbounded": unbounded,
        "violations": [{"invariant": v.invariant, "detail": v.detail} for v in found.violations],
        "cuts": [list(branch) for branch in found.branches],
        "atoms": found.atoms,
    }


def chosen(only: Sequence[str]) -> list[Story]:
    """The stories of these names, all without one; the longest first. Raises InputError."""
    known = [s.name for s in STORIES]
    for name in only:
        if name not in known:
            todo = f"Known: {', '.join(known)}."
            raise InputError(f"there is no story {name!r}", where="--only", todo=todo)
    picked = [s for s in STORIES if not only or s.name in only]
    return sorted(picked, key=lambda s: (-len(s.events) - len(s.later), s.name))


def explore_one(order: tuple[str, bool, int]) -> tuple[Explored, float]:
    """One story, in a process of its own: its name, whether cuts are unbounded, and the depth."""
    name, unbounded, depth = order
    begin = time.monotonic()
    told, edges = story(name), Edges() if unbounded else None
    machine = told.machine(CLOSING if unbounded else LIMITS, unbounded=unbounded)
    explorer = Explorer(told, machine, cuts=None if unbounded else depth, faults=not unbounded, edges=edges)
    explored = explorer.run()
    if edges is not None and edges.endless():
        explored.found.append(Found(name, (edges.violation,), (), 0))
    return explored, time.monotonic() - begin


def run(only: list[str], unbounded: bool, processes: int, save: Path | None, as_json: bool) -> int:
    """Explore, show; answers the exit code. Raises InputError."""
    stories = chosen(only)
    begin, result = time.monotonic(), Enumerated(unbounded, whole=not only)
    with spread(processes, "starting") as work:
        orders = [(s.name, unbounded, DEPTH) for s in stories]
        for explored, seconds in work.each(explore_one, orders):
            result.stories.append(explored)
            result.seconds[explored.story] = seconds
            work.say(
                f"{len(result.stories)}/{len(stories)} stories",
                f"{explored.story}: {explored.states:,} states",
            )
    result.wall_s = time.monotonic() - begin
    if save is not None and result.found:
        text = json.dumps(_found(result.found[0], unbounded=unbounded), indent=1)
        save.write_text(text + "\n", encoding="utf-8")
    if as_json:
        show_json(result.to_json())
    else:
        _show(result, save)
    return result.exit_code()


class Spread:
    """Work over processes, and a line of progress on standard error. An interrupt ends the workers with it."""

    def __init__(self, pool: Pool, line: Status) -> None:
        self._pool, self._line = pool, line

    def each(self, work: Callable[[T], R], orders: Sequence[T]) -> Iterator[R]:
        """What became of each, as they are done."""
        return self._pool.imap_unordered(work, orders)

    def say(self, about: str, news: str) -> None:
        """Progress: a line for each that is done, also where standard error is no terminal."""
        self._line.update(f"[bold]{about}[/bold]")
        self._line.console.print(f"  {about}  {news}", highlight=False)


@contextmanager
def spread(processes: int, what: str) -> Iterator[Spread]:
    """Over so many processes, 0: one a core. Raises InputError for a number that is none."""
    from rich.console import Console

    if processes < 0:
        raise InputError("must be 0 (one a core) or more", where="--processes", todo="Leave it away.")
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(processes or os.cpu_count() or 1, initializer=_worker) as pool,
        Console(stderr=True).status(what) as line,
    ):
        yield Spread(pool, line)


def _worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends them, without a traceback from each.


def _show(result: Enumerated, save: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("STORY", no_wrap=True)
    for title in ("STATES", "CUTS", "DEPTH", "SECONDS"):
        table.add_column(title, justify="right")
    table.add_column("VERDICT")
    for one in sorted(result.stories, key=lambda s: s.story):
        verdict = "[red]violated[/]" if one.found else "[green]closed[/]" if one.closed else "[green]holds[/]"
        depth, seconds = str(one.depth), f"{result.seconds[one.story]:.1f}"
        table.add_row(one.story, f"{one.states:,}", f"{one.cuts:,}", depth, seconds, verdict)
    console.print(table)
    for found in result.found:
        for violation in found.violations:
            console.print(
                f"[red]{found.story}[/]: {violation.invariant}: {violation.detail}", highlight=False
            )
        way = " -> ".join(f"after {atoms} atoms: {what}" for atoms, what in found.branches)
        console.print(f"  {way or 'without a cut'} -> after {found.atoms} atoms", highlight=False)
    if result.found and save is not None:
        console.print(f"  play the first again: blackstart crash enumerate --replay {save}", highlight=False)
    told = result.to_json()
    covered: Any = told["coverage"]
    console.print(
        f"\n{told['states']:,} states, {told['cuts']:,} cuts, {len(result.found)} violations; "
        f"{covered['atoms_cut']} of {covered['atoms']} kinds of atom cut; "
        f"{result.per_s:,} states a second in one process; {result.wall_s:.0f} s",
        highlight=False,
    )
    console.print("Merged: " + "; ".join(MERGED) + ".", style="dim", highlight=False)


def replay(path: Path, as_json: bool) -> int:
    """Play a file of --save again, in words; answers 1 when it is still violated. Raises InputError."""
    try:
        order = json.loads(path.read_text(encoding="utf-8"))
        told = story(order["story"])
        branches = [(int(atoms), str(what)) for atoms, what in order["cuts"]]
        unbounded = bool(order.get("unbounded", False))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        todo = "Give a file that `blackstart crash enumerate --save` wrote."
        raise InputError("is no list of cuts to replay", where=str(path), todo=todo) from error
    player = Replay(told, told.machine(CLOSING if unbounded else LIMITS, unbounded=unbounded), branches)
    found = player.run()
    if as_json:
        violations = [{"invariant": v.invariant, "detail": v.detail} for v in found]
        show_json({"story": told.name, "lines": player.lines, "violations": violations})
        return FAILED if found else GOOD
    for number, text in enumerate(player.lines, 1):
        print(f"{number:4}  {text}")
    for violation in found:
        print(f"violated: {violation.invariant}: {violation.detail}")
    if not found:
        print("nothing is violated on this way")
    return FAILED if found else GOOD
