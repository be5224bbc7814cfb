"""How it ended: the job as the API shows it, what answers, and what the device refused."""

from __future__ import annotations

from collections.abc import Mapping

from chaos.checkers.case import Case, Missing, Told, each_device, held, once
from chaos.checkers.evidence import (
    as_job,
    asked_for,
    journals,
    last_job,
    orders,
    reason_of,
    version_before,
)
from chaos.verdict import Verdict
from reference.core.errors import Reason
from reference.core.job import Job
from reference.core.model import Outcome

NOTHING = "nothing"
_REASONS = frozenset(reason.value for reason in Reason)


def _wanted_outcome(case: Case) -> str:
    expect = case.scenario.expect
    if not expect.judges_outcome:
        return ""
    return " or ".join(expect.outcome) if expect.outcome else "no outcome"


@each_device("outcome", _wanted_outcome)
def outcome(case: Case, device: str) -> Told | None:
    """Of the last ordered job, as the API shows it."""
    if not _concerned(case, device):
        return None
    expect, job = case.scenario.expect, last_job(case, device)
    found = str((job or {}).get("outcome") or "")
    wanted = tuple(o.value for o in expect.outcome) if expect.outcome else ("",)
    return held(found in wanted and (job is not None or not expect.outcome), found or _nothing(job))


@each_device("status", lambda case: case.scenario.expect.status.value if case.scenario.expect.status else "")
def status(case: Case, device: str) -> Told | None:
    """Of the last ordered job, as the API shows it."""
    if not _concerned(case, device):
        return None
    job, wanted = last_job(case, device), case.scenario.expect.status
    found = str((job or {}).get("status") or "")
    return held(wanted is not None and found == wanted.value, found or _nothing(job))


def _wanted_reason(case: Case) -> str:
    expect = case.scenario.expect
    if not expect.judges_reason:
        return ""
    return " or ".join(expect.reason) if expect.reason else "no reason"


@each_device("reason", _wanted_reason)
def reason(case: Case, device: str) -> Told | None:
    """Why the last ordered job ended so, as the API shows it."""
    if not _concerned(case, device):
        return None
    expect, job = case.scenario.expect, last_job(case, device)
    found = reason_of(job or {})
    wanted = tuple(r.value for r in expect.reason) if expect.reason else ("",)
    message = _message(job or {})
    said = f"{found} ({message})" if found and message else found or _nothing(job, "no reason")
    return held(found in wanted and (job is not None or not expect.reason), said)


@each_device("runs", "what the outcome leads to")
def runs(case: Case, device: str) -> Told | None:
    """What answers the probe in the end: what was expected, else what follows from the job's end."""
    end = case.end("probe", device)
    answers = str(end.get("version")) if end.get("good") is True else NOTHING
    given = case.scenario.expect.runs
    if given is not None:
        return held(answers == given, answers, f"{given} answers")
    job = last_job(case, device)
    asked = orders(case, device)
    before = version_before(case, device, str(job.get("jobId")) if job is not None else None)
    if job is None:
        return held(
            answers == (before or NOTHING), answers, f"{before or NOTHING} answers: nothing was ordered"
        )
    to = next(order.to for order in asked if order.job_id == str(job.get("jobId")))
    found = _came_to(case, device, as_job(job))
    if found is Outcome.SUCCEEDED:
        return held(answers == to, answers, f"{to} answers, as the update succeeded")
    if found is Outcome.ROLLBACK_FAILED:
        return held(answers != to or to == before, answers, f"not {to}: it was not confirmed")
    how = found.value.replace("_", " ") if found is not None else str(job.get("status"))
    return held(
        answers == (before or NOTHING), answers, f"{before or NOTHING} answers, as the update is {how}"
    )


def _came_to(case: Case, device: str, job: Job) -> Outcome | None:
    """The job's end; of one that the service gave up, what the device itself made of it."""
    if job.outcome is not None:
        return job.outcome
    if isinstance(job.late_outcome, Outcome):
        return job.late_outcome
    before, last = journals(case, device)
    ends = [e.outcome for e in (*before, *last) if e.job_id == job.id and e.outcome is not None]
    return ends[-1] if ends else None


def _wanted_refusal(case: Case) -> str:
    wanted = case.scenario.expect.refused
    return f"a device refuses a message for {wanted.value}" if wanted is not None else ""


@once("refused", _wanted_refusal)
def refused(case: Case) -> Told:
    """A device's log names a message that was refused for the reason."""
    wanted = case.scenario.expect.refused
    seen: list[str] = []
    unseen = [device for device in case.devices if case.last("refusals", "end", device) is None]
    for device in case.devices:
        if device not in unseen:
            reasons = case.end("refusals", device).get("reasons")
            seen += [str(r) for r in reasons] if isinstance(reasons, list | tuple) else []
    names = dict.fromkeys(name for name in seen if name in _REASONS)
    said = ", ".join(f"{name} ({seen.count(name)} times)" for name in names) or "nothing was refused"
    if wanted is not None and wanted.value in seen:
        return Told(Verdict.PASS, said)
    if unseen or not case.devices:
        raise Missing(f"the log of {', '.join(unseen) or 'no device'} was not read")
    return Told(Verdict.FAIL, said)


def _concerned(case: Case, device: str) -> bool:
    """Whether the expectation is about this device: it was asked for something, or none of them was."""
    return asked_for(case, device) or not any(asked_for(case, other) for other in case.devices)


def _nothing(job: Mapping[str, object] | None, empty: str = "no outcome") -> str:
    return "no job was ordered" if job is None else f"{empty}, status {job.get('status')}"


def _message(job: Mapping[str, object]) -> str:
    given = job.get("reason")
    return str(given.get("message") or "") if isinstance(given, dict) else ""
