"""`make bench-chaos`: what the harness costs, and whether it says the same again.

bench       set-up and tear-down of a bench of one device; floor: the same parts without proxies, line and guard
observers   what watching adds to an update's downtime, seen by an observer in a process of its own; floor: nobody else
folder      the whole scenario folder, two scenarios at once
lag         from what triggered a fault to its being in force, over all faults of the folder
seed        one scenario with chance in it, played 20 times: plan and verdict
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chaos.bench import TERMINAL, Bench
from chaos.history import Recorder
from chaos.lanes import play_all, play_file
from chaos.load import default_folder, load, scenario_files
from chaos.plan import as_table, plan
from chaos.publish import HEALTH
from chaos.result import Report
from chaos.runner import Observers, Options, wants_of
from chaos.scenario import Scenario
from chaos.verdict import Ended
from reference.core.errors import BlackstartError
from reference.demo.run import install
from reference.stack import Stack
from tools.bench_downtime_numbers import downtime_ms, percentile
from tools.bench_downtime_observer import Observer
from tools.machine import machine

BENCHES, FLOORS, UPDATES, AGAIN = 12, 6, 40, 20
DRAWN = "brown-out"
"""The scenario with most chance in it: when, how often and for how long its cuts come is drawn."""
Row = dict[str, object]
GOALS = {
    "bench_ms": 3_000, "observers_ms": 2, "folder_s": 720, "lag_ms": 50, "same": AGAIN,
}  # fmt: skip


async def benches(scenario: Scenario, quick: bool) -> Row:
    """Up and down again, in turn with the floor, so that both see the same machine."""
    ours, floor = [], []
    for number in range(3 if quick else BENCHES):
        with tempfile.TemporaryDirectory(prefix="blackstart-bench-") as folder:
            began = time.monotonic()
            async with Bench(scenario, Path(folder), Recorder(None), wants_of(scenario), lambda _: None):
                pass
            ours.append((time.monotonic() - began) * 1000)
        if number % 2 == 0:
            floor.append(await _bare())
    return {
        "n": len(ours), "p50_ms": round(statistics.median(ours)), "p95_ms": round(percentile(ours, 0.95)),
        "floor_p50_ms": round(statistics.median(floor)), "ratio": round(statistics.median(ours) / statistics.median(floor), 2),
        "goal_ms": GOALS["bench_ms"],
    }  # fmt: skip


async def _bare() -> float:
    """The stack as `blackstart demo` starts it, one device, the first version; and down."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="blackstart-bench-") as folder:
        async with Stack(Path(folder)) as stack, stack.api() as api:
            await stack.publish("1.0.0", health=HEALTH)
            await stack.publish("2.0.0", health=HEALTH)
            await install(stack, await stack.add_device("edge-1"), api, "1.0.0")
    return (time.monotonic() - began) * 1000


async def observers(scenario: Scenario, quick: bool) -> Row:
    """Updates to and fro on one bench, by turns with all observers and with none; seen from another process."""
    seen: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="blackstart-bench-") as folder:
        recorder = Recorder(Path(folder) / "history.jsonl")
        async with Bench(scenario, Path(folder), recorder, wants_of(scenario), lambda _: None) as bench:
            outside = await asyncio.to_thread(Observer)
            try:
                for number in range(6 if quick else 2 * UPDATES):
                    seen[number % 2 == 0].append(await _update(bench, outside, number))
            finally:
                await asyncio.to_thread(outside.close)
    with_all, without = statistics.median(seen[True]), statistics.median(seen[False])
    return {
        "n": len(seen[True]), "with_p50_ms": round(with_all, 2), "without_p50_ms": round(without, 2),
        "overhead_ms": round(with_all - without, 2), "ratio": round(with_all / without, 3),
        "with_p95_ms": round(percentile(seen[True], 0.95), 1), "without_p95_ms": round(percentile(seen[False], 0.95), 1),
        "goal_ms": GOALS["observers_ms"],
    }  # fmt: skip


