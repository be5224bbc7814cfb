"""A run in the form of Chaos Toolkit's experiment journal, for tools that read those.

The fields are those of its specification ("Experiment Journal"): what was run, the steady state before and after, each
activity with its status, times and output, the rollbacks. What we expect is the steady state after: it deviated when an
expectation was not met. Our own verdict, which has a third value, is under `blackstart`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence

from chaos.checkers.case import Case
from chaos.history import Event, History
from chaos.report.text import moment
from chaos.result import FaultRow, RunResult
from chaos.scenario.model import Scenario
from chaos.verdict import Ended, Verdict

Body = dict[str, object]
_STATUS = {Ended.PASS: "completed", Ended.FAIL: "failed", Ended.UNKNOWN: "failed", Ended.SKIPPED: "aborted"}


def journal(result: RunResult, history: History, scenario: Scenario) -> bytes:
    """The file's content."""
    case = Case(scenario, history, tuple(result.faults))
    times = _Times(result, history)
    end = max((e.t for e in history.events), default=result.seconds)
    after_method = _after_method(case)
    body: Body = {
        "chaoslib-version": "1.0.0",
        "platform": platform.platform(),
        "node": result.machine or "localhost",
        "experiment": _experiment(result, scenario),
        "start": times.at(0.0),
        "status": _STATUS[result.ended],
        "deviated": result.ended is Ended.FAIL,
        "steady_states": _steady(case, result, times, end),
        "run": _run(case, result, times, after_method, end),
        "rollbacks": [_did(e, times) for e in _actions(case) if e.t >= after_method],
        "end": times.at(end),
        "duration": round(end, 3),
        "blackstart": {"verdict": result.ended.value, "reason": result.reason, "seed": result.seed},
    }
    return json.dumps(body, indent=1, default=str).encode() + b"\n"


class _Times:
    """From seconds of the run to RFC 3339."""

    def __init__(self, result: RunResult, history: History) -> None:
        first = next(iter(history.events), None)
        self._zero_ms = first.wall_ms - first.t * 1000 if first is not None else result.began_wall_ms

    def at(self, t: float) -> str:
        """An instant."""
        return moment(self._zero_ms + t * 1000)

    def span(self, begin: float, end: float) -> Body:
        """`start`, `end` and `duration` of an activity."""
        stop = max(begin, end)
        return {"start": self.at(begin), "end": self.at(stop), "duration": round(stop - begin, 6)}


def _experiment(result: RunResult, scenario: Scenario) -> Body:
    """The scenario, as an experiment: its own file is under `extensions`."""
    hypothesis = scenario.steady_state_hypothesis
    method = [_activity(str(i.get("label")), "action", str(i.get("what")), i) for i in result.plan]
    own = {
        "name": "blackstart",
        "file": result.file,
        "scenario": scenario.model_dump(mode="json", by_alias=True),
    }
    return {
        "version": "1.0.0",
        "title": result.title,
        "description": result.description or result.proves or result.title,
        "tags": list(result.tags),
        "steady-state-hypothesis": {
            "title": hypothesis.title,
            "probes": [
                {**_activity(p.value, "probe", p.value, {}), "tolerance": True} for p in hypothesis.probes
            ],
        },
        "method": method,
        "rollbacks": [
            _activity(a.action, "action", a.action, a.model_dump(mode="json")) for a in scenario.rollbacks
        ],
        "extensions": [own],
    }


def _activity(name: str, kind: str, function: str, arguments: Mapping[str, object]) -> Body:
    provider = {"type": "python", "module": "chaos", "func": function, "arguments": dict(arguments)}
    return {"type": kind, "name": name, "provider": provider}


# ---- the steady state


def _steady(case: Case, result: RunResult, times: _Times, end: float) -> Body:
    found: Body = {"before": None, "after": None, "during": []}
    seen = case.last("run", "steady")
    if seen is not None:
        probes = seen.data.get("probes")
        rows = [
            _probe(name, True, not wrong, str(wrong or "held"), times.span(seen.t, seen.t))
            for name, wrong in (probes.items() if isinstance(probes, dict) else ())
        ]
        found["before"] = {"steady_state_met": seen.data.get("holds") is True, "probes": rows}
    if result.findings:
        rows = [
            _probe(
                f"{f.checker} on {f.device}" if f.device else f.checker, f.expected, f.verdict is Verdict.PASS, f.measured,
                times.span(end, end), status="failed" if f.verdict is Verdict.UNKNOWN else "succeeded",
            )
            for f in result.findings
        ]  # fmt: skip
        found["after"] = {"steady_state_met": result.ended is Ended.PASS, "probes": rows}
    return found


def _probe(
    name: str, tolerance: object, met: bool, output: str, span: Body, status: str = "succeeded"
) -> Body:
    activity = {**_activity(name, "probe", name, {}), "tolerance": tolerance}
    return {"activity": activity, "output": output, "status": status, **span, "tolerance_met": met}


# ---- the method


def _after_method(case: Case) -> float:
    ended = case.last("run", "method-ends")
    return ended.t if ended is not None else float("inf")


def _actions(case: Case) -> Sequence[Event]:
    return [event for event in case.history.events if event.source == "action"]


def _run(case: Case, result: RunResult, times: _Times, until: float, end: float) -> list[Body]:
    """Faults and actions, in the order in which they began."""
    since = case.first("run", "method-begins")
    begun = since.t if since is not None else 0.0
    found = [(_begin(f, begun), _came(f, times, begun, min(until, end))) for f in result.faults]
    found += [(e.t, _did(e, times)) for e in _actions(case) if begun <= e.t < until]
    return [body for _, body in sorted(found, key=lambda pair: pair[0])]


def _begin(row: FaultRow, otherwise: float) -> float:
    return next((t for t in (row.triggered_t, row.in_force_t) if t is not None), otherwise)


def _came(row: FaultRow, times: _Times, begun: float, end: float) -> Body:
    begin = _begin(row, begun)
    came = row.triggered_t is not None or row.in_force_t is not None
    stop = row.healed_t if row.healed_t is not None else end if came else begin
    good = bool(row.fired) and not row.failed
    arguments = {"fault": row.fault, "nth": row.nth, "device": row.device, "link": row.link}
    body: Body = {
        "activity": _activity(row.label, "action", row.fault, arguments),
        "output": row.fired or None,
        "status": "succeeded" if good else "failed",
        **times.span(begin, stop),
    }
    return {**body, "exception": row.failed or "not shown to have fired"} if not good else body


def _did(event: Event, times: _Times) -> Body:
    refused = event.event == "refused"
    name = f"{event.event} {event.data.get('to')}" if event.event == "update" else event.event
    arguments = {"device": event.device, **event.data}
    body: Body = {
        "activity": _activity(name, "action", event.event, arguments),
        "output": json.dumps(dict(event.data), default=str),
        "status": "failed" if refused else "succeeded",
        **times.span(event.t, event.t),
    }
    return {**body, "exception": f"the API answered {event.data.get('status')}"} if refused else body
