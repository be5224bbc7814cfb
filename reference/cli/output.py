"""How the command line speaks: tables for people, JSON for machines, one clear sentence for what went wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer

from reference.core.errors import BlackstartError, InputError, Reason

GOOD, FAILED, BAD_INPUT, UNKNOWN = 0, 1, 2, 3
"""Exit codes: it went well, the thing failed, what was given is wrong, it cannot be told."""
_INPUT_REASONS = {Reason.INVALID_INPUT, Reason.NOT_FOUND, Reason.MALFORMED}
WIDTH = 160
"""Of a table that is not shown on a terminal: rich would assume 80 columns and fold ids."""
_UNKNOWN_REASONS = {Reason.UNAVAILABLE}

Row = Mapping[str, object]


@contextmanager
def spoken() -> Iterator[None]:
    """Turn our errors into one sentence on standard error and the right exit code."""
    try:
        yield
    except BlackstartError as error:
        print(f"blackstart: {error}", file=sys.stderr)
        if isinstance(error, InputError) or error.reason in _INPUT_REASONS:
            raise typer.Exit(BAD_INPUT) from None
        raise typer.Exit(UNKNOWN if error.reason in _UNKNOWN_REASONS else FAILED) from None
    except KeyboardInterrupt:
        print("blackstart: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


def show_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=1))


def show_table(rows: Sequence[Row], columns: Mapping[str, str], empty: str) -> None:
    """A table with `columns` (title -> key of a row); `empty` says what to do when there is nothing."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in columns.values()))
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table)


def show_list(found: Row, columns: Mapping[str, str], as_json: bool, empty: str) -> None:
    """A list of the API as a table; says so when there is more than it shows."""
    if as_json:
        show_json(found)
        return
    rows = found.get("items")
    rows = rows if isinstance(rows, list) else []
    show_table(rows, columns, empty)
    if found.get("nextCursor") is not None:
        print(f"... and more than these {len(rows)}: --limit", file=sys.stderr)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return _cell(value.get("code") or value.get("status"))
    text = str(value)
    return f"{text[:19]}…" if text.startswith("sha256:") else text
