"""The conversation between service and device: the rules of both sides, and nothing else.

No broker is trusted to have kept a message. A command stays in the service's outbox and is sent again until the
device says that it has journaled it; a status stays in the device's outbox and is sent again until the service says
that it has stored it. Duplicates, reorders and replays are harmless:

- the device takes a generation once; an older one never
- the service orders the reports of a job by sequence within the one valid epoch
- a device whose journal was rebuilt has a new epoch and no floor: it takes no command until a signed answer, which
  repeats the nonce of its birth, has restored the floor; the epoch that it replaces never becomes valid again
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from reference.core.errors import Reason
from reference.core.job import Job, JobStatus, Report, told
from reference.core.limits import Limits, ServiceLimits
from reference.core.model import Command, Outcome, Phase
from reference.core.update import BEFORE_SWITCH, UpdateRecord

FINISHED_KEPT = 8
"""Terminal reports that a device remembers, to answer a command it has already carried out."""

REFUSALS_KEPT = 32
"""Refusals that wait for the service at most."""

# ---- the device's side


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a device journals, in one transaction."""

    record: UpdateRecord
    sequence: int = 0
    """Sequence of the last report made in this epoch."""
    outbox: tuple[Report, ...] = ()
    """Reports that the service has not acknowledged: the newest of each generation, by generation."""
    finished: tuple[Report, ...] = ()
    """The last terminal reports, oldest first."""
    early_cancel: tuple[str, int] | None = None
    """Job and generation, above the floor, of a cancel that has overtaken its command. The highest, no others."""


class Verdict(StrEnum):
    """What became of a command on arrival."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    NOT_READY = "not_ready"
    """The floor is not known yet: nothing is remembered, the service will send it again."""


def advance(memory: Memory, record: UpdateRecord) -> Memory:
    """Memory with a new record and the report that it calls for, so that no status is ever ahead of the journal."""
    before, memory = memory.record, replace(memory, record=record)
    if record.job is None or _told_of(before) == _told_of(record):
        return memory
    return _report(memory, _report_of(record, record.job))


def remind(memory: Memory) -> Memory:
    """Memory with the open job's report made anew: a long step is not to be taken for silence.

    The driver asks for it every `Limits.remind_ms`, well within the service's progress deadline.
    """
    record = memory.record
    if record.job is None or record.outcome is not None:
        return memory
    return _report(memory, _report_of(record, record.job))


def receive(memory: Memory, command: Command, now_ms: int | None, limits: Limits) -> tuple[Memory, Verdict]:
    """Take a verified command for this device. `now_ms` is None when the clock is not trusted."""
    record = memory.record
    if record.floor is None:
        return memory, Verdict.NOT_READY
    if (again := _again(memory, command.job_id, command.generation)) is not None:
        return again, Verdict.DUPLICATE
    if command.generation <= record.floor:
        message = f"generation {command.generation} is not newer than {record.floor}"
        return reject(memory, command.job_id, command.generation, Reason.STALE_GENERATION, message)
    if now_ms is not None and now_ms > command.expires_at_ms + limits.clock_skew_ms:
        return reject(memory, command.job_id, command.generation, Reason.EXPIRED, "it expired on the way")
    if record.queued is not None:
        memory = _report(
            memory, _ended(record.queued, Reason.SUPERSEDED, f"by generation {command.generation}")
        )
    record = replace(record, floor=command.generation, queued=command)
    memory, early = _without_early(replace(memory, record=record)), memory.early_cancel
    memory = _report(memory, _taken(command))
    if early == (command.job_id, command.generation):
        memory = receive_cancel(memory, *early)
    return memory, Verdict.ACCEPTED


def reject(
    memory: Memory, job_id: str, generation: int, reason: Reason, message: str
) -> tuple[Memory, Verdict]:
    """Refuse a command that is signed for this device and must not be obeyed. The floor stays as it is.

    One that was answered before is answered as before: a refusal never takes back what was taken.
    """
    if (again := _again(memory, job_id, generation)) is not None:
        return again, Verdict.DUPLICATE
    report = Report(job_id, generation, 0, JobStatus.REJECTED, Phase.IDLE, reason=reason, message=message)
    return _report(memory, report), Verdict.REJECTED


def receive_cancel(memory: Memory, job_id: str, generation: int) -> Memory:
    """Cancel a job: one that waits ends at once, one that runs ends before its switch, later ones finish.

    Nothing keeps a cancel behind its command on the way: one for a job that is still to come is remembered for it.
    """
    record = memory.record
    if record.queued is not None and (record.queued.job_id, record.queued.generation) == (job_id, generation):
        ended = _ended(record.queued, Reason.CANCELED, "before it was begun")
        return _report(replace(memory, record=replace(record, queued=None)), ended)
    running = record.job is not None and (record.job.job_id, record.job.generation) == (job_id, generation)
    if running and record.phase in BEFORE_SWITCH and not record.cancel:
        return replace(memory, record=replace(record, cancel=True))
    if record.floor is not None and generation > max(record.floor, (memory.early_cancel or ("", 0))[1]):
        return replace(memory, early_cancel=(job_id, generation))
    return memory


def receive_birth_answer(
    memory: Memory, sent_nonce: str | None, nonce: str, epoch: str, floor: int
) -> Memory:
    """The service's signed answer to a birth. One that is not to our last birth is ignored."""
    record = memory.record
    if sent_nonce is None or nonce != sent_nonce or epoch != record.epoch:
        return memory
    # A service that was restored from a backup may have forgotten generations that run here. The one that runs stays
    # open: its command may come again when its answer went with the journal, and then it is running already.
    here = [i.generation - 1 for i in (record.current, record.previous) if i is not None]
    known = max(floor, record.floor if record.floor is not None else 0, *here)
    if known == record.floor:
        return memory
    return _without_early(replace(memory, record=replace(record, floor=known)))


