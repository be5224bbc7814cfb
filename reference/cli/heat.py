"""A heat map of the model: which cut, at which atom of which step in which phase, leads to which end."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

from reference.cli.explored import chosen
from reference.cli.output import GOOD
from reference.core.errors import InputError
from reference.core.model import Outcome
from reference.world.ends import End, landings
from reference.world.story import Story

Place = tuple[str, str, str]
"""Phase, step, atom."""
COLOURS = {
    "new": "#2e9d5b",
    "old": "#2f6fb5",
    "untouched": "#8a94a0",
    "nothing": "#c98a1b",
    "neither": "#c0392b",
}
"""Of the five kinds of end."""
_WORDS = {
    "new": "the new version runs, and the job says so",
    "old": "the old version was brought back, and the job says so",
    "untouched": "the job ended before the switch; the old version never stopped for it",
    "nothing": "nothing runs, as it has to: nothing good was ever there",
    "neither": "neither",
}
_STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#1c2530;background:#fff}
h1{font-size:1.4rem} p{max-width:60rem} table{border-collapse:collapse} td,th{padding:2px 6px;white-space:nowrap}
th{font-weight:600;text-align:left} th.s{writing-mode:vertical-rl;transform:rotate(180deg);padding:6px 2px}
td.c{color:#fff;text-align:right;min-width:2.4rem;border:1px solid #fff;font-variant-numeric:tabular-nums}
tr.first td,tr.first th{border-top:2px solid #1c2530} .k{display:inline-block;width:1em;height:1em;margin:0 .3em 0 1em;
vertical-align:-2px} @media(prefers-color-scheme:dark){body{background:#12171d;color:#dfe5ec}td.c{border-color:#12171d}}
"""


def write(only: list[str], path: Path) -> int:
    """Write the map of these stories, or of all that need no event. Raises InputError."""
    stories = [s for s in chosen(only) if only or not s.events]
    text = page(stories)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from error
    print(f"written: {path}")
    return GOOD


def kind_of(end: End) -> str:
    """Which of the five kinds an end is."""
    if end.runs is None:
        return "nothing" if end.outcome in (Outcome.FAILED, Outcome.ROLLBACK_FAILED) else "neither"
    if end.outcome is Outcome.SUCCEEDED:
        return "new" if end.runs == end.current else "neither"
    if end.outcome is Outcome.ROLLED_BACK:
        return "old" if end.runs == end.current else "neither"
    return "untouched" if end.outcome is Outcome.FAILED and end.runs == end.current else "neither"


def page(stories: list[Story]) -> str:
    """The page, whole: no file beside it is needed."""
    cells: dict[tuple[Place, str], Counter[str]] = {}
    places: dict[Place, None] = {}
    for story in stories:
        for landing in landings(story):
            place = (landing.phase.value, landing.step, landing.atom.value)
            places.setdefault(place)
            cells.setdefault((place, story.name), Counter())[kind_of(landing.end)] += 1
    seen = {place: number for number, place in enumerate(places)}
    order = sorted(places, key=lambda place: (_PHASES.index(place[0]), seen[place]))
    total = sum(sum(c.values()) for c in cells.values())
    head = "".join(f'<th class="s">{html.escape(s.name)}</th>' for s in stories)
    rows = []
    last = ""
    for place in order:
        tds = "".join(_cell(cells.get((place, s.name)), place, s) for s in stories)
        first = ' class="first"' if place[0] != last else ""
        names = "".join(f"<th>{html.escape(word)}</th>" for word in (place[0] if first else "", *place[1:]))
        rows.append(f"<tr{first}>{names}{tds}</tr>")
        last = place[0]
    key = "".join(
        f'<span class="k" style="background:{COLOURS[kind]}"></span>{word}' for kind, word in _WORDS.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Which cut leads to which end</title>'
        f"<style>{_STYLE}</style><h1>Which cut leads to which end</h1>"
        f"<p>Each row is a place at which the power is cut: phase, step, and the atom after which it happens. Each column "
        f"is a story. The number says how many different disks and boots that cut may leave ({total:,} in all); the colour "
        f"says where the device comes to rest without another cut. Computed from the model by <code>blackstart crash "
        f"enumerate --report</code>.</p><p>{key}</p>"
        f'<div style="overflow-x:auto"><table><tr><th>phase</th><th>step</th><th>after</th>{head}</tr>'
        f"{''.join(rows)}</table></div></html>\n"
    )


_PHASES = (
    "idle", "accepted", "pulling", "staged", "switching", "verifying", "committing", "rolling_back", "cleaning_up",
)  # fmt: skip


def _cell(counts: Counter[str] | None, place: Place, story: Story) -> str:
    if not counts:
        return "<td></td>"
    many = sum(counts.values())
    parts, at = [], 0.0
    for kind, count in counts.most_common():
        share = 100 * count / many
        parts.append(f"{COLOURS[kind]} {at:.0f}% {at + share:.0f}%")
        at += share
    told = "; ".join(f"{count} {_WORDS[kind]}" for kind, count in counts.most_common())
    title = html.escape(f"{story.name}, {place[0]}, {place[1]}, after {place[2]}: {told}")
    background = f"linear-gradient(90deg,{','.join(parts)})" if len(parts) > 1 else parts[0].split()[0]
    return f'<td class="c" title="{title}" style="background:{background}">{many}</td>'
