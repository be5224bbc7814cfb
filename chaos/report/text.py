"""Words for pages: escaped, without what no page may hold, and quantities as people read them."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What neither XML nor HTML can hold."""


def clean(value: object) -> str:
    """As text; what XML and HTML cannot hold is a replacement character."""
    return _FORBIDDEN.sub("\ufffd", str(value))


def esc(value: object) -> str:
    """As text of a page, or of an attribute."""
    return html.escape(clean(value))


def ms(value: int | None) -> str:
    """`1 234 ms`; a dash for what was not measured."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f") + "\u00a0ms"


def seconds(value: float) -> str:
    """`850 ms`, `12.3 s`, `4 min 05 s`."""
    if value < 1:
        return f"{round(value * 1000)}\u00a0ms"
    if value < 120:
        return f"{value:.1f}\u00a0s"
    return f"{int(value // 60)}\u00a0min {int(value % 60):02}\u00a0s"


def moment(wall_ms: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds")


def day_and_time(wall_ms: float) -> str:
    """`2026-01-31 12:30:05 UTC`; empty for a time that is not known."""
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if wall_ms else ""


def short(text: str, most: int) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plural(count: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
