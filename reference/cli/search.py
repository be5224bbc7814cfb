"""`blackstart crash search`: seeds on all cores, the counts, what fails made small and written down; and a replay."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reference.cli.output import FAILED, GOOD, show_json
from reference.core.errors import InputError
from reference.world.search.faults import FAULTS, Chance, Kind
from reference.world.search.seeds import Case, Search, case_from_json

if TYPE_CHECKING:
    from rich.console import Console

SHRUNK = 5
"""Failing seeds that are made small and written down; the others are named."""
_MOST_SEEDS = 2**40
_CHUNK = 100


def stream(seed: int) -> Chance:
    """The numbers that a seed stands for: the same in every process, on every machine."""
    return random.Random(seed).random  # noqa: S311 - to be repeated, not to be secret


@cache
def _search() -> Search:
    """One for each process: what a seed has worked out is known for the next."""
    return Search(stream)


@dataclass(frozen=True, slots=True)
class Part:
    """What came of some seeds in a row. `digests`: of each seed, in their order."""

    seeds: int
    digests: bytes
    fired: Counter[Kind]
    ends: Counter[str]
    failed: tuple[int, ...]


@dataclass
class Totals:
    """What came of all seeds."""

    first: int
    seeds: int = 0
    seconds: float = 0.0
    processes: int = 1
    fired: Counter[Kind] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)
    cases: list[tuple[Case, Path]] = field(default_factory=list)
    trace_hash: str = ""

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        small = {case.seed: (case, path) for case, path in self.cases}
        return {
            "seeds": self.seeds,
            "seed_base": self.first,
            "processes": self.processes,
            "seconds": round(self.seconds, 2),
            "seeds_per_s": round(self.seeds / self.seconds, 1) if self.seconds else 0.0,
            "violations": [_violated(seed, small.get(seed)) for seed in self.failed],
            "fired": {kind.value: self.fired[kind] for kind in FAULTS},
            "ends": dict(sorted(self.ends.items())),
            "trace_hash": self.trace_hash,
        }


def _violated(seed: int, small: tuple[Case, Path] | None) -> dict[str, object]:
    if small is None:
        return {"seed": seed}
    case, path = small
    told = case.to_json()
    return {"seed": seed, "violations": told["violations"], "faults": told["faults"], "file": str(path)}


def play(seeds: range) -> Part:
    """Play these seeds in this process."""
    fired: Counter[Kind] = Counter()
    ends: Counter[str] = Counter()
    digests, failed = [], []
    for seed in seeds:
        found = _search().seed(seed)
        fired.update(found.fired)
        ends.update(found.ends)
        digests.append(found.digest)
        if found.violations:
            failed.append(seed)
    return Part(len(seeds), b"".join(digests), fired, ends, tuple(failed))


def _alone() -> None:
    """A process of the pool: the one that began it is told of Ctrl-C, and ends this one.

    What is remembered is never garbage, and looking through it again and again takes half of the time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()


def search(seeds: int, first: int, processes: int, say: Callable[[Totals], None] = lambda _: None) -> Totals:
    """Play so many seeds, from the first on. What comes of it does not depend on the number of processes."""
    totals, hashed = Totals(first, processes=processes), hashlib.blake2b(digest_size=16)
    began = time.perf_counter()
    for part in _parts(seeds, first, processes):
        hashed.update(part.digests)
        totals.seeds += part.seeds
        totals.fired.update(part.fired)
        totals.ends.update(part.ends)
        totals.failed += part.failed
        totals.seconds = time.perf_counter() - began
        say(totals)
    totals.trace_hash = hashed.hexdigest()
    return totals


