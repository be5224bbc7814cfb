"""The report of one run for people: one self-contained page that needs nothing from elsewhere, and no script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence

from chaos.checkers.case import Case
from chaos.history import Event, History
from chaos.report import lanes
from chaos.report.style import badge, card, page, table
from chaos.report.svg import svg
from chaos.report.text import day_and_time, esc, ms, plural, seconds, short
from chaos.result import FaultRow, RunResult
from chaos.scenario.model import Scenario
from chaos.verdict import Finding, Verdict
from reference.core.model import Phase

OPEN_DEVICES = 3
"""Devices whose pictures are shown at once; the others' are folded."""
MOST_EVENTS = 400
NAMED = 3
_QUIET = frozenset({"tap", "front"})
"""Sources that are too talkative for the list of events."""
_ORDER = {Verdict.FAIL: 0, Verdict.UNKNOWN: 1, Verdict.PASS: 2}


def run_page(result: RunResult, history: History, scenario: Scenario, files: Sequence[str]) -> str:
    """The whole page. `files`: names of what lies beside it."""
    case = Case(scenario, history, tuple(result.faults))
    parts = [
        _head(result),
        _trouble(result),
        _cards(result),
        _pictures(case, result),
        _expectations(result.findings),
        _faults(result),
        _devices(result),
        _again(result),
        _events(case),
        _about(result, files),
    ]
    return page(f"{result.name}: {result.ended.value}", "\n".join(part for part in parts if part))


def _head(result: RunResult) -> str:
    proves = f"<p><strong>Proves:</strong> {esc(result.proves)}</p>" if result.proves else ""
    description = f'<p class="soft">{esc(result.description)}</p>' if result.description else ""
    tags = "".join(f"<li>{esc(tag)}</li>" for tag in result.tags)
    return (
        f"<header><h1>{esc(result.title)} {badge(result.ended.value)}</h1>"
        f'<p class="soft"><code>{esc(result.name)}</code> on the {esc(result.runtime)} runtime, seed {result.seed}'
        f"{f', {day_and_time(result.began_wall_ms)}' if result.began_wall_ms else ''}</p>{proves}{description}"
        f"{f'<ul class=tags>{tags}</ul>' if tags else ''}</header>".replace("class=tags", 'class="tags"')
    )


def _trouble(result: RunResult) -> str:
    """What was not as it should be, at the top."""
    bad = [f for f in result.findings if f.verdict is not Verdict.PASS]
    if not bad and not result.reason:
        return ""
    alike: dict[tuple[str, str, Verdict], list[Finding]] = {}
    for finding in sorted(bad, key=lambda f: _ORDER[f.verdict]):
        alike.setdefault((finding.checker, finding.expected, finding.verdict), []).append(finding)
    rows = "".join(_wrong(findings) for findings in alike.values())
    why = f"<p>{esc(result.reason)}</p>" if result.reason else ""
    kind = "box fail" if any(f.verdict is Verdict.FAIL for f in bad) else "box"
    return f'<section class="{kind}" aria-label="What was wrong">{why}{f"<ul>{rows}</ul>" if rows else ""}</section>'


def _wrong(findings: Sequence[Finding]) -> str:
    """One expectation that was not met, on one device or on several."""
    first = findings[0]
    names = ", ".join(f.device for f in findings[:NAMED] if f.device)
    more = f" and {len(findings) - NAMED} more" if len(findings) > NAMED else ""
    said = list(dict.fromkeys(f.measured for f in findings))
    others = f"; and {len(said) - NAMED} others" if len(said) > NAMED else ""
    return (
        f"<li>{badge(first.verdict.value)} <strong>{esc(first.checker)}</strong>"
        f"{f' on {esc(names)}{more}' if names else ''}: {esc('; '.join(said[:NAMED]))}{others} "
        f'<span class="soft">(expected: {esc(first.expected)})</span></li>'
    )


def _cards(result: RunResult) -> str:
    fired, all_ = sum(bool(f.fired) and not f.failed for f in result.faults), len(result.faults)
    lost = [d.samples_lost for d in result.devices if d.samples_lost is not None]
    cards = [
        card("verdict", result.ended.value, result.ended.value),
        card(
            "expectations met",
            f"{sum(f.verdict is Verdict.PASS for f in result.findings)} of {len(result.findings)}",
        ),
        card("faults shown to have fired", f"{fired} of {all_}"),
        card("downtime" + _worst(result), ms(_most(d.downtime_ms for d in result.devices))),
        card("rollback" + _worst(result), ms(_most(d.rollback_ms for d in result.devices))),
        card("samples lost", f"{sum(lost)}" if lost else "–"),
        card("took", seconds(result.seconds)),
    ]
    return f'<ul class="cards" aria-label="Summary">{"".join(cards)}</ul>'


