"""Whether what was said is true: the invariants about what the service and the device say of a job."""

from __future__ import annotations

from collections.abc import Mapping

from chaos.checkers.case import Case, Missing, Told, each_device, held, many
from chaos.checkers.device import details
from chaos.checkers.evidence import (
    Order,
    as_job,
    gone,
    journaled_t,
    journals,
    memory,
    orders,
    shown,
    stretches,
    world,
)
from chaos.verdict import Verdict
from reference.core import invariants
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus
from reference.core.model import Outcome, Phase

CLOCK_STEP_S = 0.002
"""The journal's times are whole milliseconds."""


@each_device("success-proved", "no success is shown that was not proved")
def success_proved(case: Case, device: str) -> Told:
    """A job that the API shows as SUCCEEDED was committed before, its version answered, and its digest runs."""
    _seen_to_the_end(case, device)
    first: dict[str, tuple[float, Job]] = {}
    for t, job in shown(case, device):
        if job.status is JobStatus.SUCCEEDED:
            first.setdefault(job.id, (t, job))
    claimed = [(order, *first[order.job_id]) for order in orders(case, device) if order.job_id in first]
    wrong = [why for order, t, job in claimed if (why := _unproved(case, device, order, t, job))]
    if wrong:
        return Told(Verdict.FAIL, "; ".join(wrong))
    return Told(Verdict.PASS, f"{len(claimed)} proved" if claimed else "no success was shown")


def _seen_to_the_end(case: Case, device: str) -> None:
    """Raises Missing when a job was ordered, and nobody saw at the API what became of it."""
    if orders(case, device):
        case.end("api", device)
    else:
        case.end("probe", device)


def _unproved(case: Case, device: str, order: Order, t: float, job: Job) -> str:
    """What is wrong with a success; empty: nothing. Raises Missing."""
    seen = stretches(case, device)
    case.end("probe", device)
    if job.reason is not Reason.ALREADY_RUNNING:
        committed = journaled_t(case, device, order.job_id, Phase.COMMITTING)
        if committed is None:
            return f"{order.to}: shown as succeeded, and never committed"
        if t + CLOCK_STEP_S < committed:
            return f"{order.to}: shown as succeeded {round((committed - t) * 1000)} ms before the commit"
        switched = journaled_t(case, device, order.job_id, Phase.SWITCHING) or 0.0
        if not any(s.version == order.to and s.begin <= t and s.end > switched for s in seen):
            return f"{order.to}: shown as succeeded, and the probe has never seen it answer"
    elif not any(s.version == order.to and s.begin <= t for s in seen):
        return f"{order.to}: said to run already, and the probe has never seen it answer"
    return _other_digest(case, device, order)


def _other_digest(case: Case, device: str, order: Order) -> str:
    """What else runs in the end than the last version that succeeded; empty where that is as it should be."""
    later = orders(case, device)[-1].job_id != order.job_id
    elsewhere = case.scenario.expect.runs not in (None, order.to)
    if later or elsewhere or not order.digest:
        return ""
    running = {c.image.digest for c in world(case, device).containers if c.active}
    if running and running != {order.digest}:
        return f"{order.to}: {', '.join(sorted(running))} runs, asked for was {order.digest}"
    return ""


@each_device("status-not-ahead", "no end is shown before the device's journal holds it")
def status_not_ahead(case: Case, device: str) -> Told:
    """The API's first end of each job against the journal's, and the device's unsent reports against its record."""
    _seen_to_the_end(case, device)
    found = [v.detail for v in invariants.status_not_ahead(memory(case, device))]
    first: dict[str, tuple[float, Job]] = {}
    for t, job in shown(case, device):
        if job.outcome is not None:
            first.setdefault(job.id, (t, job))
    asked = {order.job_id for order in orders(case, device)}
    for t, job in first.values():
        if job.id in asked:
            found += _ahead(case, device, t, job)
    count = len(first.keys() & asked)
    return held(not found, "; ".join(found) or f"{many(count, 'end')} shown after the journal")


def _ahead(case: Case, device: str, t: float, job: Job) -> list[str]:
    ended = journaled_t(case, device, job.id, None)
    if ended is None:
        # A command that still waited for its turn is canceled without a change of phase.
        never = job.status is not JobStatus.CANCELED
        return (
            [f"{job.status.value} is shown, and the journal never held an end of job {job.id}"]
            if never
            else []
        )
    early = round((ended - t) * 1000)
    return (
        [f"{job.status.value} was shown {early} ms before the journal held it"]
        if t + CLOCK_STEP_S < ended
        else []
    )


@each_device("terminal-is-final", "a job's end never changes")
def terminal_is_final(case: Case, device: str) -> Told:
    """Every change of every job that the API showed; one that had ended is not gone either."""
    lost = [f"job {j} was {s.value}, and is gone" for j, s in gone(case, device).items() if s and s.terminal]
    if lost:
        return Told(Verdict.FAIL, "; ".join(lost))
    _seen_to_the_end(case, device)
    seen, found = shown(case, device), []
    last: dict[str, Job] = {}
    for _, job in seen:
        if job.id in last:
            found += invariants.terminal_is_final(last[job.id], job)
        last[job.id] = job
    ended = sum(job.status.terminal for job in last.values())
    return held(
        not found, details(found) or f"{many(len(seen), 'state')} of {many(len(last), 'job')}, {ended} ended"
    )


@each_device("service-agrees", "what the service shows is what the device's journal holds")
def service_agrees(case: Case, device: str) -> Told:
    """Outcome and reason of the device's last job; and the service knows every job that it took."""
    if lost := gone(case, device):
        return Told(
            Verdict.FAIL, "; ".join(f"the service took job {j}, and did not know it later" for j in lost)
        )
    _seen_to_the_end(case, device)
    if not orders(case, device):
        return Told(Verdict.PASS, "no job was ordered")
    last = case.end("api", device).get("job")
    if not isinstance(last, Mapping):
        raise Missing("the API showed no job in the end")
    job = as_job(last)
    outcome, reason = _device_says(case, device, job)
    if job.status in (JobStatus.TIMED_OUT, JobStatus.REJECTED) or job.outcome is None:
        return _service_alone(job, outcome, reason)
    found = invariants.agrees(job, outcome, reason)
    return held(not found, details(found) or f"both say {_words(outcome, reason)}")


def _service_alone(job: Job, outcome: Outcome | None, reason: Reason | None) -> Told:
    """A job without an outcome: the service's own end of it, or the device's refusal."""
    if job.status is JobStatus.REJECTED:
        agree = outcome is None and reason in (None, job.reason)
        return held(agree, f"service: REJECTED {job.reason}; device: {_words(outcome, reason)}")
    late = job.late_outcome if isinstance(job.late_outcome, Outcome) else None
    agree = job.status.terminal and outcome in (None, late)
    return held(agree, f"service: {job.status.value}, late {late}; device: {_words(outcome, reason)}")


def _device_says(case: Case, device: str, job: Job) -> tuple[Outcome | None, Reason | None]:
    """The last end of the job that its journal, or else its reports, hold."""
    before, last = journals(case, device)
    ends = [e for e in (*before, *last) if e.job_id == job.id and e.outcome is not None]
    if ends:
        return ends[-1].outcome, ends[-1].reason
    kept = memory(case, device)
    told = [r for r in (*kept.finished, *kept.outbox) if r.job_id == job.id and r.status.terminal]
    return (told[-1].outcome, told[-1].reason) if told else (None, None)


def _words(outcome: Outcome | None, reason: Reason | None) -> str:
    said = " ".join(str(part) for part in (outcome, reason) if part is not None)
    return said or "nothing"
