"""The report for people: one self-contained page with a picture of each story, on one axis of time.

Made of the same JSON that `--json` prints, so that it can be made again from a kept `report.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import cast

Row = Mapping[str, object]

WIDTH, LEFT, RIGHT = 1000, 92, 16
MARK_Y, PHASE_Y, PROBE_Y, SAMPLE_Y, AXIS_Y, HEIGHT = 14, 62, 92, 122, 148, 170
BAR = 20
MARK_LINES, MARK_STEP = 3, 13
LETTER = 6.2
"""Width of a letter of the small type, about."""
TICKS = 8
PHASES = {
    "accepted": "#b8c4d6", "pulling": "#7aa6d8", "staged": "#5b86c4", "switching": "#f0b429", "verifying": "#f4d06f",
    "committing": "#57a773", "rolling_back": "#d1495b", "cleaning_up": "#c9c9d2",
}  # fmt: skip
_DOWN, _OLD, _NEW = "#d1495b", "#4c9f70", "#2d6a8f"
_STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5d6b7a; --line: #dfe4ea; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 2rem auto; max-width: 1040px;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.05rem; margin: 2.2rem 0 0; }
p { margin: .2rem 0; color: var(--soft); } table { border-collapse: collapse; width: 100%; margin-top: 1rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); padding: .2rem .6rem .2rem 0; }
td { border-bottom: 1px solid var(--line); padding: .2rem .6rem .2rem 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } a { color: inherit; }
.pass { color: #2f7d4f; } .fail { color: #b3263a; } .unknown { color: #946c00; } .fail, .unknown { font-weight: 600; }
svg { width: 100%; height: auto; margin-top: .4rem; } svg text { font: 11px system-ui, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } .problem { color: #b3263a; } .key span { margin-right: 1rem; white-space: nowrap; }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .3em; border-radius: 2px; }
"""


def page(report: Row) -> str:
    """The whole page, of what `reference.demo.run.Report.to_json` holds."""
    stories = cast("Sequence[Row]", report.get("stories") or [])
    counts = ", ".join(f"{report.get(key)} {word}" for key, word in _COUNTS if report.get(key) is not None)
    skipped = cast("Sequence[Row]", report.get("skipped") or [])
    left_out = "".join(
        f"<p>not played: {_text(s.get('name'))}, because {_text(s.get('reason'))}</p>" for s in skipped
    )
    runtime = _RUNTIMES.get(str(report.get("runtime")), str(report.get("runtime") or ""))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Blackstart demo</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
        f"<h1>Blackstart demo</h1>\n<p>{escape(runtime)} {escape(counts)} in {_text(report.get('seconds'))} s. Judged from outside: a "
        f"probe of the client every 5 ms, the samples on its volume, the journal, the API.</p>{left_out}\n"
        f"{_table(stories)}\n{_key()}\n"
        + "\n".join(_section(story) for story in stories)
        + "\n</body></html>\n"
    )


_RUNTIMES = {
    "process": "Clients are processes of the embedded runtime.",
    "docker": "Clients are containers of a Docker Engine.",
}
_COUNTS = (("passed", "pass"), ("failed", "fail"), ("unknown", "unknown"))


def _table(stories: Sequence[Row]) -> str:
    rows = "".join(
        f'<tr><td><a href="#{_text(s["name"])}">{_text(s["name"])}</a></td><td>{_text(s["outcome"])}</td>'
        f"<td>{_text(s['reason'] or '-')}</td>"
        f'<td class="n">{_number(s["downtime_ms"])}</td><td class="n">{_number(s["rollback_ms"])}</td>'
        f'<td class="{_text(s["verdict"])}">{_text(s["verdict"])}</td></tr>\n'
        for s in stories
    )
    return (
        '<table><tr><th>story</th><th>outcome</th><th>reason</th><th class="n">downtime ms</th>'
        f'<th class="n">rollback ms</th><th>verdict</th></tr>\n{rows}</table>'
    )


def _key() -> str:
    colours = {**PHASES, "old version answers": _OLD, "new version answers": _NEW, "nobody answers": _DOWN}
    spans = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours.items()
    )
    return f'<p class="key" style="margin-top:1rem">{spans}</p>'


