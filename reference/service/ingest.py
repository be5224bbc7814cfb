"""What becomes of a device's word, inside one transaction. The rules are reference.core.delivery's."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from reference.core import delivery
from reference.core.delivery import BirthVerdict, StatusVerdict
from reference.core.job import JobStatus, overdue, overtaken
from reference.core.limits import ServiceLimits
from reference.protocol.models import Acknowledgement, Birth, BirthAnswer, Reply, StatusMessage
from reference.service import records
from reference.service.records import ClientRecord, JobRecord, Trouble, Waiting

UNKNOWN_CLIENT = "unknown_client"


@dataclass(frozen=True, slots=True)
class Now:
    """The moment, by two clocks. Both in ms since 1970."""

    wall_ms: int
    """What people and devices call it: instants and expiry."""
    steady_ms: int
    """Wall time at the start of the process and what has passed since: nobody sets it, so durations rest on it."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What to do once it is stored. `changed`: jobs that did, before and after."""

    verdict: str
    reply: Reply | None = None
    commands: tuple[Waiting, ...] = ()
    changed: tuple[tuple[JobRecord, JobRecord], ...] = ()


def take_birth(
    connection: Connection, tenant: str, client_id: str, birth: Birth, now: Now, limits: ServiceLimits
) -> Ingested:
    """A device has connected: what it gets is the floor, and all that waits for it."""
    client = records.find_client(connection, tenant, client_id)
    if client is None:
        return Ingested(UNKNOWN_CLIENT)
    state, verdict = delivery.birth(client.state, birth.journal_epoch, birth.generation)
    if verdict is BirthVerdict.REPLACED:
        records.save_client(connection, client, replace(client, state=state))
        # The floor is for agents that do not know the word, and would take this for a good answer.
        floor = delivery.birth_floor(state, None)
        told = BirthAnswer(nonce=birth.nonce, journal_epoch=birth.journal_epoch, floor=floor, replaced=True)
        return Ingested(verdict.value, Reply(tenant_id=tenant, client_id=client_id, birth=told))
    seen = replace(
        client,
        state=state,
        running_digest=birth.running_digest,
        running_version=birth.running_version,
        previous_digest=birth.previous_digest,
        previous_version=birth.previous_version,
        hold=birth.hold,
        trouble=Trouble(birth.reason.code, birth.reason.message) if birth.reason else None,
        agent_version=birth.agent_version or None,
        last_seen_ms=now.wall_ms,
    )
    records.save_client(connection, client, seen)
    ended = _end_orphans(connection, client, verdict, birth.open_job_id, now)
    waiting = prepare(connection, records.list_waiting(connection, tenant, client_id), now, limits)
    floor = delivery.birth_floor(state, _untaken(connection, seen, waiting))
    answer = BirthAnswer(nonce=birth.nonce, journal_epoch=birth.journal_epoch, floor=floor)
    reply = Reply(tenant_id=tenant, client_id=client_id, birth=answer)
    return Ingested(verdict.value, reply, waiting, ended)


def take_status(
    connection: Connection, tenant: str, client_id: str, message: StatusMessage, now: Now
) -> Ingested:
    """A device has spoken of a job."""
    # Its replaced epochs are neither asked for nor changed here.
    client = records.peek_client(connection, tenant, client_id)
    if client is None:
        return Ingested(UNKNOWN_CLIENT)
    report = message.to_core()
    before = records.find_job(connection, tenant, report.job_id)
    if before is not None and (before.client, before.job.generation) != (client_id, report.generation):
        before = None
    found = delivery.ingest(client.state, before.job if before else None, report, message.journal_epoch)
    if not found.acknowledge:
        return Ingested(found.verdict.value)
    seen = replace(client, state=found.client, last_seen_ms=now.wall_ms)
    if found.newest:
        seen = replace(
            seen,
            running_digest=message.running_digest,
            running_version=message.running_version,
            previous_digest=message.previous_digest,
            previous_version=message.previous_version,
            # New work of a job's ends what was on its own account. If it does not, the next birth says so again.
            trouble=None if message.status is JobStatus.IN_PROGRESS else client.trouble,
        )
    records.save_client(connection, client, seen)
    changed: tuple[tuple[JobRecord, JobRecord], ...] = ()
    if before is not None and found.job is not None and found.verdict is StatusVerdict.APPLIED:
        after = records.save_job(connection, before, found.job, now.wall_ms, told=True, told_ms=now.steady_ms)
        changed = ((before, after), *_end_overtaken(connection, after, now))
    told = Acknowledgement(
        journal_epoch=message.journal_epoch,
        job_id=report.job_id,
        generation=report.generation,
        sequence=report.sequence,
    )
    reply = Reply(tenant_id=tenant, client_id=client_id, acknowledgement=told)
    return Ingested(found.verdict.value, reply, (), changed)


