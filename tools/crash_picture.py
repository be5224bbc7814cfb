"""The picture of docs/crash-safety.md: the phases of an update, where every cut comes back to, and where it ends.

Counted in the model, for a good version, one that exits at once, and one that cannot be pulled.
"""

from __future__ import annotations

import itertools
from collections import Counter

from reference.cli.heat import COLOURS, kind_of
from reference.core.model import Phase
from reference.world.ends import Landing, landings
from reference.world.stories import story

STORIES = ("success", "crash", "pull_image_unknown")
_ROW = (
    Phase.ACCEPTED, Phase.PULLING, Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING, Phase.COMMITTING,
    Phase.CLEANING_UP, Phase.IDLE,
)  # fmt: skip
_WIDE, _HIGH, _STEP, _TOP, _LOW = 108, 58, 134, 120, 300
_WORDS = {"new": "new version runs", "old": "old version brought back", "untouched": "old version never stopped",
          "neither": "neither"}  # fmt: skip


def crash_picture() -> str:
    """The picture, as SVG."""
    found = [landing for name in STORIES for landing in landings(story(name))]
    parts = [*_boxes(found), *_ways(), *_returns(found), *_bars(found), *_key(found)]
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1110 560" font-family="system-ui,sans-serif" '
        'font-size="13" role="img" aria-labelledby="title">\n'
        '<title id="title">Phases of an update, the cuts in each, and where each cut ends</title>\n'
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#44505c"/></marker></defs>\n'
        '<rect width="1110" height="560" fill="#ffffff"/>\n'
        f"{body}\n</svg>\n"
    )


def _place(phase: Phase) -> tuple[int, int]:
    if phase is Phase.ROLLING_BACK:
        return 24 + _STEP * 5 - _WIDE // 4, _LOW - 60
    return 24 + _STEP * _ROW.index(phase), _TOP


def _boxes(found: list[Landing]) -> list[str]:
    cuts = Counter(landing.phase for landing in found)
    parts = []
    for phase in (*_ROW, Phase.ROLLING_BACK):
        x, y = _place(phase)
        late = phase in (Phase.COMMITTING, Phase.CLEANING_UP)
        touched = phase in (Phase.SWITCHING, Phase.VERIFYING, Phase.ROLLING_BACK)
        fill = "#e6f4ea" if late else "#fdeee0" if touched else "#eef1f4"
        parts += [
            f'<rect x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="6" fill="{fill}" stroke="#44505c"/>',
            _text(x + _WIDE // 2, y + 24, phase.value, bold=True),
            _text(x + _WIDE // 2, y + 44, f"{cuts[phase]:,} cuts"),
        ]
    return parts


def _ways() -> list[str]:
    parts = [_line(*_right(a), *_left(b)) for a, b in itertools.pairwise(_ROW)]  # one step after the other
    x, y = _place(Phase.ROLLING_BACK)
    for phase in (Phase.SWITCHING, Phase.VERIFYING):
        a, b = _place(phase)
        parts.append(_line(a + _WIDE // 2, b + _HIGH, x + 20, y))
    a, b = _place(Phase.CLEANING_UP)
    parts.append(_line(x + _WIDE, y + 20, a + _WIDE // 2, b + _HIGH))
    p, q = _place(Phase.PULLING)
    path = f"M{p + _WIDE // 2} {q + _HIGH} C{p + 160} {q + 330} {a - 40} {q + 330} {a + 20} {b + _HIGH}"
    parts.append(f'<path d="{path}" fill="none" stroke="#44505c" marker-end="url(#to)"/>')
    parts.append(_text(p + 300, q + 285, "failed: nothing was touched"))
    return parts


def _returns(found: list[Landing]) -> list[str]:
    """Where the journal is after the cut: in the same phase, or in the one whose successor was not durable yet."""
    parts = []
    earlier = Counter((landing.phase, landing.back) for landing in found if landing.phase is not landing.back)
    for phase in (*_ROW, Phase.ROLLING_BACK):
        x, y = _place(phase)
        path = f"M{x + 70} {y} C{x + 82} {y - 42} {x + 26} {y - 42} {x + 38} {y}"
        parts.append(
            f'<path d="{path}" fill="none" stroke="#c0392b" stroke-dasharray="4 3" marker-end="url(#to)"/>'
        )
        on = sum(n for (begin, _), n in earlier.items() if begin is phase)
        parts.append(_text(x + _WIDE // 2, y - 38, f"{on:,} already one on" if on else "", small=True))
    return parts


def _bars(found: list[Landing]) -> list[str]:
    parts = [_text(24, 440, "Where the cuts of each phase end:", left=True, bold=True)]
    for number, phase in enumerate((*_ROW[:5], Phase.ROLLING_BACK, *_ROW[5:])):
        ends = Counter(kind_of(landing.end) for landing in found if landing.phase is phase)
        x, total = 24 + 119 * number, sum(ends.values())
        parts.append(_text(x, 462, phase.value, left=True, small=True))
        at = float(x)
        for kind, colour in COLOURS.items():
            wide = 104 * ends[kind] / total if total else 0
            if wide:
                parts.append(f'<rect x="{at:.1f}" y="470" width="{wide:.1f}" height="18" fill="{colour}"/>')
            at += wide
    return parts


def _key(found: list[Landing]) -> list[str]:
    ends = Counter(kind_of(landing.end) for landing in found)
    parts, x = [], 24
    for kind, words in _WORDS.items():
        said = f"{words}: {ends[kind]:,}"
        parts.append(f'<rect x="{x}" y="514" width="14" height="14" fill="{COLOURS[kind]}"/>')
        parts.append(_text(x + 20, 526, said, left=True))
        x += 40 + 7 * len(said)
    parts.append(_text(24, 28, f"{len(found):,} cuts of three stories in the model", left=True, bold=True))
    parts.append(_text(24, 48, "Dashed: a cut. The journal comes back in the same phase, or one on when the "
                       "transaction that moves it on had reached the disk.", left=True))  # fmt: skip
    return parts


def _right(phase: Phase) -> tuple[int, int]:
    x, y = _place(phase)
    return x + _WIDE, y + _HIGH // 2


def _left(phase: Phase) -> tuple[int, int]:
    x, y = _place(phase)
    return x, y + _HIGH // 2


def _line(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="#44505c" marker-end="url(#to)"/>'


def _text(x: int, y: int, words: str, *, bold: bool = False, left: bool = False, small: bool = False) -> str:
    if not words:
        return ""
    weight = ' font-weight="600"' if bold else ""
    anchor = "" if left else ' text-anchor="middle"'
    size = ' font-size="11"' if small else ""
    return f'<text x="{x}" y="{y}"{weight}{anchor}{size} fill="#1c2530">{words}</text>'