def given_up(memory: Memory, sent_nonce: str | None, nonce: str, epoch: str) -> bool:
    """Whether an answer that says "replaced" is to our last birth, and of this journal: then it is to be set aside.

    It happens when a journal was lost twice and births overtook each other, and when an old disk comes back.
    """
    return sent_nonce is not None and nonce == sent_nonce and epoch == memory.record.epoch


def receive_acknowledgement(memory: Memory, epoch: str, job_id: str, sequence: int) -> Memory:
    """The service has stored a report: it and older ones of its job leave the outbox."""
    if epoch != memory.record.epoch:
        return memory
    outbox = tuple(r for r in memory.outbox if not (r.job_id == job_id and r.sequence <= sequence))
    return memory if outbox == memory.outbox else replace(memory, outbox=outbox)


def to_send(memory: Memory, sent_ms_ago: dict[int, int], limits: Limits) -> tuple[Report, ...]:
    """Reports that are due. `sent_ms_ago`: by sequence, since it was last sent on this connection."""
    due = (
        r
        for r in memory.outbox
        if sent_ms_ago.get(r.sequence, limits.outbox_resend_ms) >= limits.outbox_resend_ms
    )
    return tuple(sorted(due, key=lambda r: r.sequence))


def _again(memory: Memory, job_id: str, generation: int) -> Memory | None:
    """Memory that answers a command which was seen before, None for one that was not (or is forgotten)."""
    record = memory.record
    if any((r.job_id, r.generation) == (job_id, generation) for r in memory.outbox):
        return memory
    for job in (record.job, record.queued):
        if job is not None and (job.job_id, job.generation) == (job_id, generation):
            return _report(memory, _report_of(record, job) if job is record.job else _taken(job))
    for report in memory.finished:
        if (report.job_id, report.generation) == (job_id, generation):
            return replace(memory, outbox=_with(memory.outbox, report))
    return None


def _without_early(memory: Memory) -> Memory:
    """Memory without a cancel whose command the floor keeps out."""
    floor, early = memory.record.floor, memory.early_cancel
    passed = early is not None and floor is not None and early[1] <= floor
    return replace(memory, early_cancel=None) if passed else memory


