"""Rows as typed records, and the functions that read and write them inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, insert, or_, select, text, update

from reference.core.delivery import ClientState
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus
from reference.core.limits import ServiceLimits
from reference.core.model import Outcome, Phase
from reference.service import eventlog, schema
from reference.service.eventlog import EventType
from reference.service.prepared import Prepared

OPEN_STATUSES = (JobStatus.QUEUED.value, JobStatus.IN_PROGRESS.value)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a device acted on its own, without a job, as it says: a probation that failed."""

    code: str
    message: str


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
    previous_digest: str | None = None
    """What a rollback would bring back, as the device says."""
    previous_version: str | None = None
    hold: bool = False
    trouble: Trouble | None = None


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
    kind: str = "update"
    """`update` or `rollback`: what was asked for. To the device both are the same."""
    correlation_id: str | None = None
    successor: str | None = None
    """Id of the job that superseded it."""


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
    correlation_id: str | None = None
    """Its job's, once that was looked up."""


_CHANGES_OF_CLIENT = (
    "issued", "reported", "epoch", "sequence", "running_digest", "running_version", "previous_digest",
    "previous_version", "hold", "trouble_code", "trouble_message", "agent_version", "last_seen_ms",
)  # fmt: skip
_CHANGES_OF_JOB = (
    "status", "phase", "outcome", "reason", "message", "downtime_ms", "late_outcome", "epoch", "sequence",
    "updated_ms", "told_ms", "superseded_by",
)  # fmt: skip
# Statements of an order and of a status, built once: building them costs more than running them.
_clients, _jobs, _outbox = schema.clients, schema.jobs, schema.outbox
_CLIENT = Prepared(
    select(_clients).where(_clients.c.tenant == bindparam("tenant"), _clients.c.id == bindparam("client"))
)
_JOB = Prepared(select(_jobs).where(_jobs.c.tenant == bindparam("tenant"), _jobs.c.id == bindparam("job")))
_OF_CLIENT = select(_jobs).where(_jobs.c.tenant == bindparam("tenant"), _jobs.c.client == bindparam("client"))
# As the indexes say it, so that they are used.
_COUNTING = Prepared(_OF_CLIENT.where(text("status IN ('QUEUED', 'IN_PROGRESS') AND superseded_by IS NULL")))
_OPEN = Prepared(_OF_CLIENT.where(text("status IN ('QUEUED', 'IN_PROGRESS')")).order_by(_jobs.c.generation))
_SAVE_CLIENT = Prepared(
    update(_clients)
    .where(_clients.c.tenant == bindparam("tenant"), _clients.c.id == bindparam("id"))
    .values({name: bindparam(name) for name in _CHANGES_OF_CLIENT})
)
_SAVE_JOB = Prepared(
    update(_jobs)
    .where(_jobs.c.id == bindparam("id"))
    .values({name: bindparam(name) for name in _CHANGES_OF_JOB})
)
_CLOSE = update(_outbox).where(_outbox.c.job == bindparam("job"), text("done = 0")).values(done=text("1"))
_CLOSE_ALL, _CLOSE_UPDATE = Prepared(_CLOSE), Prepared(_CLOSE.where(text("kind = 'update'")))


# ---- clients


def find_client(connection: Connection, tenant: str, client_id: str) -> ClientRecord | None:
    """None when the tenant has no such client."""
    found = peek_client(connection, tenant, client_id)
    if found is None:
        return None
    epochs = schema.replaced_epochs
    query = select(epochs.c.epoch).where(epochs.c.tenant == tenant, epochs.c.client == client_id)
    return replace(found, state=replace(found.state, replaced=frozenset(connection.scalars(query))))


def peek_client(connection: Connection, tenant: str, client_id: str) -> ClientRecord | None:
    """The same without its replaced epochs: not for `save_client`."""
    rows = _CLIENT.rows(connection, {"tenant": tenant, "client": client_id})
    return client_of(rows[0]) if rows else None


def add_client(connection: Connection, tenant: str, client_id: str, now_ms: int) -> None:
    """A client that has not been seen yet."""
    connection.execute(insert(schema.clients).values(tenant=tenant, id=client_id, created_ms=now_ms))
    eventlog.add(connection, tenant, EventType.CLIENT_CREATED, {"clientId": client_id}, now_ms)


