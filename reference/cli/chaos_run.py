"""`blackstart chaos run`: progress, the table, the reports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.lanes import Kept, Tell, play_all, reasons
from chaos.leftovers import sweep_abandoned
from chaos.load import default_folder, load_all
from chaos.report import write_all
from chaos.result import Report, RunResult
from chaos.runner import Options
from chaos.verdict import Ended, Verdict
from reference.core.errors import InputError
from reference.support.unwinding import unwinding

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"pass": "green", "fail": "red", "unknown": "yellow", "skipped": "dim"}


def run(
    paths: list[Path] | None,
    options: Options,
    report_folder: Path | None,
    earlier: Path | None,
    lanes: int,
    keep: bool,
    no_skips: bool,
    as_json: bool,
) -> int:
    """Play, show, write; answers the exit code, 128 + N when signal N ended it. Raises InputError."""
    from rich.console import Console

    found = [path for path, _ in load_all(paths or [default_folder()])]
    if keep and report_folder is None:
        raise InputError("there is nowhere to keep it", where="--keep", todo="Give --report FOLDER, too.")
    if report_folder is not None:
        _make(report_folder)
    progress, told = Console(stderr=True), list[int]()
    try:
        with progress.status(f"{len(found)} to play") as line:
            ended: set[str] = set()

            def tell(name: str, what: str) -> None:
                if what in COLOURS:
                    ended.add(name)
                    progress.print(f"  [{COLOURS[what]}]{what:7}[/] {name}")
                left = len(found) - len(ended)
                line.update(f"{len(ended)} played, {left} to go: [bold]{name}[/bold]  {what}")

            playing = _play(found, options, tell, lanes, Kept(report_folder, keep))
            report = asyncio.run(unwinding(playing, told))
    except (asyncio.CancelledError, OSError):  # OSError: the terminal is gone, and the progress with it
        if not told:
            raise
        with contextlib.suppress(OSError):
            print("blackstart: interrupted", file=sys.stderr)
        return 128 + told[0]
    unwritten = _written(report, report_folder, earlier) if report_folder is not None else ""
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        console = Console() if sys.stdout.isatty() else Console(width=120)
        _show(console, report, None if unwritten else report_folder)
    if unwritten:
        print(f"blackstart: {unwritten}", file=sys.stderr)
    code = report.exit_code()
    if code == 0 and no_skips and report.count(Ended.SKIPPED):
        return 3
    return 2 if unwritten and code == 0 else code


async def _play(paths: list[Path], options: Options, tell: Tell, lanes: int, kept: Kept) -> Report:
    await sweep_abandoned()
    return await play_all(paths, options, tell, lanes, kept)


def _make(folder: Path) -> None:
    """The folder of the reports, before anything is played for them. Raises InputError."""
    todo = "Give --report another folder."
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made a folder: {error.strerror}"
        raise InputError(what, where=str(folder), todo=todo) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError("cannot be written to", where=str(folder), todo=todo)


def _written(report: Report, folder: Path, earlier: Path | None) -> str:
    """Write the reports; why they could not be, where they could not: the table is shown all the same."""
    try:
        write_all(report, folder, earlier)
    except OSError as error:
        return f"{folder}: the reports cannot be written: {error}"
    return ""


def _show(console: Console, report: Report, folder: Path | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("SCENARIO", "OUTCOME", "REASON"):
        table.add_column(title, no_wrap=True)
    for title in ("DOWNTIME ms", "ROLLBACK ms", "FAULTS"):
        table.add_column(title, justify="right")
    table.add_column("VERDICT")
    for run_ in report.runs:
        fired = sum(bool(fault.fired) for fault in run_.faults)
        table.add_row(
            run_.name, _joined(run_, "outcome"), _joined(run_, "reason"), _most(run_, "downtime_ms"),
            _most(run_, "rollback_ms"), f"{fired}/{len(run_.faults)}",
            f"[{COLOURS[run_.ended.value]}]{run_.ended.value}[/]{_times(run_)}",
        )  # fmt: skip
    console.print()
    console.print(table)
    for run_ in report.runs:
        if run_.ended.value in ("fail", "unknown"):
            _explain(console, run_)
    for reason, names in reasons(report).items():
        console.print(f"skipped, because {escape(reason)}: {', '.join(names)}", highlight=False)
    counts = [f"{sum(r.ended.value == word for r in report.runs)} {word}" for word in COLOURS]
    where = f"; reports: {folder / 'index.html'}" if folder is not None else ""
    console.print(f"\n{', '.join(counts)} in {report.seconds:.1f} s{where}", highlight=False)


def _explain(console: Console, run_: RunResult) -> None:
    from rich.markup import escape

    if run_.reason:
        console.print(f"[yellow]{run_.name}[/]: {escape(run_.reason)}", highlight=False)
    for finding in run_.findings:
        if finding.verdict is not Verdict.PASS:
            colour = COLOURS[finding.verdict.value]
            device = f" ({finding.device})" if finding.device else ""
            said = f"{finding.checker}{device}: expected {finding.expected}; {finding.measured}"
            console.print(f"[{colour}]{run_.name}[/]: {escape(said)}", highlight=False)


def _times(run_: RunResult) -> str:
    return "" if run_.played == 1 else f" (played {run_.played} times)"


def _joined(run_: RunResult, name: str) -> str:
    return ", ".join(dict.fromkeys(str(getattr(d, name)) for d in run_.devices if getattr(d, name))) or "-"


def _most(run_: RunResult, name: str) -> str:
    values = [getattr(d, name) for d in run_.devices if getattr(d, name) is not None]
    return str(max(values)) if values else "-"
