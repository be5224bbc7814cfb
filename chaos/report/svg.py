"""A picture as SVG, within a page: its colours are classes of the page's style sheet, so that it is light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.report.lanes import VERSIONS, Bar, Lane, Mark, Picture, Tick
from chaos.report.text import esc, short

WIDTH, LEFT, RIGHT = 1080, 172, 14
BAR, STEP, PAD = 19, 26, 4
MARK_LINES, MARK_STEP, TOP = 3, 14, 12
LETTER, CAPITAL = 6.0, 7.4
"""Widths of letters of the small type, about."""
NAME_LETTERS = 28
TICKS = 9
MOST_BARS = 1500
"""In one lane; the rest is not drawn."""
_STEPS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600,
)  # fmt: skip
_LIGHT = (
    "p-accepted",
    "p-pulling",
    "p-switching",
    "p-verifying",
    "p-cleaning_up",
    "a-open",
    "a-other",
    "c-many",
)
_INK = {**dict.fromkeys(_LIGHT, "on-light"), **dict.fromkeys(VERSIONS, "on-version"), "fault": "on-fault"}
"""What is read on a bar; white on the others."""
_OWN_TEXT = frozenset({"samples", "c-one", "c-none", "a-away", "unproved"})
"""Bars so light that the page's own ink is read on them."""


def svg(picture: Picture, number: int, about: str) -> str:
    """The picture. `number` makes its ids different from those of others on the page; `about` is what it shows."""
    scale = _Scale(picture.begin, picture.end)
    marks = _placed(picture.marks, scale)
    top = TOP + MARK_STEP * (1 + max((line for *_, line in marks if line is not None), default=0))
    bottom = top + STEP * len(picture.lanes)
    height = bottom + 26
    rows = [(lane, top + STEP * n) for n, lane in enumerate(picture.lanes)]
    parts = [
        *(text for lane, y in rows for text in _ground(lane, y)),
        *_grid(picture, scale, top, bottom),
        *(text for mark, x, line in marks for text in _mark(mark, x, line, bottom)),
        *(text for lane, y in rows for text in _lane(lane, scale, y, number)),
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t{number} d{number}">'
        f'<title id="t{number}">{esc(about)}</title><desc id="d{number}">{esc(_words(picture))}</desc>'
        f'<defs><pattern id="h{number}" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="down" width="6" height="6"/>'
        '<line class="hatch-line" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>'
        f"{''.join(parts)}</svg>"
    )


class _Scale:
    """From seconds to places."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, max(end, begin + 1e-6)
        self._per_second = (WIDTH - LEFT - RIGHT) / (self.end - begin)

    def x(self, t: float) -> float:
        """The place of an instant; what is outside is at the edge."""
        return LEFT + (min(max(t, self.begin), self.end) - self.begin) * self._per_second

    def shows(self, begin: float, end: float) -> bool:
        """Whether a stretch has a part in the picture."""
        return end >= self.begin and begin <= self.end


def _words(picture: Picture) -> str:
    """The picture for those who do not see it."""
    lanes = [
        f"{lane.name}: {', '.join(b.about for b in lane.bars[:12]) or 'nothing'}"
        for lane in picture.lanes
        if lane.bars
    ]
    return ". ".join(lanes)


def _grid(picture: Picture, scale: _Scale, top: int, bottom: int) -> list[str]:
    length = picture.end - picture.begin
    step = next((s for s in _STEPS if length / s <= TICKS), _STEPS[-1])
    found = []
    first = int((picture.begin - picture.zero) // step)
    for n in range(first, first + TICKS + 3):
        t = picture.zero + n * step
        if not picture.begin <= t <= picture.end:
            continue
        x, text = scale.x(t), _time(n * step, step)
        found.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        found.append(f'<text class="t-soft" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    found.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    return found


def _time(t: float, step: float) -> str:
    if step >= 60:
        return f"{t / 60:g} min"
    if step >= 0.1:
        return f"{t:g} s"
    return f"{round(t * 1000)} ms" if abs(t) < 1 else f"{t:.{2 if step >= 0.01 else 3}f} s"


def _ground(lane: Lane, y: int) -> list[str]:
    """The lane's name, and the strip that it lies on."""
    name = esc(short(lane.name, NAME_LETTERS))
    return [
        f'<rect class="lane" x="{LEFT}" y="{y + PAD}" width="{WIDTH - LEFT - RIGHT}" height="{BAR}" rx="3"/>',
        f'<g><title>{esc(lane.name)}</title><text class="t-soft" x="0" y="{y + PAD + 14}">{name}</text></g>',
    ]


def _lane(lane: Lane, scale: _Scale, y: int, number: int) -> list[str]:
    found: list[str] = []
    bars = [b for b in lane.bars if scale.shows(b.begin, b.end)]
    found += [
        text
        for n, bar in enumerate(bars[:MOST_BARS])
        for text in _bar(bar, scale, y + PAD, number, _next(bars, n))
    ]
    found += _ticks([t for t in lane.ticks if scale.shows(t.t, t.t)], scale, y + PAD)
    if not lane.bars and not lane.ticks and lane.empty:
        found.append(f'<text class="t-soft" x="{LEFT + 8}" y="{y + PAD + 14}">{esc(lane.empty)}</text>')
    return found


