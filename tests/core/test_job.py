"""A job's life at the service."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core.errors import Reason
from reference.core.job import Job, JobStatus, Report, canceled, overdue, told
from reference.core.limits import ServiceLimits
from reference.core.model import Outcome, Phase

LIMITS = ServiceLimits(accept_deadline_ms=100, progress_deadline_ms=50)
JOB = Job("j", 1)
PULLING = Report("j", 1, 1, JobStatus.IN_PROGRESS, Phase.PULLING, message="m")
DONE = Report("j", 1, 2, JobStatus.SUCCEEDED, Phase.CLEANING_UP, Outcome.SUCCEEDED, downtime_ms=7)


def test_terminal_is_all_but_the_first_two() -> None:
    assert [s for s in JobStatus if not s.terminal] == [JobStatus.QUEUED, JobStatus.IN_PROGRESS]


def test_reports_move_a_job_to_its_end() -> None:
    job = told(JOB, PULLING, "e")
    assert (job.status, job.phase, job.message) == (JobStatus.IN_PROGRESS, Phase.PULLING, "m")
    job = told(job, DONE, "e")
    assert (job.status, job.outcome, job.downtime_ms) == (JobStatus.SUCCEEDED, Outcome.SUCCEEDED, 7)
    assert job.late_outcome is None


def test_replays_and_reorders_change_nothing() -> None:
    job = told(JOB, DONE, "e")
    assert told(job, DONE, "e") == told(job, PULLING, "e") == job
    later = replace(PULLING, sequence=9)
    assert told(job, later, "e") == told(job, later, "new-epoch") == job


@pytest.mark.parametrize("other", [replace(DONE, job_id="k"), replace(DONE, generation=2)])
def test_a_report_of_another_job_is_refused(other: Report) -> None:
    with pytest.raises(ValueError, match="cannot change job j"):
        told(JOB, other, "e")


def test_an_outcome_after_the_deadline_is_kept_beside_the_status() -> None:
    job = overdue(told(JOB, PULLING, "e"), 51, LIMITS)
    assert (job.status, job.reason) == (JobStatus.TIMED_OUT, Reason.DEADLINE_PASSED)
    assert told(job, replace(PULLING, sequence=2), "e") == job
    late = told(job, replace(DONE, sequence=3), "e")
    assert (late.status, late.late_outcome) == (JobStatus.TIMED_OUT, Outcome.SUCCEEDED)
    rejected = Report("j", 1, 4, JobStatus.REJECTED, Phase.IDLE)
    assert told(late, rejected, "e") == late, "the first one stands"
    assert told(job, rejected, "e").late_outcome is JobStatus.REJECTED


def test_only_a_command_that_was_never_taken_is_cancelled_by_the_service_alone() -> None:
    assert canceled(JOB).status is JobStatus.CANCELED
    running = told(JOB, PULLING, "e")
    assert canceled(running) == running


@pytest.mark.parametrize(
    ("status", "bound"), [(JobStatus.QUEUED, 100), (JobStatus.IN_PROGRESS, 50), (JobStatus.FAILED, None)]
)
def test_deadlines(status: JobStatus, bound: int | None) -> None:
    job = replace(JOB, status=status)
    if bound is None:
        assert overdue(job, 10**9, LIMITS) == job
        return
    assert overdue(job, bound, LIMITS) == job
    late = overdue(job, bound + 1, LIMITS)
    assert late.status is JobStatus.TIMED_OUT and f"more than {bound} ms" in late.message
