"""Rows as typed records, and the functions that read and write them inside a transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from reference.core.delivery import ClientState
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus
from reference.core.limits import ServiceLimits
from reference.core.model import Health, Image, Outcome, Phase
from reference.service import schema

OPEN = (JobStatus.QUEUED.value, JobStatus.IN_PROGRESS.value)


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A device as the service knows it. Instants in ms since 1970."""

    tenant: str
    id: str
    state: ClientState
    running_digest: str | None
    running_version: str | None
    agent_version: str | None
    last_seen_ms: int | None
    created_ms: int


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A version that can be commanded."""

    tenant: str
    image: Image
    health: Health
    created_ms: int


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job, and what the service alone knows of it. Instants in ms since 1970."""

    tenant: str
    client: str
    job: Job
    version: str
    digest: str
    expires_ms: int
    created_by: str
    created_ms: int
    updated_ms: int
    told_ms: int
    """When the device last spoke of it; at first, when it was made."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A command in the outbox."""

    id: int
    tenant: str
    client: str
    job: str
    kind: str
    payload: bytes
    sends: int
    expires_ms: int


# ---- clients


def find_client(connection: Connection, tenant: str, client_id: str) -> ClientRecord | None:
    """None when the tenant has no such client."""
    table = schema.clients
    row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.id == client_id)).first()
    if row is None:
        return None
    epochs = schema.replaced_epochs
    query = select(epochs.c.epoch).where(epochs.c.tenant == tenant, epochs.c.client == client_id)
    return _client(row, frozenset(connection.scalars(query)))


def list_clients(connection: Connection, tenant: str, after: str, limit: int) -> list[ClientRecord]:
    """In order of their ids, from behind `after` on; without their replaced epochs."""
    table = schema.clients
    query = (
        select(table).where(table.c.tenant == tenant, table.c.id > after).order_by(table.c.id).limit(limit)
    )
    return [_client(row, frozenset()) for row in connection.execute(query)]


def add_client(connection: Connection, tenant: str, client_id: str, now_ms: int) -> None:
    """A client that has not been seen yet."""
    connection.execute(insert(schema.clients).values(tenant=tenant, id=client_id, created_ms=now_ms))


def save_client(connection: Connection, before: ClientRecord, after: ClientRecord) -> None:
    """Write what changed of a client."""
    table, state = schema.clients, after.state
    connection.execute(
        update(table)
        .where(table.c.tenant == after.tenant, table.c.id == after.id)
        .values(
            issued=state.issued,
            reported=state.reported,
            epoch=state.epoch,
            sequence=state.sequence,
            running_digest=after.running_digest,
            running_version=after.running_version,
            agent_version=after.agent_version,
            last_seen_ms=after.last_seen_ms,
        )
    )
    for epoch in state.replaced - before.state.replaced:
        connection.execute(
            insert(schema.replaced_epochs).values(tenant=after.tenant, client=after.id, epoch=epoch)
        )


def _client(row: Row[Any], replaced: frozenset[str]) -> ClientRecord:
    return ClientRecord(
        row.tenant, row.id, ClientState(row.issued, row.reported, row.epoch, replaced, row.sequence),
        row.running_digest, row.running_version, row.agent_version, row.last_seen_ms, row.created_ms,
    )  # fmt: skip


# ---- versions


def find_version(connection: Connection, tenant: str, version: str) -> VersionRecord | None:
    """None when the tenant has no such version."""
    table = schema.versions
    row = connection.execute(
        select(table).where(table.c.tenant == tenant, table.c.version == version)
    ).first()
    return None if row is None else _version(row)


def list_versions(connection: Connection, tenant: str, limit: int) -> list[VersionRecord]:
    """The newest first."""
    table = schema.versions
    query = select(table).where(table.c.tenant == tenant).order_by(table.c.created_ms.desc(), table.c.version)
    return [_version(row) for row in connection.execute(query.limit(limit))]