def _report(memory: Memory, report: Report) -> Memory:
    report = replace(report, sequence=memory.sequence + 1)
    finished = memory.finished
    if report.status is JobStatus.REJECTED:
        memory = _forgetting(memory)
    if report.status.terminal:
        others = tuple(r for r in finished if (r.job_id, r.generation) != (report.job_id, report.generation))
        finished = (*others, report)[-FINISHED_KEPT:]
    return replace(memory, sequence=report.sequence, outbox=_with(memory.outbox, report), finished=finished)


def _forgetting(memory: Memory) -> Memory:
    """Memory with room for one more refusal: old commands that somebody repeats must not fill the journal.

    The oldest goes. Whoever still waits for its answer asks again.
    """
    refused = sorted(r.sequence for r in memory.outbox if r.status is JobStatus.REJECTED)
    dropped = refused[: max(0, len(refused) - REFUSALS_KEPT + 1)]
    return replace(memory, outbox=tuple(r for r in memory.outbox if r.sequence not in dropped))


def _with(outbox: tuple[Report, ...], report: Report) -> tuple[Report, ...]:
    # By job, too: a refused command may carry the generation of another job's report, and both must be told.
    others = (r for r in outbox if (r.generation, r.job_id) != (report.generation, report.job_id))
    return tuple(sorted((*others, report), key=lambda r: (r.generation, r.job_id)))


def _told_of(record: UpdateRecord) -> tuple[object, ...]:
    job = record.job.job_id if record.job is not None else None
    # Attempts, boots and the like are the device's own business; a phase or a reason is news.
    return (job, record.phase, record.outcome, record.reason)


def _taken(command: Command) -> Report:
    return Report(command.job_id, command.generation, 0, JobStatus.IN_PROGRESS, Phase.ACCEPTED)


def _ended(command: Command, reason: Reason, message: str) -> Report:
    canceled = JobStatus.CANCELED
    return Report(
        command.job_id, command.generation, 0, canceled, Phase.IDLE, Outcome.FAILED, reason, message
    )


def _report_of(record: UpdateRecord, job: Command) -> Report:
    status = JobStatus.IN_PROGRESS
    if record.outcome is Outcome.SUCCEEDED:
        status = JobStatus.SUCCEEDED
    elif record.outcome is not None:
        given_up = record.outcome is Outcome.FAILED and record.reason in (Reason.CANCELED, Reason.SUPERSEDED)
        status = JobStatus.CANCELED if given_up else JobStatus.FAILED
    return Report(
        job.job_id, job.generation, 0, status, record.phase, record.outcome, record.reason, record.message,
        record.downtime_ms,
    )  # fmt: skip


# ---- the service's side


@dataclass(frozen=True, slots=True)
class ClientState:
    """What the service remembers of a client, beside its jobs."""

    issued: int = 0
    """Highest generation given to a command."""
    reported: int = 0
    """Highest floor that a birth has named."""
    epoch: str | None = None
    replaced: frozenset[str] = frozenset()
    sequence: int = -1
    """Of the newest report in `epoch`: what runs on the client is taken from the newest one only."""


class BirthVerdict(StrEnum):
    """What a birth's epoch is to the service."""

    KNOWN = "known"
    NEW = "new"
    REPLACED = "replaced"
    """A journal that was given up has come back (a restored disk, a birth that was overtaken): it is told so, and never
    becomes valid again."""