def prepare(
    connection: Connection, rows: Sequence[Waiting], now: Now, limits: ServiceLimits
) -> tuple[Waiting, ...]:
    """Of these commands the ones to send now, already noted as sent: a crash in between sends again, never less."""
    jobs = records.find_jobs(connection, [waiting.job for waiting in rows])
    heard = records.find_heard(connection, list(jobs), now.wall_ms - limits.presence_ms)
    ready, over = [], []
    for waiting in rows:
        record = jobs.get(waiting.job)
        if record is None or not _pending(record, waiting, now.wall_ms):
            over.append(waiting.id)
            continue
        sends = waiting.sends + 1
        wait_ms = resend_after_ms(sends, limits, heard=waiting.job in heard)
        found = replace(waiting, sends=sends, correlation_id=record.correlation_id)
        ready.append((found, now.steady_ms + wait_ms))
    records.mark_done(connection, over)
    records.mark_sent(connection, ready)
    return tuple(waiting for waiting, _ in ready)


def resend_after_ms(sends: int, limits: ServiceLimits, *, heard: bool) -> int:
    """How long to wait until a command that was sent so often is sent again. `heard`: its device was, lately."""
    jitter_permille = random.randrange(1001)  # noqa: S311 (spreads load, protects nothing)
    return delivery.resend_after_ms(sends, jitter_permille, limits, heard=heard)


def end_overdue(
    connection: Connection, silent: Iterable[JobRecord], now: Now, hearing_ms: int, limits: ServiceLimits
) -> list[tuple[JobRecord, JobRecord]]:
    """Jobs that have passed their deadline, before and after.

    `hearing_ms`: since the service can hear devices; what was before is no silence of theirs.
    """
    ended = []
    for seen in silent:
        before = records.find_job(connection, seen.tenant, seen.job.id)
        if before is None:
            continue
        silent_ms = delivery.heard_silence_ms(now.steady_ms - before.told_ms, hearing_ms)
        job = overdue(before.job, silent_ms, now.steady_ms - before.created_ms, limits)
        if job != before.job:
            after = records.save_job(connection, before, job, now.wall_ms, told=False)
            ended += [(before, after), *_end_overtaken(connection, after, now)]
    return ended


def end_superseded(
    connection: Connection, waiting: Iterable[JobRecord], now: Now
) -> list[tuple[JobRecord, JobRecord]]:
    """Superseded jobs whose newer one is worked on or over, before and after.

    Most end with the status that says so; this finds those whose newer one ended in another way.
    """
    ended: list[tuple[JobRecord, JobRecord]] = []
    for record in waiting:
        by = record.job.superseded_by
        newer = None if by is None else records.find_job_of(connection, record.tenant, record.client, by)
        if newer is not None:
            ended += _end_overtaken(connection, newer, now)
    return ended


def _end_overtaken(
    connection: Connection, newer: JobRecord, now: Now
) -> tuple[tuple[JobRecord, JobRecord], ...]:
    ended = []
    for before in records.list_open_jobs(connection, newer.tenant, newer.client):
        job = overtaken(before.job, newer.job)
        if job != before.job:
            ended.append((before, records.save_job(connection, before, job, now.wall_ms, told=False)))
    return tuple(ended)


def _end_orphans(
    connection: Connection, client: ClientRecord, verdict: BirthVerdict, open_job_id: str | None, now: Now
) -> tuple[tuple[JobRecord, JobRecord], ...]:
    """The jobs that a lost journal took with it, before and after. `client`: as it was before this birth."""
    if verdict is not BirthVerdict.NEW:
        return ()
    ended = []
    for before in records.list_open_jobs(connection, client.tenant, client.id):
        job = delivery.orphaned(before.job, verdict, open_job_id, client.state.reported)
        if job != before.job:
            ended.append((before, records.save_job(connection, before, job, now.wall_ms, told=False)))
    return tuple(ended)


def _pending(record: JobRecord, waiting: Waiting, now_ms: int) -> bool:
    if waiting.kind == "update":
        return delivery.command_pending(record.job, now_ms, waiting.expires_ms)
    return not record.job.status.terminal and now_ms <= waiting.expires_ms


def _untaken(connection: Connection, client: ClientRecord, waiting: Iterable[Waiting]) -> int | None:
    """Generation of the command that the device has not spoken of and will be sent."""
    opened = records.find_open_job(connection, client.tenant, client.id)
    if opened is None or opened.job.status is not JobStatus.QUEUED:
        return None
    sent = any(one.job == opened.job.id and one.kind == "update" for one in waiting)
    return opened.job.generation if sent else None
