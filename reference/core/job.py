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


def told(job: Job, report: Report, epoch: str) -> Job:
    """The job after a report of it: replayed and reordered reports change nothing, nor does any after the end."""
    if report.job_id != job.id or report.generation != job.generation:
        raise ValueError(f"a report of job {report.job_id} cannot change job {job.id}")
    if epoch == job.epoch and report.sequence <= job.sequence:
        return job
    if job.status.terminal:
        if job.status is JobStatus.TIMED_OUT and report.status.terminal and job.late_outcome is None:
            return replace(
                job, late_outcome=report.outcome or report.status, epoch=epoch, sequence=report.sequence
            )
        return job
    return replace(
        job, status=report.status, phase=report.phase, outcome=report.outcome, reason=report.reason,
        message=report.message, downtime_ms=report.downtime_ms, epoch=epoch, sequence=report.sequence,
    )  # fmt: skip


def canceled(job: Job) -> Job:
    """The job after a cancel that no device had to obey: only a command that was never taken ends so."""
    if job.status is not JobStatus.QUEUED:
        return job
    return replace(job, status=JobStatus.CANCELED, reason=Reason.CANCELED)


def overdue(job: Job, in_status_ms: int, limits: ServiceLimits) -> Job:
    """The job after a look at the clock. `in_status_ms`: since it was made, or since the device last spoke of it."""
    bound = {
        JobStatus.QUEUED: limits.accept_deadline_ms,
        JobStatus.IN_PROGRESS: limits.progress_deadline_ms,
    }.get(job.status)
    if bound is None or in_status_ms <= bound:
        return job
    silent = "was never taken by the device" if job.status is JobStatus.QUEUED else "went silent"
    message = f"the job {silent} for more than {bound} ms"
    return replace(job, status=JobStatus.TIMED_OUT, reason=Reason.DEADLINE_PASSED, message=message)
