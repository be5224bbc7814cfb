"""What an order asks of the database, in as few statements as it takes: one that reads and one that writes."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, insert, select, text, update
from sqlalchemy.sql.dml import Insert

from reference.service import catalogue, eventlog, records, schema
from reference.service.catalogue import VersionRecord
from reference.service.prepared import Prepared, Value
from reference.service.records import ClientRecord, JobRecord, Waiting


@dataclass(frozen=True, slots=True)
class Found:
    """What an order is judged by."""

    client: ClientRecord
    version: VersionRecord | None
    opened: JobRecord | None
    """The client's one job that has not ended and was not superseded."""


def look(connection: Connection, tenant: str, client: str, version: str) -> Found | None:
    """None when the tenant has no such client."""
    row = _LOOK.first(connection, {"tenant": tenant, "client": client, "version": version})
    if row is None:
        return None
    a, b = len(_CLIENT_ROW._fields), len(_CLIENT_ROW._fields) + len(_VERSION_ROW._fields)
    version_row, job_row = _VERSION_ROW(*row[a:b]), _JOB_ROW(*row[b:])
    return Found(
        records.client_of(_CLIENT_ROW(*row[:a])),
        None if version_row.tenant is None else catalogue.version_of(version_row),
        None if job_row.id is None else records.job_of(job_row),
    )


def place(connection: Connection, record: JobRecord, payload: bytes, due_ms: int | None = None) -> Waiting:
    """A new job, its event, its command in the outbox, and the client's new generation.

    The command is due at once, by any clock. With `due_ms` it is about to be sent, and due then again. Raises
    sqlalchemy.exc.IntegrityError when the client has an open job.
    """
    told = records.event_of(record)
    sends = 0 if due_ms is None else 1
    command: dict[str, Value] = {
        "tenant": record.tenant, "client": record.client, "job": record.job.id, "kind": "update", "payload": payload,
        "sends": sends, "next_ms": due_ms or 0, "expires_ms": record.expires_ms, "done": 0,
    }  # fmt: skip
    event: dict[str, Value] = {
        "tenant": record.tenant, "type": eventlog.EventType.JOB_CREATED.value, "data": eventlog.text_of(told),
        "at_ms": record.updated_ms,
    }  # fmt: skip
    values: dict[str, Value] = {f"j_{name}": value for name, value in records.job_row(record).items()}
    values |= {f"o_{name}": value for name, value in command.items()}
    values |= {f"e_{name}": value for name, value in event.items()}
    _PLACE.run(connection, values)
    return Waiting(
        0, record.tenant, record.client, record.job.id, "update", payload, sends, record.expires_ms,
        record.correlation_id,
    )  # fmt: skip


def _row(table: Table) -> Any:
    return namedtuple(f"{table.name}_row", [column.name for column in table.c])


def _insert(table: Table, prefix: str, *left_out: str) -> Insert:
    names = [column.name for column in table.c if column.name not in left_out]
    return insert(table).values({name: bindparam(f"{prefix}_{name}") for name in names}).inline()


_CLIENT_ROW, _VERSION_ROW, _JOB_ROW = _row(schema.clients), _row(schema.versions), _row(schema.jobs)
_clients, _versions, _jobs = schema.clients, schema.versions, schema.jobs
_LOOK = Prepared(
    select(_clients, _versions, _jobs)
    .select_from(
        _clients.outerjoin(
            _versions,
            and_(_versions.c.tenant == _clients.c.tenant, _versions.c.version == bindparam("version")),
        ).outerjoin(
            _jobs,
            and_(
                _jobs.c.tenant == _clients.c.tenant,
                _jobs.c.client == _clients.c.id,
                # As the index says it, so that it is used.
                text("jobs.status IN ('QUEUED', 'IN_PROGRESS') AND jobs.superseded_by IS NULL"),
            ),
        )
    )
    .where(_clients.c.tenant == bindparam("tenant"), _clients.c.id == bindparam("client"))
)
# The job first: where this is several statements, the outbox refers to it.
_PLACE = Prepared(
    _insert(_jobs, "j"),
    _insert(schema.events, "e", "seq", "id"),
    update(_clients)
    .where(_clients.c.tenant == bindparam("j_tenant"), _clients.c.id == bindparam("j_client"))
    .values(issued=bindparam("j_generation")),
    _insert(schema.outbox, "o", "id"),
)
