"""What the client lived through, as its callers see it: outages, rollback, samples, processes."""

from __future__ import annotations

from chaos.checkers.case import Case, Missing, Told, each_device, held, number
from chaos.checkers.evidence import (
    NeverBack,
    blind_ms,
    downtime_ms,
    gaps,
    last_job,
    orders,
    rollback_ms,
    seen_down_ms,
    stretches,
    unwatched,
)
from chaos.scenario.model import Handover
from chaos.verdict import Verdict
from reference.core.model import Outcome

_UNBOUND = "measured, no bound"


def _bound(most: int | None) -> str:
    return _UNBOUND if most is None else f"at most {most} ms"


@each_device("downtime", lambda case: _bound(case.scenario.expect.downtime))
def downtime(case: Case, device: str) -> Told:
    """All outages together: each from the sending of the first failed probe to the arrival of the first good answer.

    Where nobody asked for a while only what was seen to be too long counts.
    """
    took, most = downtime_ms(case, device), case.scenario.expect.downtime
    if dark := unwatched(case, device):
        if most is not None and (sure := seen_down_ms(case, device)) > most:
            return Told(Verdict.FAIL, f"{sure} ms at least; {dark}")
        raise Missing(dark)
    if took is None:
        return Told(Verdict.PASS, "nothing ran before, and nothing came")
    outages = gaps(case, device)
    longest = max((round((g.end - g.begin) * 1000) for g in outages), default=0)
    several = f" in {len(outages)} outages, the longest {longest} ms" if len(outages) > 1 else ""
    still = stretches(case, device)[-1].version is None and bool(outages)
    return held(most is None or took <= most, f"{took} ms{several}{', not back in the end' if still else ''}")


@each_device("rollback", lambda case: _bound(case.scenario.expect.rollback))
def rollback(case: Case, device: str) -> Told:
    """From the rollback's being journaled to the old version's first good answer."""
    most = case.scenario.expect.rollback
    case.end("probe", device)
    job = last_job(case, device)
    rolled_back = (job or {}).get("outcome") == Outcome.ROLLED_BACK.value
    try:
        took = rollback_ms(case, device)
    except NeverBack as never:
        return held(most is None and not rolled_back, str(never))
    if took is not None:
        if most is not None and took > most >= took - blind_ms(case, device):
            raise Missing(f"{took} ms; {unwatched(case, device)}")
        return held(most is None or took <= most, f"{took} ms")
    if rolled_back and case.scenario.bench.begins is not None:
        raise Missing("the API shows a rollback that was not seen in the journal")
    return Told(Verdict.PASS, "there was none")


@each_device(
    "untouched",
    lambda case: "the client is not stopped, and misses no probe" * case.scenario.expect.untouched,
)
def untouched(case: Case, device: str) -> Told:
    """No failed probe and the same processes from the method's beginning to the end."""
    took, since = seen_down_ms(case, device), case.method_began
    case.end("processes", device)
    counts = case.of("processes", "count", device)
    if not counts:
        raise Missing("the client's processes were not seen")
    first = [counts[0], *(e for e in counts if e.t <= since)][-1]
    changed = [e for e in counts if e.t > first.t and e.data.get("pids") != first.data.get("pids")]
    if took:
        return Told(Verdict.FAIL, f"{took} ms down")
    if changed:
        pids = f"{first.data.get('pids')}, then {changed[0].data.get('pids')}"
        return Told(Verdict.FAIL, f"its processes changed: {pids}")
    if dark := unwatched(case, device):
        raise Missing(dark)
    return Told(Verdict.PASS, "0 ms down, the same processes")


def _wanted_samples(case: Case) -> str:
    most = case.scenario.expect.samples_lost
    return f"at most {most} samples lost or torn" if most else "no sample lost, repeated or torn"


@each_device("samples", _wanted_samples)
def samples(case: Case, device: str) -> Told:
    """The sequence on the volume rises by one over every restart."""
    end = case.end("samples", device)
    first, last, broken, lost = (number(end.get(key)) for key in ("first", "last", "broken_at", "lost"))
    if first is None and last is None:
        ran = any(s.version is not None for s in stretches(case, device))
        if ran:
            raise Missing("no sample was found, and the client ran")
        return Told(Verdict.PASS, "the client never ran, and left none")
    if broken is not None and lost is None and case.scenario.expect.samples_lost:
        raise Missing(f"some are lost from line {broken} on, and how many was not counted")
    gone = max(lost or 0, 1 if broken is not None else 0)
    where = f", first at line {broken}" if broken is not None else ""
    said = f"{first} to {last}, {gone or 'none'} lost or torn{where}"
    return held(gone <= case.scenario.expect.samples_lost, said)


def allowed_at_once(case: Case) -> int:
    """Processes of a client that may live at once: what is expected, and two where an update may overlap."""
    asked = {order.to for device in case.devices for order in orders(case, device)}
    overlap = any(s.handover is Handover.OVERLAP and s.version in asked for s in case.scenario.bench.versions)
    return max(case.scenario.expect.most_at_once, 2 if overlap else 1)


def most_processes(case: Case, device: str) -> int:
    """Client processes that were seen to live at the same time, at most. Raises Missing."""
    most = number(case.end("processes", device).get("most"))
    if most is None:
        raise Missing("the processes were not counted")
    seen = [n for e in case.of("processes", "count", device) if (n := number(e.data.get("n"))) is not None]
    return max([most, *seen])


@each_device("most-at-once", lambda case: f"at most {allowed_at_once(case)} client processes at once")
def most_at_once(case: Case, device: str) -> Told:
    """Client processes that lived at the same time."""
    most = most_processes(case, device)
    return held(most <= allowed_at_once(case), f"{most}")
