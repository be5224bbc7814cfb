"""`make bench`, second half: the explorer, the search and the real power cuts, each beside a floor of the same run.

states      distinct merged states a second in one process, all invariants judged; floor: a walk that only remembers them
seeds       seeds of the search a second in one process; floor: a bare queue that lets as many events pass
cuts        real cuts an hour; floor: the same disk mounted, cut and mounted again with nothing on it
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from reference.cli.search import stream
from reference.core.errors import BlackstartError
from reference.power.disk import Disk, require
from reference.power.run import run_cuts
from reference.world.explore import Explorer
from reference.world.machine import State
from reference.world.search.seeds import Search
from reference.world.stories import story
from tools.machine import machine

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
STORIES = ("success", "crash", "bad_migration", "newer")
CUTS = 60
SEEDS = 1000
Row = dict[str, object]


def main() -> None:
    """Measure everything and print one table, or JSON with `--json`."""
    rows = [states(), seeds(), *cuts()]
    if "--json" in sys.argv:
        print(json.dumps({"machine": machine(), "rounds": ROUNDS, "rows": rows}, indent=1))
        return
    table = Table(box=None, pad_edge=False, title=machine(), title_justify="left")
    for title in ("WHAT", "MEDIAN", "LOWEST", "UNIT", "FLOOR", "RATIO"):
        table.add_column(title, justify="left" if title in ("WHAT", "UNIT") else "right")
    for row in rows:
        table.add_row(
            *(str(row.get(key, "-")) for key in ("what", "median", "lowest", "unit", "floor", "ratio"))
        )
    Console(width=110).print(table)


def _row(what: str, unit: str, rates: list[float], floors: list[float]) -> Row:
    median, floor = statistics.median(rates), statistics.median(floors)
    return {
        "what": what, "unit": unit, "median": round(median), "lowest": round(min(rates)),
        "floor": round(floor), "ratio": round(floor / median, 1),
    }  # fmt: skip


def _rate(work: Callable[[], int]) -> float:
    begin = time.perf_counter()
    return work() / (time.perf_counter() - begin)


def states() -> Row:
    """Four stories, two cuts deep."""
    seen: list[int] = []

    def explore() -> int:
        found = 0
        for name in STORIES:
            told = story(name)
            found += Explorer(told, told.machine()).run().states
        seen.append(found)
        return found

    def floor() -> int:
        known, coming = set(), {}
        for number in range(seen[-1]):
            state = State(number % 5003, number // 7, number % 701, number & 1, number % 13, number % 29)
            if state not in known:
                known.add(state)
                coming[state] = number
        return seen[-1]

    rates = [_rate(explore) for _ in range(ROUNDS)]
    return _row(
        "explorer, two cuts deep, four stories", "states/s", rates, [_rate(floor) for _ in range(ROUNDS)]
    )


def seeds() -> Row:
    """Seeds of the search, in one process; the floor is a bare queue that lets as many events pass."""
    search, happened = Search(stream), 0

    def count(*_: object) -> None:
        nonlocal happened
        happened += 1

    for seed in range(SEEDS // 4):  # What a process works out at first is not what it costs afterwards.
        search.play(search.faults(seed), count)
    events = 4 * happened

    def play() -> int:
        for seed in range(SEEDS):
            search.seed(seed)
        return SEEDS

    def floor() -> int:
        queue: list[tuple[int, int]] = []
        for number in range(events):
            heapq.heappush(queue, (number * 7919 % 10007, number))
            if len(queue) > 20:
                heapq.heappop(queue)
        return SEEDS

    rates = [_rate(play) for _ in range(ROUNDS)]
    return _row(
        "search, one service and five devices", "seeds/s", rates, [_rate(floor) for _ in range(ROUNDS)]
    )


def cuts() -> list[Row]:
    """Real cuts, and the same without a device. Nothing where there is no root or loop device: it says so."""
    try:
        require()
        report = asyncio.run(run_cuts(CUTS, 1))
    except BlackstartError as error:
        print(f"bench: no real cuts here: {error}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="blackstart-bench-") as folder:
        disk = Disk(Path(folder) / "disk.img", Path(folder) / "at")
        disk.format()

        def cycle() -> int:
            for _ in range(CUTS // 4):
                disk.mount()
                disk.cut()
                disk.release()
            return CUTS // 4

        floors = [3600 * _rate(cycle) for _ in range(ROUNDS)]
    return [_row("real power cuts, process runtime", "cuts/h", [3600 * report.cuts / report.seconds], floors)]


if __name__ == "__main__":
    main()