def _worst(result: RunResult) -> str:
    return ", worst device" if len(result.devices) > 1 else ""


def _most(values: Iterable[int | None]) -> int | None:
    return max((v for v in values if v is not None), default=None)


# ---- pictures


def _pictures(case: Case, result: RunResult) -> str:
    if not case.devices:
        return ""
    shown = [_device_picture(case, result, device, n) for n, device in enumerate(case.devices)]
    first, folded = shown[:OPEN_DEVICES], shown[OPEN_DEVICES:]
    rest = (
        f"<details><summary>{plural(len(folded), 'more device')}</summary>{''.join(folded)}</details>"
        if folded
        else ""
    )
    return f"<section><h2>What happened, on one axis</h2>{_key()}{''.join(first)}{rest}</section>"


def _device_picture(case: Case, result: RunResult, device: str, n: int) -> str:
    whole = lanes.picture(case, result, device)
    near = lanes.closer(whole, case, device)
    versions = ", ".join(whole.versions) or "no version"
    about = f"{device}: update phases, faults, {versions} as the probe saw them, samples, messages, job, processes"
    parts = [
        f"<h3>{esc(device)}</h3>",
        f'<figure><div class="wide">{svg(whole, 2 * n, about)}</div></figure>',
    ]
    if near is not None:
        parts.append(
            f"<figure><figcaption>The outages of {esc(device)}, closer</figcaption>"
            f'<div class="wide">{svg(near, 2 * n + 1, f"The outages of {device}, closer")}</div></figure>'
        )
    return "".join(parts)


def _key() -> str:
    """What the colours mean that no word in the picture says."""
    swatches = [
        ("down", "nobody answers"), ("lead", "fault triggered"), ("fault", "fault in force, and shown to have fired"),
        ("unproved", "fault not shown to have fired"), *((f"p-{p.value}", p.value.replace("_", " ")) for p in Phase),
    ]  # fmt: skip
    items = "".join(
        f'<li><svg viewBox="0 0 14 11" aria-hidden="true"><rect class="{kind}" x="1" y="1" width="12" height="9"/></svg>'
        f"{words}</li>"
        for kind, words in swatches
        if kind != "p-idle"
    )
    lines = "".join(
        f'<li><svg viewBox="0 0 14 11" aria-hidden="true"><line class="{kind}" x1="7" x2="7" y1="{a}" y2="{b}" '
        f'stroke-width="2"/></svg>{words}</li>'
        for kind, words, a, b in (
            ("to-device", "message to the device", 0, 6), ("to-broker", "message from it", 5, 11),
            ("to-other", "other", 2, 9),
        )
    )  # fmt: skip
    return f'<p class="soft">Seconds since the method began. Point at anything to read it.</p><ul class="key">{items}{lines}</ul>'


# ---- tables


