"""A job's life at the service."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.core.delivery import heard_silence_ms
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus, Report, canceled, overdue, overtaken, superseded, told
from reference.core.limits import ServiceLimits
from reference.core.model import Outcome, Phase

LIMITS = ServiceLimits(accept_deadline_ms=100, pulling_deadline_ms=50, job_deadline_ms=1000)
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
    job = overdue(told(JOB, PULLING, "e"), 51, 51, LIMITS)
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


def test_the_order_has_to_be_taken_in_time() -> None:
    assert overdue(JOB, 0, 100, LIMITS) == JOB
    late = overdue(JOB, 0, 101, LIMITS)
    assert (late.status, late.reason) == (JobStatus.TIMED_OUT, Reason.DEADLINE_PASSED)
    assert "never taken by the device for more than 100 ms" in late.message


STEPS = [phase for phase in Phase if phase is not Phase.IDLE]


@pytest.mark.parametrize("phase", STEPS)
def test_each_step_has_a_bound_and_the_message_names_it(phase: Phase) -> None:
    limits = replace(ServiceLimits(), **{f"{phase.value}_deadline_ms": 7})
    job = replace(JOB, status=JobStatus.IN_PROGRESS, phase=phase)
    assert overdue(job, 7, 10**6, limits) == job
    late = overdue(job, 8, 10**6, limits)
    assert late.status is JobStatus.TIMED_OUT
    assert f"in the step {phase.value} for more than 7 ms" in late.message
    for other in STEPS:
        if other is not phase:
            assert overdue(replace(job, phase=other), 8, 10**6, limits).status is JobStatus.IN_PROGRESS


@given(
    st.sampled_from(list(JobStatus)),
    st.sampled_from(list(Phase)),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
def test_time_only_ever_ends_a_job_once(
    status: JobStatus, phase: Phase, silent_ms: int, age_ms: int, more_ms: int
) -> None:
    limits = ServiceLimits()
    job = replace(JOB, status=status, phase=phase)
    after = overdue(job, silent_ms, age_ms, limits)
    if status.terminal:
        assert after == job
        return
    assert after == job or (after.status is JobStatus.TIMED_OUT and after.phase is phase)
    if max(silent_ms, age_ms) <= limits.shortest_deadline_ms:
        assert after == job, "nothing is overdue before the shortest deadline"
    if age_ms > limits.job_deadline_ms:
        assert after.status is JobStatus.TIMED_OUT, "no status puts off the end for ever"
    later = overdue(job, silent_ms + more_ms, age_ms + more_ms, limits)
    assert after == job or later.status is JobStatus.TIMED_OUT, "time never takes an end back"


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_silence_is_never_longer_than_the_service_could_hear(since_told_ms: int, hearing_ms: int) -> None:
    silent_ms = heard_silence_ms(since_told_ms, hearing_ms)
    assert silent_ms >= 0
    assert silent_ms <= max(hearing_ms, 0)
    assert silent_ms <= max(since_told_ms, 0)


# ---- superseding


def test_a_command_that_never_left_is_superseded_at_once() -> None:
    ended = superseded(JOB, 2, sent=False)
    assert (ended.status, ended.reason, ended.superseded_by) == (JobStatus.CANCELED, Reason.SUPERSEDED, 2)


def test_a_command_that_may_have_arrived_waits_for_the_device() -> None:
    waits = superseded(JOB, 2, sent=True)
    assert (waits.status, waits.superseded_by) == (JobStatus.QUEUED, 2)
    running = superseded(told(JOB, PULLING, "e"), 2, sent=False)
    assert (running.status, running.superseded_by) == (JobStatus.IN_PROGRESS, 2)
    assert superseded(running, 3, sent=True) == running, "the first one stands"
    assert told(running, replace(DONE, sequence=3), "e").status is JobStatus.SUCCEEDED, (
        "past its switch it ends well"
    )
    done = told(JOB, DONE, "e")
    assert superseded(done, 2, sent=True) == done
    with pytest.raises(ValueError, match="cannot supersede"):
        superseded(JOB, 1, sent=True)


@pytest.mark.parametrize(
    ("newer", "ends"),
    [
        (Job("k", 2), False),
        (Job("k", 2, JobStatus.IN_PROGRESS, Phase.ACCEPTED), False),
        (Job("k", 2, JobStatus.IN_PROGRESS, Phase.PULLING), True),
        (Job("k", 2, JobStatus.REJECTED), True),
        (Job("k", 2, JobStatus.CANCELED), True),
        (Job("i", 0, JobStatus.SUCCEEDED), False),
    ],
)
def test_what_no_device_spoke_of_ends_when_the_newer_one_is_worked_on(newer: Job, ends: bool) -> None:
    waits = superseded(JOB, 2, sent=True)
    after = overtaken(waits, newer)
    assert (after.status is JobStatus.CANCELED and after.reason is Reason.SUPERSEDED) is ends
    assert overtaken(JOB, newer) == JOB, "one that still counts is never overtaken"
    heard = superseded(told(JOB, PULLING, "e"), 2, sent=True)
    assert overtaken(heard, newer) == heard, "the device has spoken of it, and will again"


def test_a_device_that_did_carry_out_a_superseded_command_is_heard() -> None:
    ended = overtaken(superseded(JOB, 2, sent=True), Job("k", 2, JobStatus.CANCELED))
    late = told(ended, DONE, "e")
    assert (late.status, late.late_outcome) == (JobStatus.CANCELED, Outcome.SUCCEEDED)
    refused = told(
        told(JOB, replace(DONE, status=JobStatus.CANCELED, reason=Reason.SUPERSEDED), "e"), DONE, "f"
    )
    assert refused.late_outcome is None, "the device's own end stands"
