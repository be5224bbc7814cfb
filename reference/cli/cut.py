"""`blackstart crash cut`: live progress, the counts, the findings."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reference.cli.output import show_json
from reference.core.errors import InputError
from reference.power.bench import DOCKER, PROCESS
from reference.power.run import Report, run_cuts
from reference.support.unwinding import unwinding

if TYPE_CHECKING:
    from rich.console import Console

RUNTIMES = (PROCESS, DOCKER)
_SHOWN = 20
"""Findings that are listed for people; --json has them all."""


def run(cuts: int, seed: int, runtime: str, keep: Path | None, as_json: bool) -> int:
    """Play, show; answers the exit code, 128 + N when signal N ended it. Raises InputError, DeviceError."""
    from rich.console import Console

    if runtime not in RUNTIMES:
        raise InputError(
            f"the power of {runtime!r} cannot be cut here", where="--runtime",
            todo=f"Known: {', '.join(RUNTIMES)}.",
        )  # fmt: skip
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise InputError(
            "is there already and not an empty folder", where=str(keep), todo="Name a new folder."
        )
    progress = Console(stderr=True)
    told: list[int] = []
    done = 0
    try:
        with progress.status("starting") as line:

            def say(about: str, what: str) -> None:
                nonlocal done
                done += what.startswith("cut in")
                line.update(f"[bold]{done}/{cuts}[/bold]  {about}: {what}")
                if what.endswith("fail"):
                    progress.print(f"  [red]fail[/]  {about}: {what}", highlight=False)

            where = keep.resolve() if keep is not None else None
            report = asyncio.run(unwinding(run_cuts(cuts, seed, runtime=runtime, say=say, keep=where), told))
    except (asyncio.CancelledError, OSError):  # OSError: the terminal is gone, and the progress with it
        if not told:
            raise
        with contextlib.suppress(OSError):
            print("blackstart: interrupted; nothing is left mounted", file=sys.stderr)
        return 128 + told[0]
    if as_json:
        show_json(report.to_json())
    else:
        # Redirected, rich would assume 80 columns and cut the findings off.
        _show(Console() if sys.stdout.isatty() else Console(width=120), report)
    return report.exit_code()


def _show(console: Console, report: Report) -> None:
    from rich.table import Table

    counts = report.to_json()
    landed = Table(box=None, header_style="bold", pad_edge=False)
    landed.add_column("CUT IN")
    landed.add_column("CUTS", justify="right")
    for phase, count in report.by_phase().items():
        landed.add_row(phase, str(count) if count else "[yellow]0[/]")
    console.print(landed)
    console.print(
        f"\n{report.cuts} cuts (seed {report.seed}), {report.at_random} at random moments; the client came back as "
        f"old {counts['old_healthy']} times, as new {counts['new_healthy']} times",
        highlight=False,
    )
    for problem in report.problems[:_SHOWN]:
        about = f"cut {problem['number']}, {problem['story']}, in {problem['landed']}"
        console.print(f"[red]{problem['kind']}[/]: {about}: {problem['detail']}", highlight=False)
    if len(report.problems) > _SHOWN:
        console.print(f"... and {len(report.problems) - _SHOWN} more: --json", highlight=False)
    for phase in report.missed:
        console.print(f"[red]no cut landed in {phase}[/]", highlight=False)
    words = [f"{counts[kind]} {kind}" for kind in ("bricked", "false_reports", "corrupt", "unmapped")]
    colour = "red" if report.exit_code() else "green"
    pace = f"{report.seconds:.1f} s, {counts['cuts_per_hour']} an hour"
    console.print(f"[{colour}]{', '.join(words)}[/] in {pace}", highlight=False)
