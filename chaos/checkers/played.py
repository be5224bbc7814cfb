"""Whether the run can be judged at all: the steady state held, the method was played, every fault fired."""

from __future__ import annotations

from chaos.checkers.case import Case, Missing, Told, many, once
from chaos.checkers.evidence import orders, shown, unwatched
from chaos.result import FaultRow
from chaos.verdict import Finding, Verdict

MOST_NAMED = 3
"""Comings of a fault that a finding names one by one."""


@once("steady", "the steady state holds before the method")
def steady(case: Case) -> Told:
    """A steady state that did not hold says nothing about the product: unknown, not fail."""
    found = case.last("run", "steady")
    if found is None:
        raise Missing("the steady state was not looked at")
    probes = found.data.get("probes")
    wrong = {n: w for n, w in probes.items() if w} if isinstance(probes, dict) else {}
    said = "; ".join(f"{name}: {what}" for name, what in wrong.items())
    if found.data.get("holds") is True and not wrong:
        return Told(
            Verdict.PASS, f"held: {', '.join(probes)}" if isinstance(probes, dict) and probes else "held"
        )
    return Told(Verdict.UNKNOWN, said or "did not hold")


@once("observed", lambda case: f"{many(case.scenario.bench.devices, 'device')} observed to the end")
def observed(case: Case) -> Told:
    """Every device was watched by its probe until the end, and all the time."""
    why = {device: _unobserved(case, device) for device in case.devices}
    watched = sum(not what for what in why.values())
    ok = watched == len(why) == case.scenario.bench.devices
    said = "".join(f"; {device}: {what}" for device, what in why.items() if what)
    return Told(
        Verdict.PASS if ok else Verdict.UNKNOWN, f"{many(watched, 'device')} observed to the end{said}"
    )


def _unobserved(case: Case, device: str) -> str:
    """Why the device was not observed to the end; empty: it was."""
    if (died := case.last("probe", "died", device)) is not None:
        return f"the probe died of {died.data.get('what')}"
    if case.last("probe", "end", device) is None:
        return "the probe has left no end"
    return unwatched(case, device)


@once("method-played", "the method was played, and every job ended within the time limit")
def method_played(case: Case) -> Told:
    """What could not be done makes it unknown; running out of time is a failure only where a job did not end in it."""
    found = case.last("run", "method-ends")
    if found is None:
        raise Missing("the method did not come to an end")
    why, problems = str(found.data.get("why")), found.data.get("problems")
    said = [str(p) for p in problems] if isinstance(problems, list | tuple) else []
    what = "; ".join([*said, *([str(w)] if (w := found.data.get("what")) else [])])
    if why == "done":
        return Told(Verdict.UNKNOWN, what) if what else Told(Verdict.PASS, "played to its end")
    if why != "time-limit":
        return Told(Verdict.UNKNOWN, f"{why}: {what}" if what else why)
    late = [text for device in case.devices for text in _open_jobs(case, device, found.t)]
    if late:
        return Told(Verdict.FAIL, f"{case.scenario.time_limit} ms passed; {'; '.join(late)}")
    return Told(Verdict.UNKNOWN, f"{case.scenario.time_limit} ms passed{': ' if what else ''}{what}")


def _open_jobs(case: Case, device: str, t: float) -> list[str]:
    """The device's last job, where it had not ended at `t`."""
    asked = [order for order in orders(case, device) if order.t <= t]
    if not asked:
        return []
    known = [job for at, job in shown(case, device) if job.id == asked[-1].job_id and at <= t]
    if not known:
        return [f"{device}: job {asked[-1].job_id} was not shown"]
    return [] if known[-1].status.terminal else [f"{device}: {known[-1].status.value}"]


def faults_fired(case: Case) -> list[Finding]:
    """Every planned coming of every fault is shown to have happened; a finding for each fault of the method."""
    return [
        _fired(label, times, [f for f in case.faults if f.label == label]) for label, times in _planned(case)
    ]


def _planned(case: Case) -> list[tuple[str, int]]:
    if case.plan:
        return [(item.label, item.times) for item in case.plan if item.is_fault]
    return [(use.label, use.repeat.times if use.repeat else 1) for use in case.scenario.faults]


def _fired(label: str, times: int, rows: list[FaultRow]) -> Finding:
    expected = f"{label} fires" if times == 1 else f"{label} fires {times} times"
    good = {row.nth for row in rows if row.fired and not row.failed}
    bad = [f"{row.nth}: {row.failed}" for row in rows if row.failed]
    good -= {row.nth for row in rows if row.failed or not row.fired}
    count = len(good & set(range(1, times + 1)))
    if count == times:
        proofs = [row.fired for row in sorted(rows, key=lambda row: row.nth)]
        more = f"; and {len(proofs) - MOST_NAMED} more" if len(proofs) > MOST_NAMED else ""
        said = f"{'; '.join(proofs[:MOST_NAMED])}{more}"
        return Finding("faults-fired", expected, said, Verdict.PASS)
    why = f" ({'; '.join(bad[:MOST_NAMED])})" if bad else ""
    return Finding("faults-fired", expected, f"{count} of {times} shown to have fired{why}", Verdict.UNKNOWN)


def fault_rows(case: Case) -> list[FaultRow]:
    """The comings of the faults as the history tells them, for whoever kept no rows; in the order of their triggers."""
    links = {use.label: str(use.link or "") for use in case.scenario.faults}
    rows: dict[tuple[str, int], FaultRow] = {}
    for event in case.history.of("fault"):
        label, nth = str(event.data.get("label")), event.data.get("nth")
        if not isinstance(nth, int):
            continue
        row = rows.setdefault((label, nth), FaultRow(label, "", nth, event.device, links.get(label, "")))
        row.fault = str(event.data.get("fault") or row.fault)
        _tell(row, event.event, event.t, event.data)
    return list(rows.values())


def _tell(row: FaultRow, event: str, t: float, data: object) -> None:
    given = data if isinstance(data, dict) else {}
    if event == "triggered":
        row.triggered_t = t
    elif event == "in-force":
        row.in_force_t = t
        lag = given.get("lag_ms")
        row.lag_ms = float(lag) if isinstance(lag, int | float) else None
    elif event == "healed":
        row.healed_t = t
    elif event == "fired":
        row.fired = str(given.get("how") or "")
    elif event == "failed":
        row.failed = str(given.get("what") or "failed")
