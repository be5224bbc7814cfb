"""Alembic runs this: migrate over the connection that `reference.service.migrations` hands in."""

from __future__ import annotations

from alembic import context

from reference.service.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    # SQLite cannot alter a table: it is copied into a new one.
    render_as_batch=True,
    process_revision_directives=context.config.attributes.get("process"),
)
# The transaction is the caller's.
context.run_migrations()
