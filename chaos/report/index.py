"""The page of all runs: one row each, which faults fired, what was skipped and why, and what an earlier report said."""

from __future__ import annotations

from collections.abc import Mapping

from chaos.report.compared import Change, Compared, worst
from chaos.report.style import badge, card, page, table
from chaos.report.text import day_and_time, esc, ms, plural, seconds
from chaos.result import Report, RunResult
from chaos.verdict import Ended, Verdict

_COUNTED = (
    ("passed", Ended.PASS), ("failed", Ended.FAIL), ("unknown", Ended.UNKNOWN), ("skipped", Ended.SKIPPED),
)  # fmt: skip
NOTABLE_MS = 50
"""Differences of a measure that are worth a colour."""


def index_page(report: Report, compared: Compared | None, links: Mapping[int, str]) -> str:
    """The whole page. `links`: from a run's place in the report to its own page."""
    parts = [_head(report), _runs(report, links), _skipped(report), _fired(report), _compared(compared)]
    title = f"Chaos: {report.count(Ended.PASS)} passed, {report.count(Ended.FAIL)} failed"
    return page(title, "\n".join(part for part in parts if part))


def _head(report: Report) -> str:
    worst_end = next((e for e in (Ended.FAIL, Ended.UNKNOWN) if report.count(e)), Ended.PASS)
    ended = worst_end if report.count(Ended.PASS) or worst_end is not Ended.PASS else Ended.UNKNOWN
    began = min((r.began_wall_ms for r in report.runs if r.began_wall_ms), default=0.0)
    counts = [(what, kind, report.count(kind)) for what, kind in _COUNTED]
    cards = [card(what, f"{n}", kind.value if n else "") for what, kind, n in counts]
    cards.append(card("faults fired", f"{sum(report.faults_fired().values())}"))
    cards.append(card("took", seconds(report.seconds)))
    versions = ", ".join(sorted({r.version for r in report.runs if r.version}))
    machines = "; ".join(sorted({r.machine for r in report.runs if r.machine}))
    about = ", ".join(
        part for part in (day_and_time(began), f"Blackstart {versions}" if versions else "", machines) if part
    )
    return (
        f'<header><h1>Chaos report {badge(ended.value)}</h1><p class="soft">{esc(about)}</p></header>'
        f'<ul class="cards" aria-label="Summary">{"".join(cards)}</ul>'
    )


def _runs(report: Report, links: Mapping[int, str]) -> str:
    heads = [
        ("scenario", False), ("verdict", False), ("faults fired", True), ("downtime", True), ("rollback", True),
        ("took", True),
    ]  # fmt: skip
    rows = [
        _row(run, links.get(n, "")) for n, run in enumerate(report.runs) if run.ended is not Ended.SKIPPED
    ]
    if not rows:
        return '<p class="box">Nothing was played.</p>'
    caption = "Downtime and rollback of the worst device"
    return f"<section><h2>{plural(len(rows), 'run')}</h2>{table(caption, heads, rows)}</section>"


def _row(run: RunResult, link: str) -> str:
    fired = sum(bool(f.fired) and not f.failed for f in run.faults)
    name = f'<a href="{esc(link)}">{esc(run.name)}</a>' if link else esc(run.name)
    mark = "" if run.ended is Ended.PASS else f' class="{run.ended.value}"'
    return (
        f'<tr{mark}><th scope="row">{name}<br/><small class="soft">{esc(run.title)}</small>{_why(run)}</th>'
        f'<td>{badge(run.ended.value)}</td><td class="n">{fired} of {len(run.faults)}</td>'
        f'<td class="n">{esc(ms(worst(d.downtime_ms for d in run.devices)))}</td>'
        f'<td class="n">{esc(ms(worst(d.rollback_ms for d in run.devices)))}</td>'
        f'<td class="n">{esc(seconds(run.seconds))}</td></tr>'
    )