def _width(text: str) -> float:
    return sum(CAPITAL if letter.isupper() else LETTER for letter in text)


def _next(bars: Sequence[Bar], n: int) -> Bar | None:
    return bars[n + 1] if n + 1 < len(bars) else None


def _bar(bar: Bar, scale: _Scale, y: int, number: int, later: Bar | None) -> list[str]:
    x, width = scale.x(bar.begin), max(2.0, scale.x(bar.end) - scale.x(bar.begin))
    fill = f' style="fill:url(#h{number})"' if bar.kind == "down" else ""
    outline = bar.kind in ("unproved", "a-away")
    inner = f'x="{x + 0.5:.1f}" y="{y + 0.5}" width="{max(1.0, width - 1):.1f}" height="{BAR - 1}"'
    kind = esc(bar.kind) if outline else f"bar {esc(bar.kind)}"
    shape = inner if outline else f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}"'
    found = [
        f'<g><title>{esc(bar.about or bar.text)}</title><rect class="{kind}" {shape} rx="1.5"{fill}/>',
        _inside(bar, x, width, y),
        "</g>",
    ]
    if not found[1] and bar.text and bar.kind in ("fault", "unproved", "down"):
        found[1] = _beside(bar, x + width, y, scale.x(later.begin) if later is not None else WIDTH - RIGHT)
    return found


def _inside(bar: Bar, x: float, width: float, y: int) -> str:
    """The words on a bar; of an outage at least the first one. Empty where they have no room."""
    words = [bar.text, bar.text.partition(" ")[0]] if bar.kind == "down" else [bar.text]
    text = next((t for t in words if t and _width(t) + 10 <= width), "")
    if not text:
        return ""
    if bar.kind == "down":
        # On the hatch, letters need a ground of their own.
        ink = ' class="on-dark" style="paint-order:stroke;stroke:var(--down);stroke-width:4px"'
        return f'<text x="{x + width / 2:.1f}" y="{y + 14}" text-anchor="middle"{ink}>{esc(text)}</text>'
    ink = "" if bar.kind in _OWN_TEXT else f' class="{_INK.get(bar.kind, "on-dark")}"'
    return f'<text x="{x + 5:.1f}" y="{y + 14}"{ink}>{esc(text)}</text>'


def _beside(bar: Bar, x: float, y: int, free: float) -> str:
    """Words at the right of a narrow bar, where nothing follows soon; those of outages never are."""
    if bar.kind == "down" or x + _width(bar.text) + 10 > free:
        return ""
    return f'<text x="{x + 4:.1f}" y="{y + 14}">{esc(bar.text)}</text>'


def _ticks(ticks: Sequence[Tick], scale: _Scale, y: int) -> list[str]:
    """One line for each; those that would lie on each other are one, which says how many it stands for."""
    places: dict[tuple[int, int, str], list[Tick]] = {}
    for tick in ticks:
        places.setdefault((round(scale.x(tick.t)), tick.row, tick.kind), []).append(tick)
    found = []
    for (x, row, kind), here in places.items():
        top = y + 1 + (BAR // 2) * row
        names = dict.fromkeys(t.about for t in here)
        about = ", ".join(f"{sum(t.about == n for t in here)} × {n}" if len(here) > 1 else n for n in names)
        found.append(
            f'<g><title>{esc(about)}</title><line class="{esc(kind)}" x1="{x}" x2="{x}" y1="{top}" '
            f'y2="{top + BAR // 2 - 1}" stroke-width="1.6"/></g>'
        )
    return found


def _placed(marks: Sequence[Mark], scale: _Scale) -> list[tuple[Mark, float, int | None]]:
    """Marks with their place, and the line on which their words have room; None: they have none."""
    free = [0.0] * MARK_LINES
    found: list[tuple[Mark, float, int | None]] = []
    for mark in marks:
        if not scale.shows(mark.t, mark.t):
            continue
        x, width = scale.x(mark.t), _width(mark.text)
        left = x if x + width < WIDTH else x - width
        line = next((n for n in range(MARK_LINES) if free[n] <= left), None)
        if line is not None:
            free[line] = left + width + 10
        found.append((mark, x, line))
    return found


def _mark(mark: Mark, x: float, line: int | None, bottom: int) -> list[str]:
    kind, y = "edge" if mark.edge else "mark", TOP + MARK_STEP * (line or 0)
    found = [
        f'<g><title>{esc(mark.text)}</title><line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{bottom}"/></g>'
    ]
    if line is not None:
        anchor = "start" if x + _width(mark.text) < WIDTH else "end"
        colour = ' class="t-soft"' if mark.edge else ""
        found.append(f'<text{colour} x="{x:.1f}" y="{y}" text-anchor="{anchor}">{esc(mark.text)}</text>')
    return found
