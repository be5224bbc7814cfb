"""What becomes of a device's word, inside one transaction. The rules are reference.core.delivery's."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from reference.core import delivery
from reference.core.delivery import BirthVerdict, StatusVerdict
from reference.core.job import JobStatus, overdue
from reference.core.limits import ServiceLimits
from reference.protocol.models import Acknowledgement, Birth, BirthAnswer, Reply, StatusMessage
from reference.service import records
from reference.service.records import ClientRecord, JobRecord, Waiting

UNKNOWN_CLIENT = "unknown_client"


@dataclass(frozen=True, slots=True)
class Ingested:
    """What to do once it is stored. `before` and `after`: of the job that changed, if one did."""

    verdict: str
    reply: Reply | None = None
    commands: tuple[Waiting, ...] = ()
    before: JobRecord | None = None
    after: JobRecord | None = None


def take_birth(
    connection: Connection, tenant: str, client_id: str, birth: Birth, now_ms: int, limits: ServiceLimits
) -> Ingested:
    """A device has connected: what it gets is the floor, and all that waits for it."""
    client = records.find_client(connection, tenant, client_id)
    if client is None:
        return Ingested(UNKNOWN_CLIENT)
    state, verdict = delivery.birth(client.state, birth.journal_epoch, birth.generation)
    if verdict is BirthVerdict.REPLACED:
        records.save_client(connection, client, replace(client, state=state))
        return Ingested(verdict.value)
    seen = replace(
        client,
        state=state,
        running_digest=birth.running_digest,
        running_version=birth.running_version,
        agent_version=birth.agent_version or None,
        last_seen_ms=now_ms,
    )
    records.save_client(connection, client, seen)
    before, after = _end_orphan(connection, seen, verdict, birth.open_job_id, now_ms)
    waiting = prepare(connection, records.list_waiting(connection, tenant, client_id), now_ms, limits)
    floor = delivery.birth_floor(state, _untaken(connection, seen, waiting))
    answer = BirthAnswer(nonce=birth.nonce, journal_epoch=birth.journal_epoch, floor=floor)
    reply = Reply(tenant_id=tenant, client_id=client_id, birth=answer)
    return Ingested(verdict.value, reply, waiting, before, after)


def take_status(
    connection: Connection, tenant: str, client_id: str, message: StatusMessage, now_ms: int
) -> Ingested:
    """A device has spoken of a job."""
    client = records.find_client(connection, tenant, client_id)
    if client is None:
        return Ingested(UNKNOWN_CLIENT)
    report = message.to_core()
    before = records.find_job(connection, tenant, report.job_id)
    if before is not None and (before.client, before.job.generation) != (client_id, report.generation):
        before = None
    found = delivery.ingest(client.state, before.job if before else None, report, message.journal_epoch)
    if not found.acknowledge:
        return Ingested(found.verdict.value)
    seen = replace(client, state=found.client, last_seen_ms=now_ms)
    if found.newest:
        seen = replace(seen, running_digest=message.running_digest, running_version=message.running_version)
    records.save_client(connection, client, seen)
    after = None
    if before is not None and found.job is not None and found.verdict is StatusVerdict.APPLIED:
        after = records.save_job(connection, before, found.job, now_ms, told=True)
    told = Acknowledgement(
        journal_epoch=message.journal_epoch,
        job_id=report.job_id,
        generation=report.generation,
        sequence=report.sequence,
    )
    reply = Reply(tenant_id=tenant, client_id=client_id, acknowledgement=told)
    return Ingested(found.verdict.value, reply, (), before, after)


def prepare(
    connection: Connection, rows: Iterable[Waiting], now_ms: int, limits: ServiceLimits
) -> tuple[Waiting, ...]:
    """Of these commands the ones to send now, already noted as sent: a crash in between sends again, never less."""
    ready = []
    for waiting in rows:
        record = records.find_job(connection, waiting.tenant, waiting.job)
        if record is None or not _pending(record, waiting, now_ms):
            records.mark_done(connection, waiting.id)
            continue
        sends = waiting.sends + 1
        jitter_permille = random.randrange(1001)  # noqa: S311 (spreads load, protects nothing)
        wait_ms = delivery.resend_after_ms(sends, jitter_permille, limits)
        records.mark_sent(connection, waiting.id, sends, now_ms + wait_ms)
        ready.append(replace(waiting, sends=sends))
    return tuple(ready)


def end_overdue(
    connection: Connection, silent: Iterable[JobRecord], now_ms: int, limits: ServiceLimits
) -> list[tuple[JobRecord, JobRecord]]:
    """Jobs that have passed their deadline, before and after."""
    ended = []
    for seen in silent:
        before = records.find_job(connection, seen.tenant, seen.job.id)
        if before is None:
            continue
        job = overdue(before.job, now_ms - before.told_ms, limits)
        if job != before.job:
            ended.append((before, records.save_job(connection, before, job, now_ms, told=False)))
    return ended


def _end_orphan(
    connection: Connection, client: ClientRecord, verdict: BirthVerdict, open_job_id: str | None, now_ms: int
) -> tuple[JobRecord, JobRecord] | tuple[None, None]:
    """The job that a lost journal took with it, before and after; None twice when there is none."""
    opened = records.find_open_job(connection, client.tenant, client.id)
    if opened is None:
        return None, None
    job = delivery.orphaned(opened.job, verdict, open_job_id)
    if job == opened.job:
        return None, None
    return opened, records.save_job(connection, opened, job, now_ms, told=False)


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