def add_version(connection: Connection, record: VersionRecord) -> None:
    """A version never changes once it is there."""
    connection.execute(
        insert(schema.versions).values(
            tenant=record.tenant,
            version=record.image.version,
            repository=record.image.repository,
            digest=record.image.digest,
            probe=record.health.probe,
            start_period_ms=record.health.start_period_ms,
            window_ms=record.health.window_ms,
            stable_for_ms=record.health.stable_for_ms,
            created_ms=record.created_ms,
        )
    )


def _version(row: Row[Any]) -> VersionRecord:
    health = Health(row.probe, row.start_period_ms, row.window_ms, row.stable_for_ms)
    return VersionRecord(row.tenant, Image(row.repository, row.digest, row.version), health, row.created_ms)


# ---- jobs


def find_job(connection: Connection, tenant: str, job_id: str) -> JobRecord | None:
    """None when the tenant has no such job."""
    table = schema.jobs
    row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.id == job_id)).first()
    return None if row is None else _job(row)


def find_open_job(connection: Connection, tenant: str, client: str) -> JobRecord | None:
    """The one job of a client that has not ended."""
    table = schema.jobs
    query = select(table).where(table.c.tenant == tenant, table.c.client == client, table.c.status.in_(OPEN))
    row = connection.execute(query).first()
    return None if row is None else _job(row)


def list_jobs(
    connection: Connection, tenant: str, client: str | None, status: JobStatus | None, limit: int
) -> list[JobRecord]:
    """The newest first."""
    table = schema.jobs
    query = select(table).where(table.c.tenant == tenant)
    if client is not None:
        query = query.where(table.c.client == client)
    if status is not None:
        query = query.where(table.c.status == status.value)
    query = query.order_by(table.c.created_ms.desc(), table.c.generation.desc(), table.c.id).limit(limit)
    return [_job(row) for row in connection.execute(query)]


def list_silent_jobs(
    connection: Connection, now_ms: int, limits: ServiceLimits, limit: int
) -> list[JobRecord]:
    """Open jobs, of all tenants, that may be overdue: no device has spoken of them for too long."""
    table = schema.jobs
    silent = or_(
        and_(table.c.status == "QUEUED", table.c.told_ms < now_ms - limits.accept_deadline_ms),
        and_(table.c.status == "IN_PROGRESS", table.c.told_ms < now_ms - limits.progress_deadline_ms),
    )
    query = select(table).where(table.c.status.in_(OPEN), silent).order_by(table.c.told_ms)
    return [_job(row) for row in connection.execute(query.limit(limit))]


def add_job(connection: Connection, record: JobRecord) -> None:
    """A new job. Raises sqlalchemy.exc.IntegrityError when the client has an open one."""
    fixed = {
        "tenant": record.tenant,
        "client": record.client,
        "id": record.job.id,
        "generation": record.job.generation,
        "version": record.version,
        "digest": record.digest,
        "expires_ms": record.expires_ms,
        "created_by": record.created_by,
        "created_ms": record.created_ms,
    }
    connection.execute(insert(schema.jobs).values(**fixed, **_job_values(record)))


def save_job(connection: Connection, record: JobRecord, job: Job, now_ms: int, *, told: bool) -> JobRecord:
    """Write what a job has come to, and close what waited for it. `told`: the device spoke of it."""
    table = schema.jobs
    told_ms = now_ms if told else record.told_ms
    after = replace(
        record, job=job, updated_ms=record.updated_ms if job == record.job else now_ms, told_ms=told_ms
    )
    connection.execute(update(table).where(table.c.id == job.id).values(**_job_values(after)))
    if job.status is not JobStatus.QUEUED:
        waiting = schema.outbox
        close = update(waiting).where(waiting.c.job == job.id, waiting.c.done == 0)
        if not job.status.terminal:
            close = close.where(waiting.c.kind == "update")
        connection.execute(close.values(done=1))
    return after


