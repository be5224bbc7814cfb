"""What a picture shows: the history of one device as lanes of stretches and marks on one axis. Pure.

Times are seconds since the run began. A lane is drawn by `chaos.report.svg`; `kind` names a class of the style sheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from chaos.checkers.case import Case, Missing
from chaos.checkers.evidence import gaps, stretches
from chaos.history import Event
from chaos.report.text import seconds
from chaos.result import DeviceRow, FaultRow, RunResult
from reference.core.job import JobStatus

VERSIONS = ("v0", "v1", "v2", "v3")
PACKED_FROM = 7
"""Faults from which on several share a lane."""
_TERMINAL_GOOD = frozenset({JobStatus.SUCCEEDED.value})
_OPEN = frozenset({JobStatus.QUEUED.value, JobStatus.IN_PROGRESS.value})


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch. `text` is written where there is room, `about` is shown when it is pointed at."""

    begin: float
    end: float
    text: str
    kind: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """An instant on a lane. `row`: 0 the upper half, 1 the lower."""

    t: float
    kind: str
    about: str
    row: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """An instant over all lanes, with words above."""

    t: float
    text: str
    edge: bool = False
    """Of the method itself."""


@dataclass(slots=True)
class Lane:
    """One row of the picture."""

    name: str
    bars: list[Bar] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    empty: str = ""
    """What is said where there is nothing to see."""


@dataclass(slots=True)
class Picture:
    """All lanes of one device, and from when to when."""

    device: str
    begin: float
    end: float
    zero: float
    """Where the axis begins to count: the method's beginning."""
    lanes: list[Lane]
    marks: list[Mark]
    versions: dict[str, str]
    """The class of each version that was seen."""


def picture(case: Case, result: RunResult, device: str) -> Picture:
    """The whole run of a device, from shortly before the method until everything is at rest."""
    began = case.first("run", "method-begins")
    zero = began.t if began is not None else 0.0
    end = _end(case, device, zero)
    room = max(0.02, (end - zero) * 0.03)
    versions = _versions(case, device)
    row = next((r for r in result.devices if r.device == device), None)
    lanes = [
        Lane("update phase", _phases(case, device, end), empty="no update"),
        *_faults([f for f in result.faults if f.device in ("", device)], end),
        Lane("client answers", _probe(case, device, versions), empty="not probed"),
        Lane("samples", _samples(case, device, row), empty="not read"),
        Lane("MQTT messages", ticks=_messages(case, device), empty="none seen"),
        Lane("job at the API", _api(case, device, end), empty="no job"),
        Lane("client processes", _processes(case, device), empty="not counted"),
    ]
    return Picture(device, zero - room, end + room, zero, lanes, _marks(case, device), versions)


def closer(whole: Picture, case: Case, device: str) -> Picture | None:
    """The outages alone, where they are hard to see in the whole; None where they are not, or there are none."""
    try:
        found = gaps(case, device)
    except Missing:  # The finding says so.
        return None
    if not found:
        return None
    length = found[-1].end - found[0].begin
    room = max(0.05, length * 0.4)
    begin, end = found[0].begin - room, found[-1].end + room
    if end - begin > (whole.end - whole.begin) * 0.4:
        return None
    lanes = [
        n for n in whole.lanes if not n.name.startswith("fault") or any(_meets(b, begin, end) for b in n.bars)
    ]
    return Picture(device, begin, end, whole.zero, lanes, whole.marks, whole.versions)


def _meets(bar: Bar, begin: float, end: float) -> bool:
    return bar.end >= begin and bar.begin <= end


def _end(case: Case, device: str, zero: float) -> float:
    """When the last thing happened that a picture shows."""
    last = [zero + 0.1]
    for event in ("method-ends", "healed-all", "converged", "not-converged"):
        last += [e.t for e in case.of("run", event)]
    for source, event in (("probe", "bad"), ("probe", "good"), ("phase", "durable"), ("api", "job")):
        last += [e.t for e in case.of(source, event, device)]
    return max(last)


def _versions(case: Case, device: str) -> dict[str, str]:
    seen = [s.version for s in stretches(case, device) if s.version is not None]
    begins = case.scenario.bench.begins
    names = dict.fromkeys([begins, *seen] if begins is not None and begins in seen else seen)
    return {name: VERSIONS[number % len(VERSIONS)] for number, name in enumerate(names)}


def _phases(case: Case, device: str, end: float) -> list[Bar]:
    said = case.of("phase", "durable", device) or case.of("journal", "entry", device)
    bars = []
    for event, later in _pairs(said):
        phase = str(event.data.get("phase"))
        if phase == "idle":
            continue
        until = later.t if later is not None else end
        outcome, reason = event.data.get("outcome"), event.data.get("reason")
        more = "".join(f", {part}" for part in (outcome, reason) if part)
        bars.append(_bar(event.t, until, phase.replace("_", " "), f"p-{phase}", more))
    return bars


def _probe(case: Case, device: str, versions: dict[str, str]) -> list[Bar]:
    return [
        _bar(s.begin, s.end, s.version, versions[s.version])
        if s.version is not None
        else Bar(
            s.begin, s.end, f"down {(gone := seconds(s.end - s.begin))}", "down", f"nobody answers: {gone}"
        )
        for s in stretches(case, device)
    ]