def save_client(connection: Connection, before: ClientRecord, after: ClientRecord) -> None:
    """Write what changed of a client."""
    state = after.state
    _SAVE_CLIENT.run(
        connection,
        {
            "tenant": after.tenant,
            "id": after.id,
            "issued": state.issued,
            "reported": state.reported,
            "epoch": state.epoch,
            "sequence": state.sequence,
            "running_digest": after.running_digest,
            "running_version": after.running_version,
            "previous_digest": after.previous_digest,
            "previous_version": after.previous_version,
            "hold": int(after.hold),
            "trouble_code": after.trouble.code if after.trouble else None,
            "trouble_message": after.trouble.message if after.trouble else None,
            "agent_version": after.agent_version,
            "last_seen_ms": after.last_seen_ms,
        },
    )
    for epoch in state.replaced - before.state.replaced:
        connection.execute(
            insert(schema.replaced_epochs).values(tenant=after.tenant, client=after.id, epoch=epoch)
        )
    if (shown := _shown(after)) != _shown(before):
        at_ms = after.last_seen_ms or after.created_ms
        eventlog.add(connection, after.tenant, EventType.CLIENT_UPDATED, shown, at_ms)


def _shown(client: ClientRecord) -> dict[str, eventlog.Value]:
    return {
        "clientId": client.id, "runningVersion": client.running_version, "runningDigest": client.running_digest,
        "previousVersion": client.previous_version, "previousDigest": client.previous_digest,
        "agentVersion": client.agent_version, "hold": client.hold,
        "trouble": {"code": client.trouble.code, "message": client.trouble.message} if client.trouble else None,
    }  # fmt: skip


def client_of(row: Row[Any]) -> ClientRecord:
    """Without its replaced epochs."""
    return ClientRecord(
        row.tenant, row.id, ClientState(row.issued, row.reported, row.epoch, frozenset(), row.sequence),
        row.running_digest, row.running_version, row.agent_version, row.last_seen_ms, row.created_ms,
        row.previous_digest, row.previous_version, bool(row.hold),
        Trouble(row.trouble_code, row.trouble_message or "") if row.trouble_code else None,
    )  # fmt: skip


# ---- jobs


def find_job(connection: Connection, tenant: str, job_id: str) -> JobRecord | None:
    """None when the tenant has no such job."""
    rows = _JOB.rows(connection, {"tenant": tenant, "job": job_id})
    return job_of(rows[0]) if rows else None


def find_jobs(connection: Connection, job_ids: Sequence[str]) -> dict[str, JobRecord]:
    """Those that there are, by id, of any tenant."""
    table = schema.jobs
    if not job_ids:
        return {}
    return {row.id: job_of(row) for row in connection.execute(select(table).where(table.c.id.in_(job_ids)))}


def find_heard(connection: Connection, job_ids: Sequence[str], since_ms: int) -> frozenset[str]:
    """Those of these jobs whose device was heard since then (wall time)."""
    if not job_ids:
        return frozenset()
    jobs, clients = schema.jobs, schema.clients
    own = and_(clients.c.tenant == jobs.c.tenant, clients.c.id == jobs.c.client)
    query = select(jobs.c.id).join(clients, own)
    return frozenset(
        connection.scalars(query.where(jobs.c.id.in_(job_ids), clients.c.last_seen_ms >= since_ms))
    )


def find_open_job(connection: Connection, tenant: str, client: str) -> JobRecord | None:
    """The one job of a client that has not ended and was not superseded."""
    rows = _COUNTING.rows(connection, {"tenant": tenant, "client": client})
    return job_of(rows[0]) if rows else None


def list_open_jobs(connection: Connection, tenant: str, client: str) -> list[JobRecord]:
    """All jobs of a client that have not ended, superseded ones too, the oldest first."""
    return [job_of(row) for row in _OPEN.rows(connection, {"tenant": tenant, "client": client})]


def list_superseded(connection: Connection, limit: int) -> list[JobRecord]:
    """Superseded jobs, of all tenants, that no device has spoken of."""
    table = schema.jobs
    query = select(table).where(table.c.status == "QUEUED", table.c.superseded_by.is_not(None))
    return [job_of(row) for row in connection.execute(query.order_by(table.c.told_ms).limit(limit))]