def _parts(seeds: int, first: int, processes: int) -> Iterator[Part]:
    size = max(1, min(_CHUNK, seeds // (4 * processes)))
    chunks = (range(n, min(n + size, first + seeds)) for n in range(first, first + seeds, size))
    if processes == 1:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield from map(play, chunks)
        finally:
            if collects:
                gc.enable()
        return
    with multiprocessing.Pool(processes, _alone) as pool:
        yield from pool.imap(play, chunks)


def run(seeds: int, first: int, processes: int | None, save: Path, as_json: bool) -> int:
    """Search, show; answers the exit code. Raises InputError."""
    from rich.console import Console

    processes = _asked(seeds, first, processes, save)
    progress = Console(stderr=True)
    with progress.status("searching") as line:

        def say(totals: Totals) -> None:
            rate = totals.seeds / totals.seconds if totals.seconds else 0.0
            broken = f", [red]{len(totals.failed)} fail[/]" if totals.failed else ""
            line.update(f"[bold]{totals.seeds}/{seeds}[/bold] seeds, {rate:.0f} a second{broken}")

        totals = search(seeds, first, processes, say)
        for number, seed in enumerate(totals.failed[:SHRUNK], 1):
            line.update(f"making seed {seed} small ({number} of {min(len(totals.failed), SHRUNK)})")
            totals.cases.append(_written(_search().shrunk(seed), save))
    if as_json:
        show_json(totals.to_json())
    else:
        _show(Console() if sys.stdout.isatty() else Console(width=120), totals)
    return FAILED if totals.failed else GOOD


def _asked(seeds: int, first: int, processes: int | None, save: Path) -> int:
    """Whether it can be done as asked; answers the number of processes."""
    if not 1 <= seeds <= _MOST_SEEDS:
        raise InputError(f"{seeds} seeds cannot be played", where="--seeds", todo="Name one or more.")
    if not 0 <= first <= _MOST_SEEDS:
        raise InputError(f"there is no seed {first}", where="--seed-base", todo="Seeds begin at 0.")
    if processes is not None and not 1 <= processes <= 1024:
        raise InputError(f"{processes} processes cannot be started", where="--processes")
    if save.exists() and not save.is_dir():
        raise InputError("is no folder", where=str(save), todo="Failing seeds are written into it.")
    return min(processes or len(os.sched_getaffinity(0)), seeds)


def _written(case: Case, save: Path) -> tuple[Case, Path]:
    path = save / f"crash-search-{case.seed}.json"
    try:
        save.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(case.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"seed {case.seed} fails, and cannot be written down: {error.strerror}", where=str(path),
            todo="Name another folder: --save DIR.",
        ) from None  # fmt: skip
    return case, path


def replay(path: Path, as_json: bool) -> int:
    """Play a file again, one line for each thing that happens; answers the exit code. Raises InputError."""
    case = _read(path)
    lines: list[str] = []
    about = {fault.device for fault in case.faults}

    def say(who: int | None, line: str) -> None:
        if who is None or who in about or "VIOLATED" in line:
            lines.append(line)

    found = _search().play(case.faults, say).violations
    if as_json:
        told = Case(case.seed, case.faults, found).to_json()
        show_json({**told, "expected": case.to_json()["violations"], "trace": lines})
        return FAILED if found else GOOD
    print(f"seed {case.seed}, {len(case.faults)} faults and orders:")
    for fault in case.faults:
        print(f"{fault.at:5}  device {fault.device}  {fault.kind.value}")
    print("\nround")
    print("\n".join(lines))
    print()
    for violation in found:
        print(f"{violation.invariant}: {violation.detail}")
    if not found:
        print(f"nothing is wrong any more; it was {', '.join(v.invariant for v in case.violations)}")
    return FAILED if found else GOOD


def _read(path: Path) -> Case:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError:
        raise InputError(
            "is no JSON", where=str(path), todo="Files to replay are written by `blackstart crash search`."
        ) from None
    return case_from_json(value, str(path))


def _show(console: Console, totals: Totals) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("FAULT")
    table.add_column("HAD AN EFFECT", justify="right")
    for kind in FAULTS:
        count = totals.fired[kind]
        table.add_row(kind.value, str(count) if count else "[yellow]0[/]")
    console.print(table)
    ends = ", ".join(f"{count} {end}" for end, count in sorted(totals.ends.items()))
    console.print(f"\njobs: {ends}", highlight=False)
    for case, path in totals.cases:
        first = case.violations[0]
        console.print(
            f"[red]seed {case.seed}[/] breaks {first.invariant} ({first.detail}) with {len(case.faults)} faults: "
            f"blackstart crash search --replay {path}",
            highlight=False,
        )
    if len(totals.failed) > len(totals.cases):
        others = ", ".join(map(str, totals.failed[len(totals.cases) :][:20]))
        console.print(f"[red]and so do more seeds[/]: {others}", highlight=False)
    last = totals.first + totals.seeds - 1
    pace = (
        f"{totals.seconds:.1f} s, {totals.to_json()['seeds_per_s']} a second in {totals.processes} processes"
    )
    colour = "red" if totals.failed else "green"
    console.print(
        f"[{colour}]{len(totals.failed)} of {totals.seeds} seeds fail[/] ({totals.first} to {last}) in {pace}; "
        f"trace {totals.trace_hash}",
        highlight=False,
    )