class StatusVerdict(StrEnum):
    """What became of a status."""

    APPLIED = "applied"
    STALE = "stale"
    UNKNOWN_JOB = "unknown_job"
    """Acknowledged all the same: this service will never know it, and the device must not repeat it for ever."""
    WRONG_EPOCH = "wrong_epoch"
    """Not acknowledged: the device has to announce itself first."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """The effect of a status. `newest`: it says what runs on the client now."""

    client: ClientState
    job: Job | None
    verdict: StatusVerdict
    newest: bool

    @property
    def acknowledge(self) -> bool:
        """Whether the device is told, after this is stored, to forget the report."""
        return self.verdict is not StatusVerdict.WRONG_EPOCH


def next_generation(client: ClientState) -> int:
    """The generation of a new command: above all that this service (even one restored) or the device knows of."""
    return max(client.issued, client.reported) + 1


def birth(client: ClientState, epoch: str, floor: int | None) -> tuple[ClientState, BirthVerdict]:
    """A device has connected and announced itself."""
    client = replace(client, reported=max(client.reported, floor or 0))
    if epoch in client.replaced:
        return client, BirthVerdict.REPLACED
    if epoch == client.epoch:
        return client, BirthVerdict.KNOWN
    replaced = client.replaced if client.epoch is None else client.replaced | {client.epoch}
    return replace(client, epoch=epoch, replaced=replaced, sequence=-1), BirthVerdict.NEW


def orphaned(job: Job, verdict: BirthVerdict, open_job_id: str | None, reported: int = 0) -> Job:
    """The job after a birth: one that ran in a journal which is gone has nobody left who would report its end.

    `open_job_id` is what the new journal says it works on, `reported` the floor that births before this one have named:
    a job at or under it was taken, though no status of it has arrived, unless a newer one stands above it. One that no
    device has taken is still to be sent.
    """
    taken = job.status is JobStatus.IN_PROGRESS or (
        job.status is JobStatus.QUEUED and job.superseded_by is None and job.generation <= reported
    )
    if verdict is not BirthVerdict.NEW or not taken or job.id == open_job_id:
        return job
    message = "the device lost its journal while the job ran"
    return replace(job, status=JobStatus.FAILED, reason=Reason.JOURNAL_CORRUPT, message=message)


def birth_floor(client: ClientState, untaken_generation: int | None) -> int:
    """The floor that a birth is answered with: all that was issued, less the command that is still to be taken."""
    issued = client.issued if untaken_generation is None else untaken_generation - 1
    return max(issued, client.reported)


def ingest(client: ClientState, job: Job | None, report: Report, epoch: str) -> Ingested:
    """A status has arrived. `job` is the one with its id and generation, None if there is none."""
    if epoch != client.epoch:
        return Ingested(client, job, StatusVerdict.WRONG_EPOCH, newest=False)
    newest = report.sequence > client.sequence
    if newest:
        client = replace(client, sequence=report.sequence)
    if job is None:
        return Ingested(client, None, StatusVerdict.UNKNOWN_JOB, newest)
    after = told(job, report, epoch)
    return Ingested(client, after, StatusVerdict.STALE if after == job else StatusVerdict.APPLIED, newest)


def resend_after_ms(sends: int, jitter_permille: int, limits: ServiceLimits, *, heard: bool = True) -> int:
    """Wait before a command that was sent `sends` times (1 is the first) is sent again, with equal jitter.

    A device that was not `heard` lately is most likely offline. It says so when it is back, and gets all that waits for
    it at once; until then it is spoken to seldom, so that orders for others do not wait behind vain ones.
    """
    exponent = min(max(sends, 1) - 1, 32) if heard else 32
    full = min(limits.resend_limit_ms, limits.resend_first_ms * int(limits.resend_factor**exponent))
    return full // 2 + full * jitter_permille // 2000


def command_pending(job: Job, now_ms: int, expires_at_ms: int) -> bool:
    """Whether a command still has to be sent: no device has spoken of it, no newer one counts, it has not expired."""
    return job.status is JobStatus.QUEUED and job.superseded_by is None and now_ms <= expires_at_ms


def heard_silence_ms(since_told_ms: int, hearing_ms: int) -> int:
    """How long a device has been silent, as far as the service could have heard it.

    `hearing_ms`: since the service can hear devices without a break (its start, or the broker's return). What was
    before is no silence of theirs, and no error of a wall clock between two starts counts. Never negative.
    """
    return max(0, min(since_told_ms, hearing_ms))
