"""The lists of the API: filtered, sorted, in pages; each page is one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, select

from reference.core.job import JobStatus
from reference.service import schema
from reference.service.catalogue import VersionRecord, version_of
from reference.service.paging import Asked, Page, page
from reference.service.records import ClientRecord, JobRecord, client_of, job_of


class Presence(StrEnum):
    """Whether a client was heard lately. The value is what the API answers."""

    ONLINE = "online"
    OFFLINE = "offline"
    NEVER = "never"
    """It has never been heard."""


def presence_of(last_seen_ms: int | None, now_ms: int, presence_ms: int) -> Presence:
    """What the service can honestly say: nobody tells it that a device is gone, only silence does."""
    if last_seen_ms is None:
        return Presence.NEVER
    return Presence.ONLINE if now_ms - last_seen_ms <= presence_ms else Presence.OFFLINE


@dataclass(frozen=True, slots=True)
class ClientFilter:
    """None and nothing narrow nothing."""

    presence: Presence | None = None
    heard_since_ms: int = 0
    """The instant that tells online from offline."""
    running_version: str | None = None
    prefix: str | None = None
    last_statuses: Sequence[JobStatus] = ()


@dataclass(frozen=True, slots=True)
class JobFilter:
    """None and nothing narrow nothing. From is inclusive, to is not; ms since 1970."""

    client: str | None = None
    statuses: Sequence[JobStatus] = ()
    version: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class LastJob:
    """The newest order of a client."""

    id: str
    status: JobStatus


Listed = tuple[ClientRecord, LastJob | None]


def find_client(connection: Connection, tenant: str, client_id: str) -> Listed | None:
    """A client and its last job."""
    clients = schema.clients
    asked = Asked("clientId", 1, None)
    query = _clients(tenant).where(clients.c.id == client_id)
    found = page(connection, query, asked, {"clientId": clients.c.id}, clients.c.id, _listed).items
    return found[0] if found else None


def list_clients(connection: Connection, tenant: str, wanted: ClientFilter, asked: Asked) -> Page[Listed]:
    """Raises InputError for a bad cursor."""
    clients, jobs = schema.clients, schema.jobs
    query = _clients(tenant)
    seen = clients.c.last_seen_ms
    match wanted.presence:
        case Presence.NEVER:
            query = query.where(seen.is_(None))
        case Presence.ONLINE:
            query = query.where(seen >= wanted.heard_since_ms)
        case Presence.OFFLINE:
            query = query.where(seen < wanted.heard_since_ms)
        case None:
            pass
    if wanted.running_version is not None:
        query = query.where(clients.c.running_version == wanted.running_version)
    if wanted.prefix:
        # Not LIKE: SQLite's does not tell capitals from small letters.
        query = query.where(func.substr(clients.c.id, 1, len(wanted.prefix)) == wanted.prefix)
    if wanted.last_statuses:
        query = query.where(jobs.c.status.in_([status.value for status in wanted.last_statuses]))
    sorts = {
        "clientId": clients.c.id,
        "createdAt": clients.c.created_ms,
        "lastSeenAt": func.coalesce(seen, -1),
    }
    return page(connection, query, asked, sorts, clients.c.id, _listed)


def list_versions(
    connection: Connection, tenant: str, withdrawn: bool | None, asked: Asked
) -> Page[VersionRecord]:
    """Raises InputError for a bad cursor."""
    versions = schema.versions
    query = select(versions).where(versions.c.tenant == tenant)
    if withdrawn is not None:
        gone = versions.c.withdrawn_ms
        query = query.where(gone.is_not(None) if withdrawn else gone.is_(None))
    sorts = {"version": versions.c.version, "createdAt": versions.c.created_ms}
    return page(connection, query, asked, sorts, versions.c.version, version_of)


def list_jobs(connection: Connection, tenant: str, wanted: JobFilter, asked: Asked) -> Page[JobRecord]:
    """Raises InputError for a bad cursor."""
    jobs = schema.jobs
    query = select(jobs).where(jobs.c.tenant == tenant)
    if wanted.client is not None:
        query = query.where(jobs.c.client == wanted.client)
    if wanted.statuses:
        query = query.where(jobs.c.status.in_([status.value for status in wanted.statuses]))
    if wanted.version is not None:
        query = query.where(jobs.c.version == wanted.version)
    if wanted.from_ms is not None:
        query = query.where(jobs.c.created_ms >= wanted.from_ms)
    if wanted.to_ms is not None:
        query = query.where(jobs.c.created_ms < wanted.to_ms)
    sorts = {"createdAt": jobs.c.created_ms, "updatedAt": jobs.c.updated_ms}
    return page(connection, query, asked, sorts, jobs.c.id, job_of)


def _clients(tenant: str) -> Select[Any]:
    clients, jobs = schema.clients, schema.jobs
    # The last job is the one of the last generation that was given: unique, so this joins at most one row.
    last = and_(
        jobs.c.tenant == clients.c.tenant,
        jobs.c.client == clients.c.id,
        jobs.c.generation == clients.c.issued,
    )
    chosen = select(clients, jobs.c.id.label("job_id"), jobs.c.status.label("job_status"))
    return chosen.select_from(clients.outerjoin(jobs, last)).where(clients.c.tenant == tenant)


def _listed(row: Row[Any]) -> Listed:
    last = None if row.job_id is None else LastJob(row.job_id, JobStatus(row.job_status))
    return client_of(row), last
