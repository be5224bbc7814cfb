"""`blackstart chaos soak`: progress, what was done, and what was found."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.runner import Options
from chaos.soak import Guards, SoakResult, Wanted, soak
from reference.support.unwinding import unwinding

if TYPE_CHECKING:
    from rich.console import Console

EVERY_S = 10.0
"""Between two lines of progress, where nobody looks at a terminal."""
MOST_SHOWN = 12


def run(minutes: float, seed: int | None, devices: int, folder: Path | None, as_json: bool) -> int:
    """Play, show; answers the exit code, 128 + N when signal N ended it. Raises BlackstartError."""
    from rich.console import Console

    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    progress, told = Console(stderr=True), list[int]()
    progress.print(f"soak: {minutes:g} min, {devices} devices, seed {chosen}", highlight=False)
    try:
        with progress.status("starting") as status:
            line = _Line(progress)

            def tell(kind: str, what: object) -> None:
                status.update(line.told(kind, what))

            wanted = Wanted(minutes, chosen, Guards(devices=devices))
            result = asyncio.run(unwinding(soak(wanted, Options(), tell, folder), told))
    except (asyncio.CancelledError, OSError):  # OSError: the terminal is gone, and the progress with it
        if not told:
            raise
        with contextlib.suppress(OSError):
            print("blackstart: interrupted", file=sys.stderr)
        return 128 + told[0]
    if as_json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        _show(Console() if sys.stdout.isatty() else Console(width=120), result)
    return result.exit_code()


class _Line:
    """The line of progress: how it stands, and what happens now. Where there is no terminal, one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._counts: Mapping[str, object] = {}
        self._what = ""
        self._left_told: float | None = None

    def told(self, kind: str, what: object) -> str:
        """What to show now."""
        if kind == "say":
            self._what = str(what)
        elif isinstance(what, dict):
            self._counts = what
        text = self._text()
        if not self._console.is_terminal and (kind == "say" or self._due()):
            self._console.print(text, highlight=False, soft_wrap=True)
        return text

    def _due(self) -> bool:
        left = float(str(self._counts.get("left_s", 0)))
        due = self._left_told is None or abs(self._left_told - left) >= EVERY_S
        self._left_told = left if due else self._left_told
        return due

    def _text(self) -> str:
        if not self._counts:
            return self._what
        left = int(str(self._counts["left_s"]))
        updates, faults = _counted(self._counts["updates"]), _counted(self._counts["faults"], 4)
        violations = self._counts["violations"]
        return (
            f"{left // 60}:{left % 60:02} left; updates: {updates}; faults: {faults}; "
            f"violations: {violations}; {self._what}"
        )


def _counted(found: object, most: int = MOST_SHOWN) -> str:
    counts: Mapping[str, int] = found if isinstance(found, dict) else {}
    first = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    more = f" ({len(first) - most} more kinds)" if len(first) > most else ""
    return (", ".join(f"{name} {n}" for name, n in first[:most]) or "none yet") + more


def _show(console: Console, result: SoakResult) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("FAULT", no_wrap=True)
    for title in ("FIRED", "MET NOBODY"):
        table.add_column(title, justify="right")
    for name in sorted({*result.faults_fired, *result.faults_unshown}):
        fired, unshown = result.faults_fired.get(name, 0), result.faults_unshown.get(name, 0)
        table.add_row(name, str(fired), str(unshown) if unshown else "-")
    console.print(table)
    for name, reason in result.left_out.items():
        console.print(f"[dim]not drawn: {name}: {escape(reason)}[/]", highlight=False)
    for problem in result.problems[:MOST_SHOWN]:
        console.print(f"[yellow]note[/]: {escape(problem)}", highlight=False)
    if len(result.problems) > MOST_SHOWN:
        console.print(f"[yellow]note[/]: and {len(result.problems) - MOST_SHOWN} more: --json has them")
    if result.broken_off:
        console.print(f"[yellow]broken off[/]: {escape(result.broken_off)}", highlight=False)
    for violation in result.violations:
        console.print(f"[red]violation[/]: {escape(str(violation))}", highlight=False)
    for path in result.scenarios:
        console.print(f"  blackstart chaos run {path}", highlight=False, soft_wrap=True)
    console.print(
        f"\nseed {result.seed}: {result.rounds} rounds in {result.seconds:.0f} s on {result.devices} devices; updates: "
        f"{_counted(result.updates)}; faults fired: {sum(result.faults_fired.values())}; at rest after at most "
        f"{result.rest_ms / 1000:.1f} s; {result.findings} findings, {result.unjudged} not judged; "
        f"[{'red' if result.violations else 'green'}]{len(result.violations)} violations[/]",
        highlight=False,
    )