async def _update(bench: Bench, outside: Observer, number: int) -> float:
    """One update's downtime, in ms."""
    [device] = bench.devices
    watched = Observers(bench) if number % 2 == 0 else None
    bench.api_observer = None
    if watched is not None:
        watched.start()
    await asyncio.to_thread(outside.watch, str(device.client_port))
    job_id = await bench.order(device, ("2.0.0", "1.0.0")[number % 2])
    job: Row = {}
    while job.get("status") not in TERMINAL:
        await asyncio.sleep(0.1)
        job = await bench.job(job_id)
    [answers] = await asyncio.to_thread(outside.seen)
    if watched is not None:
        await watched.end()
        await bench.start_agent(device)
        await asyncio.sleep(0.5)
    return downtime_ms(answers)


async def folder(quick: bool, say: Console) -> tuple[Row, Row]:
    """Every scenario, two at once; and the lags."""

    def tell(name: str, what: str) -> None:
        if what in [ended.value for ended in Ended]:
            say.print(f"  {what:8} {name}")

    paths = scenario_files([default_folder()])[: 4 if quick else None]
    report = await play_all(paths, Options(), tell)
    row: Row = {
        "scenarios": len(paths), "passed": report.count(Ended.PASS), "failed": report.count(Ended.FAIL),
        "unknown": report.count(Ended.UNKNOWN), "skipped": report.count(Ended.SKIPPED),
        "seconds": round(report.seconds), "goal_s": GOALS["folder_s"],
    }  # fmt: skip
    return row, _lags(report)


def _lags(report: Report) -> Row:
    lags = [(f.lag_ms, f.fault) for run in report.runs for f in run.faults if f.lag_ms is not None]
    values = [lag for lag, _ in lags]
    if not values:
        return {"n": 0}
    slowest = sorted(lags, reverse=True)[:6]
    return {
        "n": len(values), "p50_ms": round(statistics.median(values), 1), "p95_ms": round(percentile(values, 0.95), 1),
        "slowest": {fault: round(lag) for lag, fault in reversed(slowest)}, "goal_ms": GOALS["lag_ms"],
    }  # fmt: skip


async def again(quick: bool) -> Row:
    """The same seed, again and again: the plan as a hash, and the verdict."""
    path = default_folder() / f"{DRAWN}.yaml"
    told = set()
    times = 2 if quick else AGAIN
    verdicts: list[str] = []
    free = asyncio.Semaphore(2)

    async def one() -> None:
        async with free:
            result = await play_file(path, Options(seed=11))
        verdicts.append(result.ended.value)
        told.add(hashlib.sha256(json.dumps(result.plan).encode()).hexdigest())

    await asyncio.gather(*(one() for _ in range(times)))
    told.add(hashlib.sha256(json.dumps(as_table(plan(load(path), 11))).encode()).hexdigest())
    most = max(verdicts.count(v) for v in set(verdicts))
    return {
        "scenario": DRAWN, "times": times, "plans": len(told), "same_verdict": most, "verdicts": sorted(set(verdicts)),
    }  # fmt: skip


async def run(quick: bool, only: str | None) -> dict[str, Row]:
    """Everything that is asked for."""
    say = Console(stderr=True)
    scenario = load(default_folder() / "plain-update.yaml")
    found: dict[str, Row] = {}
    if only in (None, "bench"):
        say.print("bench: up and down")
        found["bench"] = await benches(scenario, quick)
    if only in (None, "observers"):
        say.print("observers: updates with and without them")
        found["observers"] = await observers(scenario, quick)
    if only in (None, "seed"):
        say.print("seed: the same again")
        found["seed"] = await again(quick)
    if only in (None, "folder"):
        say.print("folder: every scenario")
        found["folder"], found["lag"] = await folder(quick, say)
    return found


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="bench-chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    parser.add_argument("--only", choices=("bench", "observers", "seed", "folder"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        found = asyncio.run(run(options.quick, options.only))
    except BlackstartError as error:
        print(f"bench-chaos: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"machine": machine(), **found}, indent=1))
        return 0
    console = Console(width=120)
    console.print(machine())
    for name, row in found.items():
        table = Table(title=name, box=None, title_justify="left", title_style="bold")
        for key in row:
            table.add_column(key.replace("_", " "), justify="right")
        table.add_row(
            *(
                ", ".join(f"{k} {v}" for k, v in c.items()) if isinstance(c, dict) else str(c)
                for c in row.values()
            )
        )
        console.print(table)
    return 0


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
