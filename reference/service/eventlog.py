"""What happened, in the database: written with the change that it tells of, numbered after its commit, kept for a while.

A number is given by one transaction at a time, and only to what is committed. So a reader that has seen number n will
never meet a lower one later, on PostgreSQL too, where a sequence's values commit out of order. Giving numbers apart
from the change keeps orders of one tenant from waiting for each other at its counter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from reference.service import schema
from reference.service.prepared import Prepared

BATCH = 500
"""Events numbered in one transaction."""
Scalar = str | int | bool | None
Value = Scalar | Mapping[str, str]
_ADD = Prepared(
    insert(schema.events)
    .values({name: bindparam(name) for name in ("tenant", "type", "data", "at_ms")})
    .inline()
)


class EventType(StrEnum):
    """The value is what the API answers."""

    JOB_CREATED = "job.created"
    JOB_UPDATED = "job.updated"
    CLIENT_CREATED = "client.created"
    CLIENT_UPDATED = "client.updated"
    VERSION_CREATED = "version.created"
    VERSION_WITHDRAWN = "version.withdrawn"
    VERSION_RESTORED = "version.restored"
    RESET = "reset"
    """Never stored: what was asked for is no longer kept, so read the lists and go on from here."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `id` rises strictly within the tenant; `data` is a JSON object; `at_ms` since 1970."""

    id: int
    type: str
    data: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Head:
    """A tenant's highest id, and the highest that was forgotten."""

    last: int = 0
    forgotten: int = 0


def add(connection: Connection, tenant: str, kind: EventType, data: Mapping[str, Value], at_ms: int) -> None:
    """Tell of a change, in its own transaction."""
    given = {"tenant": tenant, "type": kind.value, "data": text_of(data), "at_ms": at_ms}
    _ADD.run(connection, given)


def text_of(data: Mapping[str, Scalar | Mapping[str, str]]) -> str:
    """The JSON object, as it is kept."""
    return json.dumps(data, separators=(",", ":"))


def any_unnumbered(connection: Connection) -> bool:
    """Whether there is work for `number`."""
    table = schema.events
    return connection.scalar(select(table.c.seq).where(table.c.id.is_(None)).limit(1)) is not None


def number(connection: Connection) -> int:
    """Give the next numbers to what is committed and has none. How many were given.

    Two at once clash at the tenants' heads, and one of them is run again (see `reference.service.databases`).
    """
    table, heads = schema.events, schema.event_heads
    query = select(table.c.seq, table.c.tenant).where(table.c.id.is_(None)).order_by(table.c.seq).limit(BATCH)
    rows = connection.execute(query).all()
    by_tenant: dict[str, list[int]] = {}
    for row in rows:
        by_tenant.setdefault(row.tenant, []).append(row.seq)
    # Always in the same order, so that two of these cannot lock each other out.
    for tenant in sorted(by_tenant):
        numbers = by_tenant[tenant]
        known = connection.scalar(select(heads.c.last).where(heads.c.tenant == tenant))
        last = known or 0
        if known is None:
            connection.execute(insert(heads).values(tenant=tenant, last=len(numbers), forgotten=0))
        else:
            raised = update(heads).where(heads.c.tenant == tenant).values(last=last + len(numbers))
            connection.execute(raised)
        given = [{"_seq": seq, "_id": last + place} for place, seq in enumerate(numbers, 1)]
        connection.execute(
            update(table).where(table.c.seq == bindparam("_seq")).values(id=bindparam("_id")), given
        )
    return len(rows)


def find_head(connection: Connection, tenant: str) -> Head:
    """Zeros for a tenant of which nothing is known."""
    heads = schema.event_heads
    row = connection.execute(select(heads.c.last, heads.c.forgotten).where(heads.c.tenant == tenant)).first()
    return Head() if row is None else Head(row.last, row.forgotten)


def find_lasts(connection: Connection, tenants: Sequence[str]) -> dict[str, int]:
    """The highest id of each of these tenants that has any."""
    heads = schema.event_heads
    query = select(heads.c.tenant, heads.c.last).where(heads.c.tenant.in_(tenants))
    return {row.tenant: row.last for row in connection.execute(query)}


def list_after(connection: Connection, tenant: str, after: int, limit: int) -> list[Event]:
    """Events with a higher number, in order; one `reset` when some of them are gone, or `after` is not ours.

    `after` = 0 means: all that are kept.
    """
    head = find_head(connection, tenant)
    if after > head.last or 0 < after < head.forgotten:
        data = {"oldest": head.forgotten + 1, "newest": head.last}
        return [Event(head.last, EventType.RESET.value, json.dumps(data), 0)]
    table = schema.events
    query = (
        select(table).where(table.c.tenant == tenant, table.c.id > after).order_by(table.c.id).limit(limit)
    )
    return [Event(row.id, row.type, row.data, row.at_ms) for row in connection.execute(query)]


def forget(connection: Connection, kept: int, since_ms: int) -> int:
    """Remove all but the newest `kept` events of each tenant, and those from before `since_ms`. How many went."""
    table, heads = schema.events, schema.event_heads
    gone = 0
    for head in connection.execute(select(heads).order_by(heads.c.tenant)).all():
        own = table.c.tenant == head.tenant
        # Up to the first that is young, not up to the last that is old: a clock that was set back for a while makes
        # old ones of young ones.
        young = select(func.min(table.c.id)).where(own, table.c.at_ms >= since_ms)
        first = connection.scalar(young)
        until = max(head.last - kept, head.last if first is None else first - 1)
        if until > head.forgotten:
            raised = update(heads).where(heads.c.tenant == head.tenant).values(forgotten=until)
            connection.execute(raised)
            gone += connection.execute(delete(table).where(own, table.c.id <= until)).rowcount
    return gone
