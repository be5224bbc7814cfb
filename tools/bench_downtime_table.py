"""The table of measured downtimes in README.md and docs/downtime.md: made from docs/downtime.json, and held equal by a test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from reference.core.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "downtime.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "downtime.md")
BEGIN, END = "<!-- downtime: written by tools/bench_downtime_table.py -->", "<!-- /downtime -->"
_SHORT = ("success", "overlap", "broken start", "broken start, back after the verdict", "sick", "cut")
"""Of the stories, what README shows."""
_COMPARED = ("success", "overlap", "after the verdict", "floor")
"""What a ratio to the floor says something of: the others hold a health window, or a boot."""
Row = Mapping[str, object]


def table(report: Mapping[str, object], *, whole: bool) -> str:
    """In Markdown. `whole`: floors, and observers on a bridge, too."""
    rows = report["rows"]
    assert isinstance(rows, list), "a report has rows"
    shown = [row for row in rows if whole or row["story"] in _SHORT]
    lines = [
        "| runtime, network | what | n | p50 | p95 (95 % confidence) | longest | floor p95 | ratio | samples missed, p95 |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in shown),
    ]
    return f"On {report['machine']}:\n\n" + "\n".join(lines)


def _line(row: Row) -> str:
    low, high = row["p95_ci"]  # type: ignore[misc]
    return (
        f"| {row['runtime']}, {row['network']} | {row['story']} | {row['n']} | {_ms(row['p50_ms'])} | "
        f"{_ms(row['p95_ms'])} ({_number(low)} to {_number(high)}) | {_ms(row['max_ms'])} | "  # type: ignore[has-type]
        f"{_ms(row['same_image_floor_p95_ms'])} | {_ratio(row)} | {_or_dash(row['samples_lost_p95'])} |"
    )


def _ratio(row: Row) -> str:
    compared = any(word in str(row["story"]) for word in _COMPARED)
    return _or_dash(row["ratio"] if compared else None)


def _number(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, (int, float)) else "-"


def _ms(value: object) -> str:
    return "-" if value is None else f"{_number(value)} ms"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def placed(page: str, block: str, where: str) -> str:
    """The page with the block between its marks. Raises InputError when they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"has no place for the table: {BEGIN} ... {END}", where=where)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def blocks() -> dict[Path, str]:
    """Each page as it should be."""
    report = json.loads(REPORT.read_text("utf-8"))
    return {
        page: placed(page.read_text("utf-8"), table(report, whole=page.name != "README.md"), str(page))
        for page in PAGES
    }


def publish(folder: Path) -> None:
    """Take what was measured into the documents."""
    for name in ("downtime.json", "downtime.svg"):
        shutil.copy(folder / name, REPORT.parent / name)
    write()


def write() -> None:
    """Write the pages."""
    for page, text in blocks().items():
        page.write_text(text, "utf-8")


if __name__ == "__main__":
    write()
