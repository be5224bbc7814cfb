"""Versions: what can be commanded. What one means never changes; only whether it may still be ordered does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from reference.core.model import Handover, Health, Image, Policy
from reference.service import eventlog, schema
from reference.service.eventlog import EventType


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A version that can be commanded."""

    tenant: str
    image: Image
    health: Health
    created_ms: int
    policy: Policy = field(default_factory=Policy)
    withdrawn_ms: int | None = None
    """Since when it may not be ordered any more; None while it may."""


_VERSION = select(schema.versions).where(
    schema.versions.c.tenant == bindparam("tenant"), schema.versions.c.version == bindparam("version")
)


def find_version(connection: Connection, tenant: str, version: str) -> VersionRecord | None:
    """None when the tenant has no such version."""
    row = connection.execute(_VERSION, {"tenant": tenant, "version": version}).first()
    return None if row is None else version_of(row)


def find_version_of(connection: Connection, tenant: str, digest: str) -> VersionRecord | None:
    """The newest version that means this image."""
    table = schema.versions
    query = select(table).where(table.c.tenant == tenant, table.c.digest == digest)
    row = connection.execute(query.order_by(table.c.created_ms.desc(), table.c.version).limit(1)).first()
    return None if row is None else version_of(row)


def add_version(connection: Connection, record: VersionRecord) -> None:
    """What a version means never changes once it is there."""
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
            snapshot=int(record.policy.snapshot),
            probation_ms=record.policy.probation_ms,
            lock_wait_ms=record.policy.lock_wait_ms,
            handover=record.policy.handover.value,
            created_ms=record.created_ms,
        )
    )
    _tell_version(connection, record, EventType.VERSION_CREATED, record.created_ms)


def set_withdrawn(
    connection: Connection, record: VersionRecord, *, withdrawn: bool, now_ms: int
) -> VersionRecord:
    """Withdraw a version or restore it; nothing changes when it is so already."""
    if withdrawn is (record.withdrawn_ms is not None):
        return record
    after = replace(record, withdrawn_ms=now_ms if withdrawn else None)
    table = schema.versions
    own = update(table).where(table.c.tenant == record.tenant, table.c.version == record.image.version)
    connection.execute(own.values(withdrawn_ms=after.withdrawn_ms))
    kind = EventType.VERSION_WITHDRAWN if withdrawn else EventType.VERSION_RESTORED
    _tell_version(connection, after, kind, now_ms)
    return after


def _tell_version(connection: Connection, record: VersionRecord, kind: EventType, at_ms: int) -> None:
    shown: dict[str, eventlog.Scalar] = {
        "version": record.image.version, "repository": record.image.repository, "digest": record.image.digest,
        "withdrawn": record.withdrawn_ms is not None,
    }  # fmt: skip
    eventlog.add(connection, record.tenant, kind, shown, at_ms)


def version_of(row: Row[Any]) -> VersionRecord:
    """A row of `versions`."""
    return VersionRecord(
        row.tenant, Image(row.repository, row.digest, row.version),
        Health(row.probe, row.start_period_ms, row.window_ms, row.stable_for_ms), row.created_ms,
        Policy(bool(row.snapshot), row.probation_ms, row.lock_wait_ms, Handover(row.handover)), row.withdrawn_ms,
    )  # fmt: skip
