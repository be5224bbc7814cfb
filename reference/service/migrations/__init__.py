"""The schema's history, and the way from any point of it to the newest.

A change of `reference.service.schema` needs a revision: `python -m reference.service.migrations "what changed"` writes
it into `versions/`. A test compares what the revisions make with what the schema says, on both databases.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from reference.core.errors import ServiceError

FOLDER = Path(__file__).parent
LOCK = 0x626C61636B
"""Key of PostgreSQL's advisory lock: of several services that start at once, one migrates and the others wait."""
LOCK_S = 60
BEFORE_ALEMBIC = "0001"
"""The revision that equals a database which SQLite's `user_version = 1` stands for."""


def configuration() -> Config:
    """Alembic's configuration: no file, this folder."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    return config


def head() -> str:
    """The newest revision."""
    found = ScriptDirectory(str(FOLDER)).get_current_head()
    assert found is not None
    return found


def upgrade(connection: Connection, where: str) -> None:
    """Bring the schema up to date, inside the caller's transaction: all of it, or nothing.

    Raises ServiceError for a database that a newer program has made or changed.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_S}s'"))
        connection.execute(text(f"SET LOCAL statement_timeout = '{LOCK_S * 10}s'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    scripts = ScriptDirectory(str(FOLDER))
    current = MigrationContext.configure(connection).get_current_heads()
    known = {revision.revision for revision in scripts.walk_revisions()}
    if not set(current) <= known:
        raise ServiceError(
            f"the database has schema {', '.join(current)}, this program knows none newer than {head()}",
            where=where,
            todo="Use the newer program that changed it, or another database.",
        )
    config = configuration()
    config.attributes["connection"] = connection
    if not current and _made_before_alembic(connection):
        command.stamp(config, BEFORE_ALEMBIC)
    if current != (head(),):
        command.upgrade(config, "head")
        if (
            connection.dialect.name == "sqlite"
            and connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        ):
            raise ServiceError(
                "the database has rows that refer to none", where=where, todo="Restore a backup."
            )


def _made_before_alembic(connection: Connection) -> bool:
    if connection.dialect.name != "sqlite":
        return False
    marked = connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 1
    return bool(marked and inspect(connection).has_table("jobs"))
