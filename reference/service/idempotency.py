"""A request that may be repeated without doing its work twice: the `Idempotency-Key` header.

Source: draft-ietf-httpapi-idempotency-key-header. A key belongs to a caller (tenant and subject) and a route. Its
answer is kept in the transaction of its effect, so that there is never one without the other. A refusal has no effect
and is not kept: the next try is judged anew. Of two at once one does the work; the other waits for it in the database
and is given its answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.sql import ColumnElement

from reference.core.errors import InputError, Reason
from reference.service import schema
from reference.service.auth import Principal

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
PATTERN = r'^([!#-\[\]-~]{1,128}|"[!#-\[\]-~]{1,128}")$'
"""A string of RFC 8941 as the draft wants it, or the same without its quotes, as many send it."""
SWEPT = 1_000
"""Expired keys removed in one transaction."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that may come again."""

    caller: Principal
    route: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Made:
    """What a request that makes something is answered with: `body` is JSON."""

    status: int
    body: str
    location: str | None = None
    replayed: bool = False
    kept: str | None = field(default=None, repr=False)
    """The body as it is kept and answered again, where the first one shows a secret."""


def ticket(caller: Principal, route: str, key: str | None, *parts: str) -> Ticket | None:
    """Of a request whose meaning is in `parts`; None without a key."""
    if key is None:
        return None
    meaning = "\0".join(parts).encode(errors="surrogatepass")
    return Ticket(caller, route, key.strip('"'), hashlib.sha256(meaning).hexdigest())


def once(
    connection: Connection,
    given: Ticket | None,
    now_ms: int,
    lifetime_ms: int,
    work: Callable[[Connection], Made],
) -> Made:
    """Do the work, or answer as before. Raises InputError(IDEMPOTENCY_KEY_REUSED), and what the work raises."""
    if given is None:
        return work(connection)
    table = schema.idempotency
    row = connection.execute(select(table).where(_own(given))).first()
    if row is not None and row.expires_ms > now_ms:
        if row.fingerprint != given.fingerprint:
            raise InputError(
                "the key came with another request before",
                reason=Reason.IDEMPOTENCY_KEY_REUSED,
                where=HEADER,
                todo="Make a new key for each new request.",
            )
        return Made(row.status, row.body, row.location, replayed=True)
    if row is not None:
        connection.execute(delete(table).where(_own(given)))
    made = work(connection)
    connection.execute(
        insert(table).values(
            tenant=given.caller.tenant,
            subject=given.caller.subject,
            route=given.route,
            key=given.key,
            fingerprint=given.fingerprint,
            status=made.status,
            location=made.location,
            body=made.body if made.kept is None else made.kept,
            expires_ms=now_ms + lifetime_ms,
        )
    )
    return replace(made, replayed=False)


def sweep(connection: Connection, now_ms: int) -> int:
    """Remove what has expired, at most SWEPT of them. How many went."""
    table = schema.idempotency
    query = select(table).where(table.c.expires_ms <= now_ms).order_by(table.c.expires_ms).limit(SWEPT)
    rows = connection.execute(query).all()
    for row in rows:
        same = (table.c.tenant == row.tenant, table.c.subject == row.subject)
        connection.execute(delete(table).where(*same, table.c.route == row.route, table.c.key == row.key))
    return len(rows)


def _own(given: Ticket) -> ColumnElement[bool]:
    table = schema.idempotency
    return (
        (table.c.tenant == given.caller.tenant)
        & (table.c.subject == given.caller.subject)
        & (table.c.route == given.route)
        & (table.c.key == given.key)
    )
