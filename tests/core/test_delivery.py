"""The rules of the conversation, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery
from reference.core.delivery import BirthVerdict, ClientState, Memory, StatusVerdict, Verdict
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus, Report
from reference.core.limits import DEFAULT_LIMITS, ServiceLimits
from reference.core.model import Command, Outcome, Phase
from reference.core.update import UpdateRecord
from tests.core.engine import Behaviour, command
from tests.core.world import device, in_phase, ordered

SERVICE = ServiceLimits(resend_first_ms=100, resend_limit_ms=1000)


def fresh(floor: int | None = 0) -> Memory:
    return Memory(UpdateRecord("epoch-1", floor=floor))


def taken(memory: Memory, order: Command, now_ms: int | None = 0) -> tuple[Memory, Verdict]:
    return delivery.receive(memory, order, now_ms, DEFAULT_LIMITS)


def acknowledged(memory: Memory) -> Memory:
    for report in memory.outbox:
        epoch = memory.record.epoch
        memory = delivery.receive_acknowledgement(memory, epoch, report.job_id, report.sequence)
    assert memory.outbox == ()
    return memory


def statuses(memory: Memory) -> list[tuple[str, JobStatus]]:
    return [(r.job_id, r.status) for r in memory.outbox]


# ---- commands


def test_a_command_is_taken_once() -> None:
    memory, verdict = taken(fresh(), command(1, "v1"))
    assert verdict is Verdict.ACCEPTED
    assert memory.record.floor == 1 and memory.record.queued == command(1, "v1")
    assert statuses(memory) == [("job-1", JobStatus.IN_PROGRESS)]
    assert taken(memory, command(1, "v1")) == (memory, Verdict.DUPLICATE)


def test_a_duplicate_is_answered_again_when_the_answer_had_been_acknowledged() -> None:
    memory, _ = taken(fresh(), command(1, "v1"))
    again, verdict = taken(acknowledged(memory), command(1, "v1"))
    assert verdict is Verdict.DUPLICATE
    assert [(r.status, r.sequence) for r in again.outbox] == [(JobStatus.IN_PROGRESS, 2)]


def test_a_duplicate_of_the_running_job_is_answered_with_where_it_is() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.VERIFYING))
    again, verdict = taken(acknowledged(driver.memory), command(2, "v2"))
    assert verdict is Verdict.DUPLICATE and again.outbox[0].phase is Phase.VERIFYING


def test_a_duplicate_of_a_finished_job_is_answered_with_its_end() -> None:
    driver = ordered()
    driver.run()
    again, verdict = taken(acknowledged(driver.memory), command(2, "v2"))
    assert verdict is Verdict.DUPLICATE and again.record == driver.memory.record
    assert statuses(again) == [("job-2", JobStatus.SUCCEEDED)]
    assert again.outbox == driver.memory.outbox, "the same report, not a new one"
    assert taken(again, command(2, "v2")) == (again, Verdict.DUPLICATE)


def test_an_older_generation_is_never_applied() -> None:
    memory, verdict = taken(fresh(5), command(5, "v5"))
    assert verdict is Verdict.REJECTED and memory.record == fresh(5).record
    assert [(r.status, r.reason) for r in memory.outbox] == [(JobStatus.REJECTED, Reason.STALE_GENERATION)]


def test_no_command_without_a_floor() -> None:
    assert taken(fresh(None), command(1, "v1")) == (fresh(None), Verdict.NOT_READY)


def test_an_expired_command_is_rejected_unless_the_clock_is_not_trusted() -> None:
    old = command(1, "v1", expires_at_ms=0)
    late = DEFAULT_LIMITS.clock_skew_ms + 1
    memory, verdict = taken(fresh(), old, late)
    assert verdict is Verdict.REJECTED and memory.outbox[0].reason is Reason.EXPIRED
    assert memory.record.floor == 0
    assert taken(fresh(), old, late - 1)[1] is Verdict.ACCEPTED
    assert taken(fresh(), old, None)[1] is Verdict.ACCEPTED


def test_a_command_that_was_rejected_stays_rejected() -> None:
    old = command(1, "v1", expires_at_ms=0)
    memory, _ = taken(fresh(), old, DEFAULT_LIMITS.clock_skew_ms + 1)
    again, verdict = taken(acknowledged(memory), old, None)
    assert verdict is Verdict.DUPLICATE and again.record.queued is None
    assert statuses(again) == [("job-1", JobStatus.REJECTED)]


def test_a_refusal_takes_back_nothing_that_was_taken() -> None:
    memory, _ = taken(fresh(), command(1, "v1"))
    assert delivery.reject(memory, "job-1", 1, Reason.HOST_NOT_ALLOWED, "") == (memory, Verdict.DUPLICATE)
    other, verdict = delivery.reject(memory, "other", 1, Reason.HOST_NOT_ALLOWED, "no such host")
    assert verdict is Verdict.REJECTED
    assert statuses(other) == [("job-1", JobStatus.IN_PROGRESS), ("other", JobStatus.REJECTED)]
    # The answer for another job of that generation does not stand in for this one's.
    other = delivery.receive_acknowledgement(other, "epoch-1", "job-1", 99)
    again, _ = taken(other, command(1, "v1"))
    assert statuses(again) == [("job-1", JobStatus.IN_PROGRESS), ("other", JobStatus.REJECTED)]


def test_an_end_that_is_not_acknowledged_outlives_what_is_remembered_of_ended_jobs() -> None:
    memory = fresh()
    for generation in range(1, delivery.FINISHED_KEPT + 4):
        memory, _ = taken(memory, command(generation, "v1"))
    assert len(memory.finished) == delivery.FINISHED_KEPT
    again, verdict = taken(memory, command(1, "v1"))
    assert (again, verdict) == (memory, Verdict.DUPLICATE)
    assert memory.outbox[0].status is JobStatus.CANCELED
    _, verdict = taken(acknowledged(memory), command(1, "v1"))
    assert verdict is Verdict.REJECTED, "the service has the end, and a terminal status does not change"


def test_a_newer_command_ends_the_one_that_waits() -> None:
    memory, _ = taken(fresh(), command(1, "v1"))
    memory, _ = taken(memory, command(2, "v2"))
    assert statuses(memory) == [("job-1", JobStatus.CANCELED), ("job-2", JobStatus.IN_PROGRESS)]
    assert memory.outbox[0].reason is Reason.SUPERSEDED
    assert memory.record.queued == command(2, "v2")


# ---- cancels


def test_cancel_of_a_job_that_waits_ends_it_at_once() -> None:
    memory, _ = taken(fresh(), command(1, "v1"))
    memory = delivery.receive_cancel(memory, "job-1", 1)
    assert memory.record.queued is None and memory.record.floor == 1
    assert statuses(memory) == [("job-1", JobStatus.CANCELED)]
    assert taken(memory, command(1, "v1")) == (memory, Verdict.DUPLICATE)


def test_cancel_of_another_job_or_twice_changes_nothing() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.PULLING))
    once = delivery.receive_cancel(driver.memory, "job-2", 2)
    assert once.record.cancel and delivery.receive_cancel(once, "job-2", 2) == once
    for job_id, generation in (("job-2", 3), ("job-3", 2)):
        assert delivery.receive_cancel(driver.memory, job_id, generation).record == driver.memory.record
        assert delivery.receive_cancel(taken(fresh(), command(2, "v2"))[0], job_id, generation).record.queued


# ---- births


def test_a_cancel_that_overtakes_its_command_waits_for_it() -> None:
    memory = delivery.receive_cancel(fresh(3), "job-5", 5)
    assert memory.early_cancel == ("job-5", 5) and memory.outbox == ()
    memory, verdict = taken(memory, command(5, "v1"))
    assert verdict is Verdict.ACCEPTED
    assert memory.record.queued is None and memory.record.floor == 5 and memory.early_cancel is None
    assert statuses(memory) == [("job-5", JobStatus.CANCELED)]
    again, verdict = taken(acknowledged(memory), command(5, "v1"))
    assert verdict is Verdict.DUPLICATE and statuses(again) == [("job-5", JobStatus.CANCELED)]


def test_an_early_cancel_ends_the_job_of_its_name_and_no_other() -> None:
    memory = delivery.receive_cancel(fresh(3), "job-5", 5)
    assert delivery.receive_cancel(memory, "job-4", 4) == memory  # the highest counts
    memory, _ = taken(memory, command(4, "v1"))
    assert memory.record.queued is not None and memory.early_cancel == ("job-5", 5)
    other = replace(command(5, "v1"), job_id="another")
    memory, _ = taken(memory, other)
    assert memory.record.queued == other and memory.early_cancel is None


def test_a_cancel_of_what_is_over_is_not_kept() -> None:
    assert delivery.receive_cancel(fresh(3), "job-3", 3) == fresh(3)
    assert delivery.receive_cancel(fresh(None), "job-3", 3) == fresh(None)  # it will be sent again
    memory = delivery.receive_cancel(fresh(3), "job-5", 5)
    assert delivery.receive_birth_answer(memory, "n", "n", "epoch-1", 4).early_cancel == ("job-5", 5)
    assert delivery.receive_birth_answer(memory, "n", "n", "epoch-1", 5).early_cancel is None


def test_a_floor_comes_back_only_with_the_answer_to_our_own_birth() -> None:
    memory = fresh(None)
    for sent, nonce, epoch in (("n", "m", "epoch-1"), (None, "n", "epoch-1"), ("n", "n", "epoch-0")):
        assert delivery.receive_birth_answer(memory, sent, nonce, epoch, 7) == memory
    memory = delivery.receive_birth_answer(memory, "n", "n", "epoch-1", 7)
    assert memory.record.floor == 7
    assert delivery.receive_birth_answer(memory, "n", "n", "epoch-1", 3) == memory, "it never falls"
    assert taken(memory, command(7, "v1"))[1] is Verdict.REJECTED
    assert taken(memory, command(8, "v1"))[1] is Verdict.ACCEPTED


def test_a_new_epoch_replaces_the_old_one_for_good() -> None:
    client, verdict = delivery.birth(ClientState(), "a", 4)
    assert (client.epoch, client.reported, verdict) == ("a", 4, BirthVerdict.NEW)
    assert delivery.birth(client, "a", None) == (client, BirthVerdict.KNOWN)
    client, verdict = delivery.birth(replace(client, sequence=9), "b", None)
    assert (client.epoch, client.sequence, verdict) == ("b", -1, BirthVerdict.NEW)
    again, verdict = delivery.birth(client, "a", 4)
    assert verdict is BirthVerdict.REPLACED and again.epoch == "b"


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("verdict", BirthVerdict)
@pytest.mark.parametrize("open_job_id", [None, "j", "k"])
@pytest.mark.parametrize("reported", [6, 7])
def test_only_a_job_that_was_taken_and_that_a_new_journal_does_not_know_is_lost(
    status: JobStatus, verdict: BirthVerdict, open_job_id: str | None, reported: int
) -> None:
    job = Job("j", 7, status, Phase.PULLING, epoch="a", sequence=4)
    after = delivery.orphaned(job, verdict, open_job_id, reported)
    taken = status is JobStatus.IN_PROGRESS or (status is JobStatus.QUEUED and reported == 7)
    if verdict is BirthVerdict.NEW and taken and open_job_id != "j":
        assert (after.status, after.reason, after.outcome) == (JobStatus.FAILED, Reason.JOURNAL_CORRUPT, None)
        assert after.message == "the device lost its journal while the job ran"
        assert (after.phase, after.epoch, after.sequence) == (job.phase, job.epoch, job.sequence)
    else:
        assert after == job


def test_the_floor_of_an_answer_lets_the_untaken_command_through() -> None:
    client = ClientState(issued=6)
    assert delivery.birth_floor(client, None) == 6
    assert delivery.birth_floor(client, 6) == 5
    assert delivery.birth_floor(replace(client, reported=9), 6) == 9


def test_a_service_restored_from_a_backup_goes_on_above_what_the_device_knows() -> None:
    client, _ = delivery.birth(ClientState(issued=3), "a", 8)
    assert delivery.next_generation(client) == 9
    assert delivery.next_generation(ClientState(issued=3)) == 4


# ---- statuses


def report(
    sequence: int, status: JobStatus = JobStatus.IN_PROGRESS, outcome: Outcome | None = None
) -> Report:
    return Report("j", 1, sequence, status, Phase.PULLING, outcome)


def test_statuses_are_ordered_by_sequence_within_the_epoch() -> None:
    client, job = ClientState(epoch="a"), Job("j", 1)
    done = delivery.ingest(client, job, report(2), "a")
    assert (done.verdict, done.newest, done.acknowledge) == (StatusVerdict.APPLIED, True, True)
    stale = delivery.ingest(done.client, done.job, report(1), "a")
    assert (stale.verdict, stale.newest, stale.acknowledge) == (StatusVerdict.STALE, False, True)
    assert stale.job == done.job
    unknown = delivery.ingest(client, None, report(1), "a")
    assert unknown.verdict is StatusVerdict.UNKNOWN_JOB and unknown.acknowledge
    foreign = delivery.ingest(client, job, report(5), "b")
    assert foreign.verdict is StatusVerdict.WRONG_EPOCH and not foreign.acknowledge
    assert foreign.job == job and foreign.client == client


def test_acknowledgement_removes_what_it_names_and_what_is_older() -> None:
    driver = ordered()
    driver.run(until=in_phase(Phase.STAGED))
    memory = driver.memory
    (newest,) = memory.outbox
    for epoch, job_id, sequence in (
        ("other", "job-2", newest.sequence),
        ("epoch-1", "job-9", newest.sequence),
        ("epoch-1", "job-2", newest.sequence - 1),
    ):
        assert delivery.receive_acknowledgement(memory, epoch, job_id, sequence) == memory
    assert delivery.receive_acknowledgement(memory, "epoch-1", "job-2", newest.sequence).outbox == ()


def test_the_outbox_keeps_the_newest_of_each_generation() -> None:
    driver = ordered({"v2": Behaviour(crashes=True)})
    driver.run()
    driver.tell(command(3, "v3"))
    driver.run()
    assert statuses(driver.memory) == [("job-2", JobStatus.FAILED), ("job-3", JobStatus.SUCCEEDED)]
    assert driver.memory.outbox[0].rolled_back and not driver.memory.outbox[1].rolled_back
    assert driver.memory.outbox[0].downtime_ms is not None


def test_what_is_sent_waits_for_its_resend() -> None:
    memory, _ = taken(fresh(), command(1, "v1"))
    memory, _ = taken(memory, command(2, "v2"))
    assert [r.sequence for r in delivery.to_send(memory, {}, DEFAULT_LIMITS)] == [2, 3]
    after = DEFAULT_LIMITS.outbox_resend_ms
    assert [r.sequence for r in delivery.to_send(memory, {2: after - 1, 3: after}, DEFAULT_LIMITS)] == [3]


def test_a_count_is_no_news() -> None:
    driver = device()
    driver.tell(command(2, "v2"))
    driver.run(until=in_phase(Phase.PULLING))
    memory = driver.memory
    counted = delivery.advance(memory, replace(memory.record, attempts=1))
    assert counted.outbox == memory.outbox and counted.record.attempts == 1
    assert (
        delivery.advance(memory, replace(memory.record, reason=Reason.PULL_STALLED)).outbox != memory.outbox
    )


def test_a_long_step_is_not_silence() -> None:
    driver = device()
    assert delivery.remind(driver.memory) == driver.memory, "without a job there is nothing to say"
    driver.tell(command(2, "v2"))
    driver.run(until=in_phase(Phase.PULLING))
    told = acknowledged(driver.memory)
    reminded = delivery.remind(told)
    assert statuses(reminded) == [("job-2", JobStatus.IN_PROGRESS)]
    assert reminded.outbox[0].sequence > told.sequence and reminded.record == told.record
    driver.run(until=in_phase(Phase.CLEANING_UP))
    assert delivery.remind(driver.memory) == driver.memory, "an end is told once"


# ---- the service's sending


def test_a_command_is_sent_again_with_growing_waits() -> None:
    waits = [delivery.resend_after_ms(n, 1000, SERVICE) for n in range(6)]
    assert waits == [100, 100, 200, 400, 800, 1000]
    assert delivery.resend_after_ms(1, 0, SERVICE) == 50
    assert delivery.resend_after_ms(10**9, 1000, SERVICE) == 1000
    assert delivery.resend_after_ms(1, 1000, SERVICE, heard=False) == 1000, "most likely it is not there"


@pytest.mark.parametrize(
    ("status", "now_ms", "pending"),
    [(JobStatus.QUEUED, 10, True), (JobStatus.QUEUED, 11, False), (JobStatus.IN_PROGRESS, 10, False)],
)
def test_a_command_is_pending_until_a_device_speaks_or_it_expires(
    status: JobStatus, now_ms: int, pending: bool
) -> None:
    assert delivery.command_pending(Job("j", 1, status), now_ms, 10) is pending


def test_refusals_of_what_somebody_repeats_are_few() -> None:
    memory, _ = taken(fresh(100), command(101, "v1"))
    for number in range(1, 100):
        memory, verdict = taken(memory, command(number, "v1"))
        assert verdict is Verdict.REJECTED
    refused = [r.job_id for r in memory.outbox if r.status is JobStatus.REJECTED]
    assert refused == [f"job-{n}" for n in range(100 - delivery.REFUSALS_KEPT, 100)]
    assert ("job-101", JobStatus.IN_PROGRESS) in statuses(memory)


def test_only_an_answer_to_our_birth_says_that_our_journal_was_given_up() -> None:
    memory = Memory(UpdateRecord("epoch-2", floor=3))
    assert delivery.given_up(memory, "n", "n", "epoch-2")
    assert not delivery.given_up(memory, None, "n", "epoch-2"), "nothing was asked"
    assert not delivery.given_up(memory, "n", "m", "epoch-2")
    assert not delivery.given_up(memory, "n", "n", "epoch-1")


def test_a_job_that_was_put_aside_untaken_is_not_lost_with_a_journal() -> None:
    """The floor that a device was answered may be above it, though no device ever had it."""
    job = Job("j", 5, superseded_by=6)
    assert delivery.orphaned(job, BirthVerdict.NEW, None, 5) == job
    assert delivery.orphaned(replace(job, superseded_by=None), BirthVerdict.NEW, None, 5) != job