def _samples(case: Case, device: str, row: DeviceRow | None) -> list[Bar]:
    end = case.last("samples", "end", device)
    if end is None:
        return []
    data, lost = end.data, row.samples_lost if row is not None else None
    if data.get("first") is None:
        return []
    kind = "down" if lost else "samples"
    text = f"{data.get('first')} to {data.get('last')}: {lost or 'none'} lost or torn"
    broken = f", first at line {data['broken_at']}" if data.get("broken_at") is not None else ""
    ran = [s for s in stretches(case, device) if s.version is not None]
    return [Bar(ran[0].begin, end.t, text, kind, f"samples {text}{broken}")] if ran else []


def _messages(case: Case, device: str) -> list[Tick]:
    found = []
    for event in case.of("tap", "publish", device):
        kind, down = str(event.data.get("kind")), event.data.get("to") == "device"
        named = kind in ("command", "cancel", "status", "birth", "reply")
        colour = ("to-device" if down else "to-broker") if named else "to-other"
        found.append(
            Tick(event.t, colour, f"{kind} to the {'device' if down else 'broker'}", 0 if down else 1)
        )
    for name in ("connected", "disconnected"):
        found += [Tick(e.t, "to-other", name, 1) for e in case.of("tap", name, device)]
    return sorted(found, key=lambda tick: tick.t)


def _api(case: Case, device: str, end: float) -> list[Bar]:
    # That it does not answer is about all devices.
    kinds = (("job", device), *((kind, of) for kind in ("unreachable", "reachable") for of in ("", device)))
    seen = sorted((e for kind, of in kinds for e in case.of("api", kind, of)), key=lambda event: event.t)
    bars, status = [], ""
    for event, later in _pairs(seen):
        until = later.t if later is not None else end
        if event.event == "job":
            status = str(event.data.get("status"))
        if event.event == "unreachable":
            bars.append(_bar(event.t, until, "not answering", "a-away", f", {event.data.get('what') or ''}"))
        elif status:
            bars.append(_bar(event.t, until, status, _status_kind(status)))
    return _joined(bars)


def _status_kind(status: str) -> str:
    if status in _OPEN:
        return "a-open"
    return (
        "a-good" if status in _TERMINAL_GOOD else "a-bad" if status in ("FAILED", "TIMED_OUT") else "a-other"
    )


def _processes(case: Case, device: str) -> list[Bar]:
    stop = case.last("processes", "end", device)
    bars = []
    for event, later in _pairs(case.of("processes", "count", device)):
        n = event.data.get("n")
        until = later.t if later is not None else stop.t if stop is not None else event.t
        kind = "c-none" if n == 0 else "c-one" if n == 1 else "c-many"
        bars.append(_bar(event.t, until, f"{n}", kind, f", pids {event.data.get('pids')}"))
    return bars


def _faults(rows: Sequence[FaultRow], end: float) -> list[Lane]:
    """A lane for each fault; where there are many, for as many as overlap."""
    labels = list(dict.fromkeys(row.label for row in rows))
    if len(labels) < PACKED_FROM:
        return [
            Lane(
                f"fault: {label}",
                [b for r in rows if r.label == label for b in _coming(r, end, "")],
                empty="never came",
            )
            for label in labels
        ]
    lanes: list[Lane] = []
    for row in sorted(rows, key=lambda r: r.triggered_t or r.in_force_t or 0.0):
        bars = _coming(row, end, f"{row.label} ")
        free = next((lane for lane in lanes if not bars or lane.bars[-1].end <= bars[0].begin), None)
        if bars and free is not None:
            free.bars += bars
        elif bars:
            lanes.append(Lane("faults", bars))
    return lanes


def _coming(row: FaultRow, end: float, prefix: str) -> list[Bar]:
    begin = row.in_force_t if row.in_force_t is not None else row.triggered_t
    if begin is None:
        return []
    until = row.healed_t if row.healed_t is not None else end if row.in_force_t is not None else begin
    proof = row.fired or "not shown to have fired"
    about = f"{row.label}, coming {row.nth}: {proof}{f'; {row.failed}' if row.failed else ''}"
    bars = []
    if row.triggered_t is not None and begin > row.triggered_t:
        bars.append(Bar(row.triggered_t, begin, "", "lead", f"{row.label}: triggered"))
    kind = "fault" if row.fired and not row.failed else "unproved"
    lasted = seconds(until - begin) if until > begin else "at once"
    bars.append(Bar(begin, until, f"{prefix}{lasted}", kind, about))
    return bars


def _marks(case: Case, device: str) -> list[Mark]:
    found = []
    for name, words in (
        ("method-begins", "method"),
        ("method-ends", "method ends"),
        ("converged", "at rest"),
    ):
        found += [Mark(e.t, words, edge=True) for e in case.of("run", name)]
    for action in ("update", "cancel", "restart-agent", "hold", "release", "refused"):
        for event in case.of("action", action, device):
            more = {"update": event.data.get("to"), "refused": event.data.get("status")}.get(action)
            found.append(Mark(event.t, f"{action} {more}" if more else action))
    return sorted(found, key=lambda mark: mark.t)


def _pairs(events: Sequence[Event]) -> Iterable[tuple[Event, Event | None]]:
    return zip_longest(events, events[1:])


def _bar(begin: float, end: float, what: str, kind: str, more: str = "") -> Bar:
    return Bar(begin, end, what, kind, f"{what}: {seconds(max(0.0, end - begin))}{more}")


def _joined(bars: Sequence[Bar]) -> list[Bar]:
    """Neighbours that say the same are one."""
    found: list[Bar] = []
    for bar in bars:
        if found and (found[-1].text, found[-1].kind) == (bar.text, bar.kind):
            found[-1] = _bar(found[-1].begin, bar.end, bar.text, bar.kind)
        else:
            found.append(bar)
    return found
