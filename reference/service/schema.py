"""The tables, the same on SQLite and PostgreSQL.

After a change here: `python -m reference.service.migrations "what changed"` (`--again` to write the newest revision anew).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

clients = Table(
    "clients",
    metadata,
    Column("tenant", String(27), primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("issued", BigInteger, nullable=False, default=0),
    Column("reported", BigInteger, nullable=False, default=0),
    Column("epoch", String(64)),
    Column("sequence", BigInteger, nullable=False, default=-1),
    Column("running_digest", String(71)),
    Column("running_version", String(128)),
    Column("previous_digest", String(71)),
    Column("previous_version", String(128)),
    Column("hold", Integer, nullable=False, default=0),
    Column("trouble_code", String(64)),
    Column("trouble_message", String(2000)),
    Column("agent_version", String(64)),
    Column("last_seen_ms", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
)
Index("clients_newest", clients.c.tenant, clients.c.created_ms, clients.c.id)
Index("clients_seen", clients.c.tenant, clients.c.last_seen_ms, clients.c.id)
Index("clients_version", clients.c.tenant, clients.c.running_version, clients.c.id)

# One row for each journal that was given up: an epoch in here never becomes valid again.
replaced_epochs = Table(
    "replaced_epochs",
    metadata,
    Column("tenant", String(27), primary_key=True),
    Column("client", String(36), primary_key=True),
    Column("epoch", String(64), primary_key=True),
    ForeignKeyConstraint(["tenant", "client"], ["clients.tenant", "clients.id"]),
)

versions = Table(
    "versions",
    metadata,
    Column("tenant", String(27), primary_key=True),
    Column("version", String(128), primary_key=True),
    Column("repository", String(255), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("probe", String(255), nullable=False),
    Column("start_period_ms", BigInteger, nullable=False),
    Column("window_ms", BigInteger, nullable=False),
    Column("stable_for_ms", BigInteger, nullable=False),
    Column("snapshot", Integer, nullable=False, default=0),
    Column("probation_ms", BigInteger, nullable=False, default=0),
    Column("lock_wait_ms", BigInteger, nullable=False, default=0),
    Column("handover", String(16), nullable=False, default="stop_first"),
    Column("created_ms", BigInteger, nullable=False),
    Column("withdrawn_ms", BigInteger),
)
Index("versions_newest", versions.c.tenant, versions.c.created_ms, versions.c.version)
Index("versions_digest", versions.c.tenant, versions.c.digest)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(27), nullable=False),
    Column("client", String(36), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("version", String(128), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("status", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("outcome", String(16)),
    Column("reason", String(64)),
    Column("message", String(2000), nullable=False, default=""),
    Column("downtime_ms", BigInteger),
    Column("late_outcome", String(16)),
    Column("epoch", String(64)),
    Column("sequence", BigInteger, nullable=False, default=-1),
    Column("expires_ms", BigInteger, nullable=False),
    Column("created_by", String(256), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("told_ms", BigInteger, nullable=False),
    Column("superseded_by", BigInteger),
    Column("successor", String(64)),
    Column("kind", String(16), nullable=False, default="update"),
    Column("correlation_id", String(64)),
    UniqueConstraint("tenant", "client", "generation"),
    ForeignKeyConstraint(["tenant", "client"], ["clients.tenant", "clients.id"]),
)
_OPEN = text("status IN ('QUEUED', 'IN_PROGRESS')")
_COUNTS = text("status IN ('QUEUED', 'IN_PROGRESS') AND superseded_by IS NULL")
# Of two requests at once only one can open a job, whatever the code above this does. One that was superseded may
# still be open beside it.
Index(
    "jobs_counting", jobs.c.tenant, jobs.c.client, unique=True, sqlite_where=_COUNTS, postgresql_where=_COUNTS
)
Index("jobs_open_all", jobs.c.tenant, jobs.c.client, sqlite_where=_OPEN, postgresql_where=_OPEN)
Index("jobs_newest", jobs.c.tenant, jobs.c.created_ms, jobs.c.id)
Index("jobs_updated", jobs.c.tenant, jobs.c.updated_ms, jobs.c.id)
Index("jobs_client", jobs.c.tenant, jobs.c.client, jobs.c.created_ms, jobs.c.id)
Index("jobs_told", jobs.c.told_ms, sqlite_where=_OPEN, postgresql_where=_OPEN)

# Commands that still have to reach a device: written with the job, removed from sight (done) when it has spoken.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("tenant", String(27), nullable=False),
    Column("client", String(36), nullable=False),
    Column("job", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("sends", Integer, nullable=False, default=0),
    Column("next_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("done", Integer, nullable=False, default=0),
    ForeignKeyConstraint(["job"], ["jobs.id"]),
)
_WAITING = text("done = 0")
Index("outbox_due", outbox.c.next_ms, sqlite_where=_WAITING, postgresql_where=_WAITING)
Index("outbox_job", outbox.c.job)
Index("outbox_client", outbox.c.tenant, outbox.c.client, sqlite_where=_WAITING, postgresql_where=_WAITING)

# What a request that makes something was answered with: written with its effect, so that both are kept or neither.
idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(27), primary_key=True),
    Column("subject", String(256), primary_key=True),
    Column("route", String(128), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("location", String(512)),
    Column("body", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)
Index("idempotency_expires", idempotency.c.expires_ms)

# What happened, written with what it tells of. `id` counts each tenant's events and is given after the commit, by one
# at a time: an order that a sequence cannot give, as transactions commit in another order than they begin.
events = Table(
    "events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant", String(27), nullable=False),
    Column("id", BigInteger),
    Column("type", String(32), nullable=False),
    Column("data", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
_UNNUMBERED = text("id IS NULL")
Index("events_id", events.c.tenant, events.c.id, unique=True)
Index("events_unnumbered", events.c.seq, sqlite_where=_UNNUMBERED, postgresql_where=_UNNUMBERED)

# Each tenant's highest id, and the highest one that was forgotten.
event_heads = Table(
    "event_heads",
    metadata,
    Column("tenant", String(27), primary_key=True),
    Column("last", BigInteger, nullable=False, default=0),
    Column("forgotten", BigInteger, nullable=False, default=0),
)

# The one registration token that a client has at most: a new one takes the place of the old. Only its hash is kept.
registration_tokens = Table(
    "registration_tokens",
    metadata,
    Column("tenant", String(27), primary_key=True),
    Column("client", String(36), primary_key=True),
    Column("id", String(16), nullable=False, unique=True),
    Column("hash", String(64), nullable=False),
    Column("created_by", String(256), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("key", String(64)),
    Column("serial", String(40)),
    ForeignKeyConstraint(["tenant", "client"], ["clients.tenant", "clients.id"]),
)

# Devices' certificates: those that were handed out, and of others the revoked ones (without `pem`).
certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("tenant", String(27), nullable=False),
    Column("client", String(36), nullable=False),
    Column("key", String(64), nullable=False),
    Column("pem", Text),
    Column("issued_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
    ForeignKeyConstraint(["tenant", "client"], ["clients.tenant", "clients.id"]),
)
_REVOKED = text("revoked_ms IS NOT NULL")
Index("certificates_client", certificates.c.tenant, certificates.c.client, certificates.c.key)
Index(
    "certificates_revoked",
    certificates.c.expires_ms,
    sqlite_where=_REVOKED,
    postgresql_where=_REVOKED,
)

# Clients that were revoked ever: of them no certificate counts that is not in the table above.
revocations = Table(
    "revocations",
    metadata,
    Column("tenant", String(27), primary_key=True),
    Column("client", String(36), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("by", String(256), nullable=False),
    ForeignKeyConstraint(["tenant", "client"], ["clients.tenant", "clients.id"]),
)
