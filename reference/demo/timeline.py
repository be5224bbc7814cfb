"""What happened when, on one axis: the picture's data, as it goes into the report.

All instants are milliseconds since the story's first mark or probe; neighbours that say the same are one stretch.
"""

from __future__ import annotations

import json
from pathlib import Path

from reference.demo.bench import Bench
from reference.edge.journal import HistoryEntry

Stretch = dict[str, object]
QUIET_MS = 250.0
"""Samples farther apart than this are two stretches: nobody collected in between."""
MAX_LINES = 200_000


def timeline(bench: Bench, own: list[HistoryEntry]) -> dict[str, object]:
    """`phases`, `probe` and `samples` as stretches {from, to, what}, `marks` as {at, what}."""
    answers = bench.seen.answers
    instants = [at for at, _ in bench.marks] + [a.sent_ms for a in answers[:1]]
    if not instants:
        return {"length_ms": 0, "old": None, "phases": [], "probe": [], "samples": [], "marks": []}
    zero = min(instants)
    end = max([at for at, _ in bench.marks] + [a.answered_ms for a in answers[-1:]])
    phases: list[Stretch] = []
    for entry, later in zip(own, [*own[1:], None], strict=False):
        until = later.at_ms if later is not None else entry.at_ms
        if phases and phases[-1]["what"] == entry.phase.value:
            phases[-1]["to"] = _since(zero, until)
        elif entry.phase.value != "idle":
            phases.append(_stretch(zero, entry.at_ms, until, entry.phase.value))
    probe: list[Stretch] = []
    for answer in answers:
        what = f"{answer.version}" if answer.good else "down"
        _extend(probe, zero, answer.sent_ms, answer.answered_ms, what)
    return {
        "length_ms": _since(zero, end),
        "old": bench.begins,
        "phases": phases,
        "probe": probe,
        "samples": _samples(bench.device.samples, zero, end),
        "marks": [{"at": _since(zero, at), "what": what} for at, what in bench.marks],
    }


def _samples(path: Path, zero: float, end: float) -> list[Stretch]:
    found: list[Stretch] = []
    try:
        lines = path.read_bytes().split(b"\n")[-MAX_LINES:]
    except OSError:
        return found
    for line in lines:
        try:
            sample = json.loads(line)
            at, version = float(sample["at"]), str(sample["version"])
        except (ValueError, KeyError, TypeError):
            continue
        if zero <= at <= end:
            gap = bool(found) and _since(zero, at) - float(str(found[-1]["to"])) > QUIET_MS
            _extend(found, zero, at, at, version, fresh=gap)
    return found


def _extend(
    stretches: list[Stretch], zero: float, begin: float, end: float, what: str, *, fresh: bool = False
) -> None:
    if stretches and stretches[-1]["what"] == what and not fresh:
        stretches[-1]["to"] = _since(zero, end)
    else:
        stretches.append(_stretch(zero, begin, end, what))


def _stretch(zero: float, begin: float, end: float, what: str) -> Stretch:
    return {"from": _since(zero, begin), "to": _since(zero, end), "what": what}


def _since(zero: float, at: float) -> float:
    return round(at - zero, 1)