def _section(story: Row) -> str:
    evidence = cast("Row", story.get("evidence") or {})
    problems = cast("Sequence[object]", evidence.get("problems") or [])
    said = "".join(f'<p class="problem">{_text(problem)}</p>' for problem in problems)
    name, verdict = _text(story["name"]), _text(story["verdict"])
    return (
        f'<section><h2 id="{name}">{name} <span class="{verdict}">{verdict}</span></h2>'
        f"<p>{_text(evidence.get('about', ''))}</p>{said}{picture(cast('Row', evidence.get('timeline') or {}))}</section>"
    )


def picture(timeline: Row) -> str:
    """The timeline as SVG; empty when nothing was seen."""
    length = float(str(timeline.get("length_ms") or 0))
    if length <= 0:
        return ""
    scale = (WIDTH - LEFT - RIGHT) / length
    stretches = {
        key: cast("Sequence[Row]", timeline.get(key) or []) for key in ("phases", "probe", "samples")
    }
    colours = _versions([*stretches["probe"], *stretches["samples"]], timeline.get("old"))
    parts = [
        _label("phase", PHASE_Y), _label("client", PROBE_Y), _label("samples", SAMPLE_Y),
        *_axis(length, scale),
        *_marks(cast("Sequence[Row]", timeline.get("marks") or []), scale),
        *(_bar(s, scale, PHASE_Y, PHASES.get(str(s["what"]), "#999")) for s in stretches["phases"]),
        *(_bar(s, scale, PROBE_Y, colours.get(str(s["what"]), _DOWN)) for s in stretches["probe"]),
        *(_bar(s, scale, SAMPLE_Y, colours.get(str(s["what"]), "#999")) for s in stretches["samples"]),
    ]  # fmt: skip
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _versions(stretches: Sequence[Row], old: object) -> dict[str, str]:
    """Colours: what ran before, any other version, and nobody."""
    seen = {str(s["what"]) for s in stretches if s["what"] != "down"}
    return {"down": _DOWN, **{what: _OLD if what == old else _NEW for what in seen}}


def _bar(stretch: Row, scale: float, y: int, colour: str) -> str:
    begin, end, what = float(str(stretch["from"])), float(str(stretch["to"])), str(stretch["what"])
    x, width = LEFT + begin * scale, max(1.2, (end - begin) * scale)
    text = ""
    if width > len(what) * LETTER + 6:
        text = f'<text x="{x + 4:.1f}" y="{y + 14}" style="fill:#fff">{escape(what)}</text>'
        if colour in ("#b8c4d6", "#f4d06f", "#f0b429", "#c9c9d2"):
            text = text.replace("fill:#fff", "fill:#1d2733")
    return (
        f"<g><title>{escape(what)}: {begin:.0f} to {end:.0f} ms ({end - begin:.0f} ms)</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>{text}</g>'
    )


def _label(what: str, y: int) -> str:
    return f'<text class="soft" x="0" y="{y + 14}">{what}</text>'


def _marks(marks: Sequence[Row], scale: float) -> list[str]:
    """What was done from outside; texts that would overlap go to the next line."""
    free = [0.0] * MARK_LINES
    found = []
    for mark in marks:
        what, x = str(mark["what"]), LEFT + float(str(mark["at"])) * scale
        line = next((n for n in range(MARK_LINES) if free[n] <= x), MARK_LINES - 1)
        width = len(what) * LETTER
        anchor, free[line] = ("start", x + width + 8) if x + width < WIDTH else ("end", x)
        y = MARK_Y + line * MARK_STEP
        found.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 3}" y2="{AXIS_Y}" stroke="#9aa7b5" stroke-dasharray="2 3"/>'
            f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(what)}</text>'
        )
    return found


def _axis(length: float, scale: float) -> list[str]:
    step = next((s for s in _STEPS if length / s <= TICKS), _STEPS[-1])
    found = [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{AXIS_Y}" y2="{AXIS_Y}" stroke="#9aa7b5"/>']
    for number in range(int(length // step) + 1):
        at = number * step
        text = f"{at / 1000:g} s" if step >= 1000 or at % 1000 == 0 else f"{at:g} ms"
        x = LEFT + at * scale
        found.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{AXIS_Y}" y2="{AXIS_Y + 4}" stroke="#9aa7b5"/>'
            f'<text class="soft" x="{x:.1f}" y="{AXIS_Y + 16}" text-anchor="middle">{text}</text>'
        )
    return found


_STEPS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000)


def _text(value: object) -> str:
    return escape(str(value))


def _number(value: object) -> str:
    return "-" if value is None else f"{value}"
