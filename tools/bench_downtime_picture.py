"""The picture of docs/downtime.md: every measured outage as a dot, the 95th percentile as a line, beside its floors."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from html import escape

from tools.bench_downtime_numbers import PERCENTILE, Series, percentile

_WIDE, _LEFT, _TOP, _ROW = 1000, 270, 76, 26
_STEPS_MS = (0.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
"""Equal distances apart: an outage of 20 ms and one of 2 s have to be seen in one picture."""
_FLOOR, _OURS = "#9aa5b1", "#1f6feb"


def picture(machine: str, series: Iterable[Series]) -> str:
    """The picture, as SVG. Whatever is measured after a verdict is no outage, and left out."""
    shown = sorted(
        (one for one in series if "verdict" not in one.story),
        key=lambda one: (one.runtime != "process", one.network != "host", not one.story.startswith("floor")),
    )
    high = _TOP + _ROW * len(shown) + 30
    parts = [
        _text(20, 28, "How long an update keeps the client down, seen from outside", bold=True),
        _text(
            20,
            48,
            f"{machine}. Dots: rounds, darker where many. Line: 95th percentile. Grey: floors, from the same run.",
        ),
        *_scale(high),
    ]
    for number, one in enumerate(shown):
        parts += _row(one, _TOP + _ROW * number + 14)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {high + 16}" '
        'font-family="system-ui,sans-serif" font-size="12" role="img" aria-labelledby="title">\n'
        '<title id="title">Downtime of updates by runtime, network and story</title>\n'
        f'<rect width="{_WIDE}" height="{high + 16}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _scale(high: int) -> list[str]:
    parts = []
    for step_ms in _STEPS_MS:
        x = _x(step_ms)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{high - 16}" stroke="#e3e8ee"/>')
        parts.append(_text(x, high, f"{step_ms:g} ms", centred=True))
    return parts


def _row(one: Series, y: int) -> list[str]:
    colour = _FLOOR if one.story.startswith("floor") else _OURS
    parts = [_text(20, y + 4, f"{one.runtime}, {one.network}: {one.story}")]
    for x, many in sorted(Counter(round(_x(value)) for value in one.times_ms).items()):
        dark = min(1.0, 0.2 + 0.1 * many)
        parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}" fill-opacity="{dark:.1f}"/>')
    at = _x(percentile(one.times_ms, PERCENTILE))
    parts.append(
        f'<line x1="{at:.1f}" y1="{y - 9}" x2="{at:.1f}" y2="{y + 9}" stroke="#1c2530" stroke-width="2"/>'
    )
    return parts


def _x(value_ms: float) -> float:
    wide = (_WIDE - _LEFT - 40) / (len(_STEPS_MS) - 1)
    for number, (low, up) in enumerate(itertools.pairwise(_STEPS_MS)):
        if value_ms < up:
            return _LEFT + wide * (number + (value_ms - low) / (up - low))
    return _LEFT + wide * (len(_STEPS_MS) - 1)


def _text(x: float, y: int, words: str, *, bold: bool = False, centred: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    anchor = ' text-anchor="middle"' if centred else ""
    return f'<text x="{x:.1f}" y="{y}"{weight}{anchor} fill="#1c2530">{escape(words)}</text>'