def find_job_of(connection: Connection, tenant: str, client: str, generation: int) -> JobRecord | None:
    """The job of a client with that generation."""
    table = schema.jobs
    query = select(table).where(
        table.c.tenant == tenant, table.c.client == client, table.c.generation == generation
    )
    row = connection.execute(query).first()
    return None if row is None else job_of(row)


def find_running_before(
    connection: Connection, tenant: str, client: str, digest: str | None
) -> JobRecord | None:
    """The newest job that succeeded with another image than `digest`: what ran before, by the history."""
    table = schema.jobs
    query = select(table).where(
        table.c.tenant == tenant,
        table.c.client == client,
        table.c.status == "SUCCEEDED",
        table.c.digest != (digest or ""),
    )
    row = connection.execute(query.order_by(table.c.generation.desc()).limit(1)).first()
    return None if row is None else job_of(row)


def list_silent_jobs(
    connection: Connection, now_ms: int, limits: ServiceLimits, limit: int
) -> list[JobRecord]:
    """Open jobs, of all tenants, that may be overdue: `reference.core.job.overdue` says whether they are."""
    table = schema.jobs
    longest_ago = now_ms - limits.shortest_deadline_ms
    steps = [
        and_(table.c.phase == phase.value, table.c.told_ms < now_ms - limits.step_deadline_ms(phase))
        for phase in Phase
    ]
    silent = or_(
        and_(table.c.status == "QUEUED", table.c.created_ms < now_ms - limits.accept_deadline_ms),
        # The first condition is what the index is for.
        and_(table.c.told_ms < longest_ago, table.c.status == "IN_PROGRESS", or_(*steps)),
        table.c.created_ms < now_ms - limits.job_deadline_ms,
    )
    query = select(table).where(table.c.status.in_(OPEN_STATUSES), silent)
    return [job_of(row) for row in connection.execute(query.order_by(table.c.told_ms).limit(limit))]


def make_told(connection: Connection, now_ms: int) -> None:
    """No device spoke in the future: a clock that was set back between two starts pauses no deadline."""
    table = schema.jobs
    later = update(table).where(table.c.status.in_(OPEN_STATUSES), table.c.told_ms > now_ms)
    connection.execute(later.values(told_ms=now_ms))


def job_row(record: JobRecord) -> dict[str, str | int | None]:
    """The record as its row in `jobs`."""
    return {
        "tenant": record.tenant,
        "client": record.client,
        "id": record.job.id,
        "generation": record.job.generation,
        "version": record.version,
        "digest": record.digest,
        "expires_ms": record.expires_ms,
        "created_by": record.created_by,
        "created_ms": record.created_ms,
        "kind": record.kind,
        "correlation_id": record.correlation_id,
        "successor": record.successor,
        **_job_values(record),
    }


def set_successor(connection: Connection, record: JobRecord, successor: str) -> None:
    """Note which job superseded one."""
    table = schema.jobs
    connection.execute(update(table).where(table.c.id == record.job.id).values(successor=successor))


def save_job(
    connection: Connection,
    record: JobRecord,
    job: Job,
    now_ms: int,
    *,
    told: bool,
    told_ms: int | None = None,
) -> JobRecord:
    """Write what a job has come to, and close what waited for it. `told`: the device spoke of it.

    `told_ms`: when, by the clock that durations are measured with; without it, `now_ms`.
    """
    told_ms = (now_ms if told_ms is None else told_ms) if told else record.told_ms
    after = replace(
        record, job=job, updated_ms=record.updated_ms if job == record.job else now_ms, told_ms=told_ms
    )
    _SAVE_JOB.run(connection, {"id": job.id, **_job_values(after)})
    if job.status.terminal:
        _CLOSE_ALL.run(connection, {"job": job.id})
    elif job.status is not JobStatus.QUEUED and record.job.status is JobStatus.QUEUED:
        _CLOSE_UPDATE.run(connection, {"job": job.id})
    # A device that only says again how it is has no news.
    if replace(job, epoch=None, sequence=0) != replace(record.job, epoch=None, sequence=0):
        eventlog.add(connection, after.tenant, EventType.JOB_UPDATED, event_of(after), after.updated_ms)
    return after


