"""The tables. SQLite today; nothing here is SQLite's alone, so that PostgreSQL can take its place."""

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
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = 1
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
    Column("agent_version", String(64)),
    Column("last_seen_ms", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
)

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
    Column("created_ms", BigInteger, nullable=False),
)

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
    UniqueConstraint("tenant", "client", "generation"),
    ForeignKeyConstraint(["tenant", "client"], ["clients.tenant", "clients.id"]),
)
_OPEN = text("status IN ('QUEUED', 'IN_PROGRESS')")
# Of two requests at once only one can open a job, whatever the code above this does.
Index("jobs_open", jobs.c.tenant, jobs.c.client, unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN)
Index("jobs_newest", jobs.c.tenant, jobs.c.created_ms)
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
