"""`blackstart demo`: live progress, the table, the report."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reference.demo.run import Report, chosen, run_demo, write_report
from reference.support.unwinding import unwinding

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"pass": "green", "fail": "red", "unknown": "yellow"}


def run(
    only: list[str],
    seed: int | None,
    report_path: Path,
    keep: Path | None,
    as_json: bool,
    broker: str = "amqtt",
    runtime: str = "process",
    engine: str | None = None,
) -> int:
    """Play, show, write; answers the exit code, 128 + N when signal N ended it."""
    from rich.console import Console

    stories = chosen(only)
    progress = Console(stderr=True)
    told: list[int] = []
    try:
        with progress.status("starting") as line:

            def say(story: str, what: str) -> None:
                line.update(f"[bold]{story}[/bold]  {what}")
                if what in _COLOURS:
                    progress.print(f"  [{_COLOURS[what]}]{what:7}[/] {story}")

            playing = run_demo(stories, seed, say, keep, broker=broker, runtime=runtime, engine=engine)
            report = asyncio.run(unwinding(playing, told))
    except (asyncio.CancelledError, OSError):  # OSError: the terminal is gone, and the progress with it
        if not told:
            raise
        with contextlib.suppress(OSError):
            print("blackstart: interrupted", file=sys.stderr)
        return 128 + told[0]
    write_report(report, report_path)
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        # Redirected, rich would assume 80 columns and cut the reasons off.
        console = Console() if sys.stdout.isatty() else Console(width=120)
        _show(console, report, report_path)
    return report.exit_code()


def _show(console: Console, report: Report, path: Path) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("STORY", "OUTCOME", "REASON"):
        table.add_column(title, no_wrap=True)
    for title in ("DOWNTIME ms", "ROLLBACK ms"):
        table.add_column(title, justify="right")
    table.add_column("VERDICT")
    for story in report.stories:
        verdict = story.verdict.value
        table.add_row(
            story.name, story.outcome, story.reason or "-", _number(story.downtime_ms), _number(story.rollback_ms),
            f"[{_COLOURS[verdict]}]{verdict}[/]",
        )  # fmt: skip
    console.print()
    console.print(table)
    for story in report.stories:
        problems = story.evidence.get("problems")
        for problem in problems if isinstance(problems, list) else []:
            console.print(f"[red]{story.name}[/]: {problem}", highlight=False)
    for reason in dict.fromkeys(skip["reason"] for skip in report.skipped):
        names = ", ".join(skip["name"] for skip in report.skipped if skip["reason"] == reason)
        console.print(f"not played, because {reason}: {names}", highlight=False)
    counts = [f"{sum(s.verdict.value == word for s in report.stories)} {word}" for word in _COLOURS]
    console.print(
        f"\n{', '.join(counts)} in {report.seconds:.1f} s; evidence: {path}, pictures: {path.with_suffix('.html')}",
        highlight=False,
    )


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