def _job_values(record: JobRecord) -> dict[str, str | int | None]:
    job = record.job
    return {
        "status": job.status.value,
        "phase": job.phase.value,
        "outcome": job.outcome.value if job.outcome else None,
        "reason": job.reason.value if job.reason else None,
        "message": job.message,
        "downtime_ms": job.downtime_ms,
        "late_outcome": job.late_outcome.value if job.late_outcome else None,
        "epoch": job.epoch,
        "sequence": job.sequence,
        "updated_ms": record.updated_ms,
        "told_ms": record.told_ms,
    }


def _job(row: Row[Any]) -> JobRecord:
    late: Outcome | JobStatus | None = None
    if row.late_outcome:
        late = Outcome(row.late_outcome) if row.late_outcome in set(Outcome) else JobStatus(row.late_outcome)
    job = Job(
        row.id, row.generation, JobStatus(row.status), Phase(row.phase),
        Outcome(row.outcome) if row.outcome else None, Reason(row.reason) if row.reason else None,
        row.message, row.downtime_ms, late, row.epoch, row.sequence,
    )  # fmt: skip
    return JobRecord(
        row.tenant, row.client, job, row.version, row.digest, row.expires_ms, row.created_by, row.created_ms,
        row.updated_ms, row.told_ms,
    )  # fmt: skip


# ---- the outbox


def add_waiting(connection: Connection, record: JobRecord, kind: str, payload: bytes, now_ms: int) -> None:
    """A command for the device, due at once."""
    connection.execute(
        insert(schema.outbox).values(
            tenant=record.tenant,
            client=record.client,
            job=record.job.id,
            kind=kind,
            payload=payload,
            next_ms=now_ms,
            expires_ms=record.expires_ms,
        )
    )


def list_due(connection: Connection, now_ms: int, limit: int) -> list[Waiting]:
    """Commands that have to be sent now, the longest overdue first."""
    table = schema.outbox
    query = select(table).where(table.c.done == 0, table.c.next_ms <= now_ms)
    return [
        _waiting(row) for row in connection.execute(query.order_by(table.c.next_ms, table.c.id).limit(limit))
    ]


def list_waiting(connection: Connection, tenant: str, client: str) -> list[Waiting]:
    """All that a device has not confirmed, due or not, in the order in which it was made."""
    table = schema.outbox
    query = select(table).where(table.c.done == 0, table.c.tenant == tenant, table.c.client == client)
    return [_waiting(row) for row in connection.execute(query.order_by(table.c.id))]


def times_sent(connection: Connection, job_id: str) -> int:
    """How often a job's commands were handed to the broker, or were about to be."""
    table = schema.outbox
    return sum(connection.scalars(select(table.c.sends).where(table.c.job == job_id)))


def mark_sent(connection: Connection, waiting_id: int, sends: int, next_ms: int) -> None:
    """It is about to be sent for the `sends`-th time."""
    table = schema.outbox
    connection.execute(update(table).where(table.c.id == waiting_id).values(sends=sends, next_ms=next_ms))


def mark_done(connection: Connection, waiting_id: int) -> None:
    """It is never sent again."""
    connection.execute(update(schema.outbox).where(schema.outbox.c.id == waiting_id).values(done=1))


def next_due_ms(connection: Connection) -> int | None:
    """When the next command has to be sent; None when none waits."""
    table = schema.outbox
    query = select(table.c.next_ms).where(table.c.done == 0).order_by(table.c.next_ms).limit(1)
    return connection.scalar(query)


def _waiting(row: Row[Any]) -> Waiting:
    return Waiting(row.id, row.tenant, row.client, row.job, row.kind, row.payload, row.sends, row.expires_ms)


def make_all_due(connection: Connection, now_ms: int) -> None:
    """Everything that waits is sent now: the way to the broker has just come back."""
    table = schema.outbox
    connection.execute(
        update(table).where(table.c.done == 0, table.c.next_ms > now_ms).values(next_ms=now_ms)
    )
