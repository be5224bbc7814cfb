"""A job's life at the service, in AWS IoT Jobs' words.

    QUEUED -> IN_PROGRESS -> SUCCEEDED | FAILED | TIMED_OUT | CANCELED
       \\________________\\-> REJECTED | CANCELED | TIMED_OUT

A terminal status never changes. What the device says after TIMED_OUT is kept as `late_outcome`.
Source of the words: AWS IoT Core developer guide, "Jobs: job execution states".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from reference.core.errors import Reason
from reference.core.limits import ServiceLimits
from reference.core.model import Outcome, Phase


class JobStatus(StrEnum):
    """The value is what the API answers, the wire carries and the database stores."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    REJECTED = "REJECTED"
    CANCELED = "CANCELED"

    @property
    def terminal(self) -> bool:
        """Whether it never changes again."""
        return self not in (JobStatus.QUEUED, JobStatus.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Report:
    """What a device says of a job. `sequence` rises within one journal's epoch."""

    job_id: str
    generation: int
    sequence: int
    status: JobStatus
    phase: Phase
    outcome: Outcome | None = None
    reason: Reason | None = None
    message: str = ""
    downtime_ms: int | None = None

    @property
    def rolled_back(self) -> bool:
        """Whether the old version was brought back after the switch had begun."""
        return self.outcome is Outcome.ROLLED_BACK


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the service knows it. `epoch` and `sequence` say which report it was last told by."""

    id: str
    generation: int
    status: JobStatus = JobStatus.QUEUED
    phase: Phase = Phase.IDLE
    outcome: Outcome | None = None
    reason: Reason | None = None
    message: str = ""
    downtime_ms: int | None = None
    late_outcome: Outcome | JobStatus | None = None
    epoch: str | None = None
    sequence: int = -1
    superseded_by: int | None = None
    """Generation of the newer command that was ordered while this job was open."""


def told(job: Job, report: Report, epoch: str) -> Job:
    """The job after a report of it: replayed and reordered reports change nothing, nor does any after the end."""
    if report.job_id != job.id or report.generation != job.generation:
        raise ValueError(f"a report of job {report.job_id} cannot change job {job.id}")
    if epoch == job.epoch and report.sequence <= job.sequence:
        return job
    if job.status.terminal:
        if _presumed(job) and report.status.terminal and job.late_outcome is None:
            return replace(
                job, late_outcome=report.outcome or report.status, epoch=epoch, sequence=report.sequence
            )
        return job
    return replace(
        job, status=report.status, phase=report.phase, outcome=report.outcome, reason=report.reason,
        message=report.message, downtime_ms=report.downtime_ms, epoch=epoch, sequence=report.sequence,
    )  # fmt: skip


def _presumed(job: Job) -> bool:
    """Whether the service gave the job its end without a word from the device, which may still speak of it."""
    overtaken_unheard = (
        job.status is JobStatus.CANCELED and job.reason is Reason.SUPERSEDED and job.epoch is None
    )
    return job.status is JobStatus.TIMED_OUT or overtaken_unheard


def canceled(job: Job) -> Job:
    """The job after a cancel that no device had to obey: only a command that was never taken ends so."""
    if job.status is not JobStatus.QUEUED:
        return job
    return replace(job, status=JobStatus.CANCELED, reason=Reason.CANCELED)


def superseded(job: Job, generation: int, *, sent: bool) -> Job:
    """The open job after a newer command was ordered for its client: no longer the one that counts.

    It ends at once when its command never left the service (`sent`); else by the device's report, or by `overtaken`.
    Raises ValueError for a generation that is not newer.
    """
    if generation <= job.generation:
        raise ValueError(f"generation {generation} cannot supersede {job.generation}")
    if job.status.terminal or job.superseded_by is not None:
        return job
    job = replace(job, superseded_by=generation)
    return job if sent or job.status is not JobStatus.QUEUED else _overtaken(job)


def overtaken(job: Job, newer: Job) -> Job:
    """A superseded job after news of a newer one of its client.

    A device that works on the newer command, or is done with it, never takes an older one, and a newer one that has
    ended leaves nothing to wait for: what no device has spoken of by then has ended. While the newer one is only
    accepted, the device may still finish the older one, and will report it. Should the device say otherwise
    afterwards, that is its `late_outcome`.
    """
    heard_of = job.superseded_by is None or job.status is not JobStatus.QUEUED
    works = newer.status is JobStatus.IN_PROGRESS and newer.phase not in (Phase.IDLE, Phase.ACCEPTED)
    if heard_of or newer.generation <= job.generation or not (works or newer.status.terminal):
        return job
    return _overtaken(job)


def _overtaken(job: Job) -> Job:
    message = f"by generation {job.superseded_by}, before the device spoke of it"
    return replace(job, status=JobStatus.CANCELED, reason=Reason.SUPERSEDED, message=message)


def overdue(job: Job, silent_ms: int, age_ms: int, limits: ServiceLimits) -> Job:
    """The job after a look at the clock.

    `silent_ms`: since the device last spoke of it, as far as the service could have heard it; every status starts the
    time of its step anew. `age_ms`: since the job was made, which nothing starts anew, so that every job ends.
    """
    if job.status.terminal:
        return job
    if age_ms > limits.job_deadline_ms:
        return _timed_out(
            job, f"the job has not ended in {limits.job_deadline_ms} ms; its step is {job.phase.value}"
        )
    if job.status is JobStatus.QUEUED:
        bound, passed = limits.accept_deadline_ms, age_ms
        what = f"the job was never taken by the device for more than {bound} ms"
    else:
        bound, passed = limits.step_deadline_ms(job.phase), silent_ms
        what = f"the device went silent in the step {job.phase.value} for more than {bound} ms"
    return _timed_out(job, what) if passed > bound else job


def _timed_out(job: Job, message: str) -> Job:
    return replace(job, status=JobStatus.TIMED_OUT, reason=Reason.DEADLINE_PASSED, message=message)