def _why(run: RunResult) -> str:
    """The first thing that was wrong; the run's own page has all."""
    if run.ended is Ended.PASS:
        return ""
    wanted = Verdict.FAIL if run.ended is Ended.FAIL else Verdict.UNKNOWN
    first = next((f for f in run.findings if f.verdict is wanted), None)
    said = f"{first.checker}: {first.measured}" if first is not None else run.reason
    return f"<br/><small>{esc(said)}</small>" if said else ""


def _skipped(report: Report) -> str:
    rows = [
        f'<tr><th scope="row">{esc(run.name)}</th><td>{esc(run.reason)}</td></tr>'
        for run in report.runs
        if run.ended is Ended.SKIPPED
    ]
    heads = [("scenario", False), ("why", False)]
    return (
        f"<section><h2>Not played</h2>{table('What is missing here', heads, rows)}</section>" if rows else ""
    )


def _fired(report: Report) -> str:
    came: dict[str, int] = {}
    used: dict[str, set[str]] = {}
    for run in report.runs:
        for row in run.faults:
            came[row.fault] = came.get(row.fault, 0) + 1
            used.setdefault(row.fault, set()).add(run.name)
    fired = report.faults_fired()
    rows = [
        f'<tr{"" if fired.get(fault, 0) == came[fault] else _MISSED}><th scope="row">{esc(fault)}</th>'
        f'<td class="n">{fired.get(fault, 0)}</td><td class="n">{came[fault]}</td><td class="n">{len(used[fault])}</td></tr>'
        for fault in sorted(came)
    ]
    heads = [("fault", False), ("fired", True), ("comings", True), ("runs", True)]
    caption = "How often each fault was shown to have happened"
    return f"<section><h2>Faults</h2>{table(caption, heads, rows)}</section>" if rows else ""


_MISSED = ' class="unknown"'


# ---- an earlier report


def _compared(compared: Compared | None) -> str:
    if compared is None:
        return ""
    if compared.problem:
        return f'<section class="box"><h2>Compared with an earlier report</h2><p>{esc(compared.problem)}</p></section>'
    before = ", ".join(f"{n} {how}" for how, n in compared.earlier.items() if n)
    named = "".join(
        f"<p><strong>{what}:</strong> {', '.join(esc(name) for name in names)}</p>"
        for what, names in (("New", compared.new), ("Not there any more", compared.vanished))
        if names
    )
    heads = [
        ("scenario", False), ("before", False), ("now", False), ("downtime before", True), ("now", True),
        ("difference", True), ("rollback before", True), ("now", True), ("difference", True),
    ]  # fmt: skip
    order = sorted(compared.both, key=lambda c: (not c.changed, -abs(_difference(c) or 0), c.name))
    body = (
        table("Those whose verdict changed come first", heads, [_change_row(c) for c in order])
        if order
        else ""
    )
    changed = plural(len(compared.verdicts), "verdict") + " changed"
    return f'<section><h2>Compared with an earlier report: {changed}</h2><p class="soft">Before: {esc(before)}.</p>{named}{body}</section>'


def _difference(change: Change) -> int | None:
    return _minus(change.downtime_now_ms, change.downtime_before_ms)


def _minus(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def _change_row(change: Change) -> str:
    mark = (
        f' class="{change.now.value}"' if change.changed and change.now in (Ended.FAIL, Ended.UNKNOWN) else ""
    )
    return (
        f'<tr{mark}><th scope="row">{esc(change.name)}</th><td>{badge(change.before.value)}</td>'
        f"<td>{badge(change.now.value)}</td>"
        f"{_measure(change.downtime_before_ms, change.downtime_now_ms)}"
        f"{_measure(change.rollback_before_ms, change.rollback_now_ms)}</tr>"
    )


def _measure(before: int | None, now: int | None) -> str:
    difference = _minus(now, before)
    words = "–" if difference is None else f"{'+' if difference > 0 else ''}{ms(difference)}"
    kind = ""
    if difference is not None and abs(difference) >= NOTABLE_MS:
        kind = " more" if difference > 0 else " less"
    return f'<td class="n">{esc(ms(before))}</td><td class="n">{esc(ms(now))}</td><td class="n{kind}">{esc(words)}</td>'
