"""`blackstart crash mutants`: the table of safeguards taken away, and what killed each."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reference.cli.explored import spread
from reference.cli.output import FAILED, GOOD, show_json
from reference.cli.search import stream
from reference.core.errors import InputError
from reference.world.mutants.judge import Baseline, Mutant, Verdict, judge
from reference.world.mutants.table import CONTROLS, EXPLAINED, MUTANTS
from reference.world.search.mutants import MUTANTS as SEARCHED
from reference.world.search.mutants import Mutant as SearchMutant
from reference.world.search.seeds import Search

MOST_SEEDS = 5000
"""Seeds in which a mutant of the search is looked for."""


@dataclass
class Mutated:
    """What came of all of them."""

    planted: list[Verdict] = field(default_factory=list)
    controls: list[Verdict] = field(default_factory=list)
    explained: list[Verdict] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def survivors(self) -> list[str]:
        """Mutants that nothing killed."""
        return [v.name for v in self.planted if not v.killed]

    def exit_code(self) -> int:
        """1 when a mutant lives, or what changes nothing was killed."""
        return FAILED if self.survivors or any(v.killed for v in (*self.controls, *self.explained)) else GOOD

    def to_json(self) -> dict[str, object]:
        """For machines."""
        return {
            "planted": len(self.planted),
            "killed": sum(v.killed for v in self.planted),
            "survivors": self.survivors,
            "controls": len(self.controls),
            "controls_survived": sum(not v.killed for v in self.controls),
            "explained": {v.name: _why(v.name) for v in self.explained if not v.killed},
            "table": [_row(v) for v in (*self.planted, *self.controls, *self.explained)],
            "seconds": round(self.wall_s, 1),
        }


def _why(name: str) -> str:
    return {mutant.name: why for mutant, why in EXPLAINED}[name]


def _row(verdict: Verdict) -> dict[str, object]:
    return {
        "name": verdict.name,
        "part": verdict.part,
        "safeguard": verdict.safeguard,
        "invariants": list(verdict.by),
        "story": verdict.story,
        "depth": verdict.depth,
        "states": verdict.states,
        "how": verdict.how,
    }


def _judge(name: str) -> Verdict:
    """One of them, in a process of its own."""
    order = _all()[name]
    return judge(order, Baseline()) if isinstance(order, Mutant) else _searched(order)


def _searched(mutant: SearchMutant) -> Verdict:
    """Look for one that shows only where messages come out of order: seed after seed, until an invariant breaks."""
    search = Search(stream, mutant.sides)
    verdict = Verdict(mutant.name, "delivery", mutant.about, how="search")
    for seed in range(MOST_SEEDS):
        result = search.seed(seed)
        if result.violations and not Search(stream).seed(seed).violations:
            by = tuple(sorted({v.invariant for v in result.violations}))
            return replace(verdict, by=by, story=f"seed {seed}", states=seed + 1)
    return replace(verdict, states=MOST_SEEDS)


def _all() -> dict[str, Mutant | SearchMutant]:
    explained = (mutant for mutant, _ in EXPLAINED)
    every: tuple[Mutant | SearchMutant, ...] = (*MUTANTS, *SEARCHED, *CONTROLS, *explained)
    return {m.name: m for m in every}


def run(only: list[str], processes: int, as_json: bool) -> int:
    """Judge, show; answers the exit code. Raises InputError."""
    names = list(_all())
    for name in only:
        if name not in names:
            raise InputError(
                f"there is no mutant {name!r}", where="--only", todo=f"Known: {', '.join(names)}."
            )
    picked = [n for n in names if not only or n in only]
    result, begin = Mutated(), time.monotonic()
    controls, explained = {m.name for m in CONTROLS}, {m.name for m, _ in EXPLAINED}
    with spread(processes, "starting") as work:
        for done, verdict in enumerate(work.each(_judge, picked), 1):
            kind = (
                result.controls
                if verdict.name in controls
                else result.explained
                if verdict.name in explained
                else result.planted
            )
            kind.append(verdict)
            work.say(f"{done}/{len(picked)}", verdict.name)
    for kind in (result.planted, result.controls, result.explained):
        kind.sort(key=lambda v: names.index(v.name))
    result.wall_s = time.monotonic() - begin
    if as_json:
        show_json(result.to_json())
    else:
        _show(result)
    return result.exit_code()


def _show(result: Mutated) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=140)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("MUTANT", "OF", "KILLED BY", "IN"):
        table.add_column(title, no_wrap=True)
    for title in ("DEPTH", "STATES"):
        table.add_column(title, justify="right")
    rows: Sequence[tuple[str, list[Verdict]]] = (
        ("[red]survives[/]", result.planted),
        ("[green]lives, as it has to[/]", result.controls),
        ("[green]lives, explained[/]", result.explained),
    )
    for alive, verdicts in rows:
        for v in verdicts:
            depth = "-" if not v.killed else v.how if v.how != "enumerate" else _depth(v)
            seen = f"{v.states:,}" + (" seeds" if v.how == "search" else "")
            table.add_row(v.name, v.part, ", ".join(v.by) or alive, v.story or "-", depth, seen)
    console.print(table)
    for verdict in result.explained:
        console.print(f"{verdict.name}: {verdict.safeguard} {_why(verdict.name)}", highlight=False)
    killed = sum(v.killed for v in result.planted)
    lived = sum(not v.killed for v in result.controls)
    console.print(
        f"\n{killed} of {len(result.planted)} mutants killed, {lived} of {len(result.controls)} controls live; "
        f"{result.wall_s:.0f} s",
        highlight=False,
    )


def _depth(verdict: Verdict) -> str:
    return "any" if verdict.depth is None else str(verdict.depth)