def event_of(record: JobRecord) -> dict[str, eventlog.Scalar]:
    """What an event tells of a job."""
    job = record.job
    return {
        "jobId": job.id, "clientId": record.client, "targetVersion": record.version, "generation": job.generation,
        "status": job.status.value, "phase": job.phase.value, "outcome": job.outcome.value if job.outcome else None,
        "rolledBack": job.outcome is Outcome.ROLLED_BACK, "reason": job.reason.value if job.reason else None,
        "downtimeMs": job.downtime_ms, "lateOutcome": job.late_outcome.value if job.late_outcome else None,
        "correlationId": record.correlation_id,
    }  # fmt: skip


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
        "superseded_by": job.superseded_by,
    }


def job_of(row: Row[Any]) -> JobRecord:
    """A row of `jobs`."""
    late: Outcome | JobStatus | None = None
    if row.late_outcome:
        late = Outcome(row.late_outcome) if row.late_outcome in set(Outcome) else JobStatus(row.late_outcome)
    job = Job(
        row.id, row.generation, JobStatus(row.status), Phase(row.phase),
        Outcome(row.outcome) if row.outcome else None, Reason(row.reason) if row.reason else None,
        row.message, row.downtime_ms, late, row.epoch, row.sequence, row.superseded_by,
    )  # fmt: skip
    return JobRecord(
        row.tenant, row.client, job, row.version, row.digest, row.expires_ms, row.created_by, row.created_ms,
        row.updated_ms, row.told_ms, row.kind, row.correlation_id, row.successor,
    )  # fmt: skip


# ---- the outbox


def add_waiting(connection: Connection, record: JobRecord, kind: str, payload: bytes) -> None:
    """A command for the device, due at once, by any clock."""
    given = {
        "tenant": record.tenant, "client": record.client, "job": record.job.id, "kind": kind, "payload": payload,
        "next_ms": 0, "expires_ms": record.expires_ms,
    }  # fmt: skip
    connection.execute(insert(schema.outbox), given)


def list_due(connection: Connection, now_ms: int, limit: int) -> list[Waiting]:
    """Commands that have to be sent now, the longest overdue first. What another service is sending is left to it."""
    table = schema.outbox
    query = select(table).where(table.c.done == 0, table.c.next_ms <= now_ms)
    query = query.order_by(table.c.next_ms, table.c.id).limit(limit).with_for_update(skip_locked=True)
    return [_waiting(row) for row in connection.execute(query)]


def list_waiting(connection: Connection, tenant: str, client: str) -> list[Waiting]:
    """All that a device has not confirmed, due or not, in the order in which it was made."""
    table = schema.outbox
    query = select(table).where(table.c.done == 0, table.c.tenant == tenant, table.c.client == client)
    return [_waiting(row) for row in connection.execute(query.order_by(table.c.id))]


def times_sent(connection: Connection, job_id: str) -> int:
    """How often a job's commands were handed to the broker, or were about to be."""
    table = schema.outbox
    return sum(connection.scalars(select(table.c.sends).where(table.c.job == job_id)))


def mark_sent(connection: Connection, sent: Sequence[tuple[Waiting, int]]) -> None:
    """These are about to be sent, and each is due again at the instant beside it."""
    table = schema.outbox
    if sent:
        values = [{"_id": w.id, "_sends": w.sends, "_next": next_ms} for w, next_ms in sent]
        change = update(table).where(table.c.id == bindparam("_id"))
        connection.execute(change.values(sends=bindparam("_sends"), next_ms=bindparam("_next")), values)


def mark_done(connection: Connection, waiting_ids: Sequence[int]) -> None:
    """These are never sent again."""
    table = schema.outbox
    if waiting_ids:
        connection.execute(update(table).where(table.c.id.in_(waiting_ids)).values(done=1))


def next_due_ms(connection: Connection) -> int | None:
    """When the next command has to be sent; None when none waits."""
    table = schema.outbox
    query = select(table.c.next_ms).where(table.c.done == 0).order_by(table.c.next_ms).limit(1)
    return connection.scalar(query)


def _waiting(row: Row[Any]) -> Waiting:
    return Waiting(row.id, row.tenant, row.client, row.job, row.kind, row.payload, row.sends, row.expires_ms)


def make_all_due(connection: Connection) -> None:
    """Everything that waits is sent now: the way to the broker has just come back, or the service has just started."""
    table = schema.outbox
    connection.execute(update(table).where(table.c.done == 0, table.c.next_ms > 0).values(next_ms=0))
