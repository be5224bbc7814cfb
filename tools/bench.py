"""`make bench`, its first half: what the core and the journal cost, each number beside a floor measured in the same run.

decide            calls a second of the pure core
journal           one commit, against one write + fdatasync of as many bytes on the same disk

For how long an update keeps the client down: `make bench-downtime`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from reference.core.delivery import Memory
from reference.core.model import Command, Health, Image, Phase, World
from reference.core.update import UpdateRecord, decide
from reference.edge.journal import Journal
from tools.machine import machine

COMMITS = 300
DECISIONS = 50_000
JOB = Command("job", 2, Image("h/opc", "sha256:" + "b" * 64, "2.0.0"), Health(), 2**50)


def main() -> None:
    """Measure everything and print one table, or JSON with `--json`."""
    with tempfile.TemporaryDirectory(prefix="blackstart-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        rows = [decisions(), *journal(Path(folder))]
    if "--json" in sys.argv:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
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


if __name__ == "__main__":
    main()
