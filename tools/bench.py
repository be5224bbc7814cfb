"""`make bench`: what an update costs, each number beside a floor measured in the same run.

decide            calls a second of the pure core
journal           one commit, against one write + fdatasync of as many bytes on the same disk
downtime          an update that succeeds, against stopping and starting the same client by hand
rollback          a candidate that crashes: failure journaled to the old version's first good answer
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from reference.core.delivery import Memory
from reference.core.model import Command, Health, Image, Phase, World
from reference.core.update import UpdateRecord, decide
from reference.demo.bench import OLD, Bench
from reference.demo.front import Front
from reference.demo.observer import ask
from reference.demo.run import LIMITS, install
from reference.edge.journal import Journal
from reference.edge.main import journal_path
from reference.edge.settings import load_settings
from reference.stack import Device, Stack
from tools.machine import machine

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "10"))
COMMITS = 300
DECISIONS = 50_000
JOB = Command("job", 2, Image("h/opc", "sha256:" + "b" * 64, "2.0.0"), Health(), 2**50)


def main() -> None:
    """Measure everything and print one table, or JSON with `--json`."""
    with tempfile.TemporaryDirectory(prefix="blackstart-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        rows = [decisions(), *journal(Path(folder)), *asyncio.run(updates(Path(folder)))]
    if "--json" in sys.argv:
        print(json.dumps({"machine": machine(), "rounds": ROUNDS, "rows": rows}, indent=1))
        return
    table = Table(box=None, pad_edge=False, title=machine(), title_justify="left")
    for title in ("WHAT", "p50", "p95", "UNIT", "FLOOR p50", "RATIO"):
        table.add_column(title, justify="left" if title in ("WHAT", "UNIT") else "right")
    for row in rows:
        table.add_row(*(str(row.get(key, "-")) for key in ("what", "p50", "p95", "unit", "floor", "ratio")))
    Console(width=110).print(table)


def row(what: str, unit: str, values: list[float], floor: list[float] | None = None) -> dict[str, object]:
    """One line: medians and 95th percentiles, and the ratio of medians to the floor's."""
    p50, p95 = statistics.median(values), statistics.quantiles(values, n=20, method="inclusive")[18]
    found: dict[str, object] = {"what": what, "unit": unit, "p50": round(p50, 2), "p95": round(p95, 2)}
    if floor:
        low = statistics.median(floor)
        found |= {"floor": round(low, 2), "ratio": round(p50 / low, 2)}
    return found


def decisions() -> dict[str, object]:
    """Calls of `decide` a second, over a record in its trial."""
    record = UpdateRecord(epoch="e", phase=Phase.VERIFYING, floor=2, job=JOB, boot_id="b")
    world, rates = World(boot_id="b"), []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(DECISIONS // 10):
            decide(record, world, None)
        rates.append(DECISIONS / 10 / (time.perf_counter() - began))
    return row("decide", "calls/s", rates)


def journal(folder: Path) -> list[dict[str, object]]:
    """Commits, and the floor: the same bytes appended to a file and put on the disk."""
    path = folder / "journal.db"
    Journal.create(path, UpdateRecord(epoch="e"))
    book, commits, floors = Journal.open(path), [], []
    with (folder / "floor").open("wb", buffering=0) as file:
        for number in range(COMMITS):
            memory = Memory(UpdateRecord(epoch="e", phase=Phase.PULLING, floor=2, job=JOB), sequence=number)
            began = time.perf_counter()
            book.write(memory)
            commits.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            file.write(b"x" * 1024)
            os.fdatasync(file.fileno())
            floors.append((time.perf_counter() - began) * 1000)
    book.close()
    return [row("journal commit", "ms", commits, floors)]


async def updates(folder: Path) -> list[dict[str, object]]:
    """Updates and rollbacks of one device, seen by the demo's observer."""
    downtimes: list[float] = []
    rollbacks: list[float] = []
    outages: list[float] = []
    front = Front()  # Not in the way: nothing fails on purpose here.
    async with Stack(folder / "stack") as stack, stack.api() as api:
        for version, defect in ((OLD, None), ("2.0.0", None), ("2.0.1-crash", "crash-on-start")):
            await stack.publish(version, defect)
        device = await stack.add_device("bench", LIMITS)
        await install(stack, device, api)
        for number in range(ROUNDS):
            before, after = (OLD, "2.0.0") if number % 2 == 0 else ("2.0.0", OLD)
            bench = Bench(stack, device, api, front, after, before, lambda _: None)
            await bench.finish(await bench.command())
            downtimes.append(_observed(bench))
            print(f"\rupdate {number + 1}/{ROUNDS}", end="", file=sys.stderr)
        running = ask(device.client_port).version or OLD
        began = time.time() * 1000
        answers = []
        for number in range(ROUNDS):
            bench = Bench(stack, device, api, front, "2.0.1-crash", running, lambda _: None)
            await bench.finish(await bench.command())
            outages.append(_observed(bench))
            answers.append(bench.seen)
            print(f"\rrollback {number + 1}/{ROUNDS}", end="", file=sys.stderr)
        await device.agent.stop() if device.agent else None
        book = Journal.open(journal_path(load_settings(device.config)))
        begun = [e.at_ms for e in book.history() if e.phase is Phase.ROLLING_BACK and e.at_ms > began]
        book.close()
        for at, seen in zip(begun, answers, strict=True):
            back = seen.first_good_after(at, running)
            assert back is not None, "the old version never came back"
            rollbacks.append(back - at)
        floor = await asyncio.to_thread(by_hand, device)
        print("\r", end="", file=sys.stderr)
    return [
        row("downtime, update succeeds", "ms", downtimes, floor),
        row("downtime, crash on start", "ms", outages, floor),
        row("rollback, crash on start", "ms", rollbacks, floor),
    ]


def _observed(bench: Bench) -> float:
    assert bench.observer is not None
    bench.seen = bench.observer.stop()
    return float(bench.seen.downtime_ms())


def by_hand(device: Device) -> list[float]:
    """The floor: SIGTERM to the client and a new process of the same program at once, nothing else."""
    [pid] = device.box.processes()
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    environment = dict(x.split(b"=", 1) for x in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if x)
    environment.pop(b"BLACKSTART_CONTAINER", None)  # Or the old one's shim would take it for a leftover.
    os.kill(pid, signal.SIGTERM)
    _until(device, good=False)
    child, values = subprocess.Popen(words, env=environment), []
    try:
        _until(device, good=True)
        for _ in range(ROUNDS):
            began = time.perf_counter()
            child.terminate()
            child.wait(5)
            child = subprocess.Popen(words, env=environment)
            _until(device, good=True)
            values.append((time.perf_counter() - began) * 1000)
    finally:
        child.terminate()
        child.wait(5)
    return values


def _until(device: Device, good: bool) -> None:
    end = time.monotonic() + 10
    while ask(device.client_port).good is not good:
        if time.monotonic() > end:
            raise SystemExit(f"bench: the client is not {'well' if good else 'gone'} after 10 s")
        time.sleep(0.001)


if __name__ == "__main__":
    main()