def _expectations(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    rows = [_finding_row(device, f) for device, f in _folded(findings)]
    heads = [
        ("expectation", False),
        ("expected", False),
        ("measured", False),
        ("device", False),
        ("verdict", False),
    ]
    caption = "What was expected, what was measured, and what that comes to"
    return f"<section><h2>Expectations</h2>{table(caption, heads, rows)}</section>"


def _folded(findings: Sequence[Finding]) -> list[tuple[str, Finding]]:
    """Findings with their devices; those of one checker that passed on several devices are one row."""
    found: list[tuple[str, Finding]] = []
    good: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.device and finding.verdict is Verdict.PASS:
            good.setdefault((finding.checker, finding.expected), []).append(finding)
    for finding in findings:
        alike = good.get((finding.checker, finding.expected), [])
        if len(alike) < NAMED or finding not in alike:
            found.append((finding.device, finding))
        elif finding is alike[0]:
            said = list(dict.fromkeys(f.measured for f in alike))
            more = f"; and {len(said) - NAMED} others" if len(said) > NAMED else ""
            words = f"{'; '.join(said[:NAMED])}{more}"
            one = Finding(finding.checker, finding.expected, words, Verdict.PASS)
            found.append((f"{len(alike)} devices", one))
    return found


def _finding_row(device: str, finding: Finding) -> str:
    kind = finding.verdict.value
    mark = "" if finding.verdict is Verdict.PASS else f' class="{kind}"'
    return (
        f'<tr{mark}><th scope="row" class="nowrap">{esc(finding.checker)}</th><td class="said">{esc(finding.expected)}</td>'
        f'<td>{esc(finding.measured)}</td><td class="nowrap">{esc(device)}</td><td>{badge(kind)}</td></tr>'
    )


def _faults(result: RunResult) -> str:
    if not result.faults:
        return ""
    heads = [
        ("fault", False), ("coming", True), ("where", False), ("in force", True), ("for", True), ("lag", True),
        ("what shows that it fired", False),
    ]  # fmt: skip
    rows = [_fault_row(row) for row in result.faults]
    caption = "Each coming of each fault. Times are seconds since the run began; lag: from its trigger to its being in force"
    return f"<section><h2>Faults</h2>{table(caption, heads, rows)}</section>"


def _fault_row(row: FaultRow) -> str:
    good = bool(row.fired) and not row.failed
    name = row.label if row.label == row.fault else f"{row.label} ({row.fault})"
    where = ", ".join(part for part in (row.link, row.device) if part) or "–"
    lasted = _lasted(row)
    proof = row.fired or "nothing shows that it fired"
    failed = f" <strong>{esc(row.failed)}</strong>" if row.failed else ""
    mark = "" if good else ' class="unknown"'
    return (
        f'<tr{mark}><th scope="row">{esc(name)}</th><td class="n">{row.nth}</td><td>{esc(where)}</td>'
        f'<td class="n">{"–" if row.in_force_t is None else f"{row.in_force_t:.3f} s"}</td><td class="n">{esc(lasted)}</td>'
        f'<td class="n">{"–" if row.lag_ms is None else f"{row.lag_ms:.0f} ms"}</td><td>{esc(proof)}{failed}</td></tr>'
    )


def _lasted(row: FaultRow) -> str:
    if row.healed_t is None or row.in_force_t is None:
        return "–"
    return seconds(row.healed_t - row.in_force_t) if row.healed_t > row.in_force_t else "at once"


def _devices(result: RunResult) -> str:
    if not result.devices:
        return ""
    heads = [
        ("device", False), ("outcome", False), ("status", False), ("reason", False), ("runs in the end", False),
        ("downtime", True), ("rollback", True), ("samples lost", True),
    ]  # fmt: skip
    rows = [
        f'<tr><th scope="row">{esc(d.device)}</th><td>{esc(d.outcome or "–")}</td><td>{esc(d.status or "–")}</td>'
        f'<td>{esc(d.reason or "–")}</td><td>{esc(d.runs or "–")}</td><td class="n">{esc(ms(d.downtime_ms))}</td>'
        f'<td class="n">{esc(ms(d.rollback_ms))}</td>'
        f'<td class="n">{"–" if d.samples_lost is None else d.samples_lost}</td></tr>'
        for d in result.devices
    ]
    return f"<section><h2>Devices</h2>{table('What each device lived through', heads, rows)}</section>"


def command(result: RunResult) -> str:
    """The command line that plays it again."""
    return shlex.join(["blackstart", "chaos", "run", result.file or result.name, "--seed", f"{result.seed}"])


def _again(result: RunResult) -> str:
    plan = esc(json.dumps(result.plan, indent=1, default=str))
    drawn = (
        f"<details><summary>What was drawn from the seed</summary><pre>{plan}</pre></details>"
        if result.plan
        else ""
    )
    return f"<section><h2>Run it again</h2><pre><code>{esc(command(result))}</code></pre>{drawn}</section>"


def _events(case: Case) -> str:
    """The history in words, without what is too talkative."""
    wanted = [e for e in case.history.events if e.source not in _QUIET]
    if not wanted:
        return ""
    rows = [_event_row(event) for event in wanted[:MOST_EVENTS]]
    left = f" The first {MOST_EVENTS} of {len(wanted)}." if len(wanted) > MOST_EVENTS else ""
    heads = [("s", True), ("source", False), ("event", False), ("device", False), ("data", False)]
    caption = f"Seconds since the run began. Without messages and requests.{left}"
    return f"<details><summary>The history, line by line</summary>{table(caption, heads, rows)}</details>"


def _event_row(event: Event) -> str:
    data = short(json.dumps(dict(event.data), default=str), 300) if event.data else ""
    return (
        f'<tr><td class="n">{event.t:.3f}</td><td>{esc(event.source)}</td><td>{esc(event.event)}</td>'
        f"<td>{esc(event.device)}</td><td><code>{esc(data)}</code></td></tr>"
    )


def _about(result: RunResult, files: Sequence[str]) -> str:
    links = ", ".join(f'<a href="{esc(name)}">{esc(name)}</a>' for name in files)
    rows = [
        ("scenario", esc(result.file)), ("Blackstart", esc(result.version)), ("machine", esc(result.machine)),
        ("set up in", esc(ms(result.setup_ms))), ("taken down in", esc(ms(result.teardown_ms))),
        ("logs", f"<code>{esc(result.folder)}</code>" if result.folder else ""), ("beside this", links),
    ]  # fmt: skip
    body = "".join(f"<dt>{what}</dt><dd>{value}</dd>" for what, value in rows if value)
    return f"<footer><h2>Machine and versions</h2><dl>{body}</dl></footer>"
