"""`python -m reference.service.migrations "what changed"`: write the revision that the schema's change needs.

`--again` writes the newest one anew, for one that no released program has carried.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from alembic import command
from alembic.operations.ops import AddColumnOp, MigrationScript, ModifyTableOps
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, DefaultClause, text

from reference.service import migrations
from reference.service.databases import sqlite_engine


def _fill_old_rows(_context: MigrationContext, _revision: object, directives: list[MigrationScript]) -> None:
    """A new column that may not be empty gets, in the rows that are there, what the schema says for new ones."""
    for script in directives:
        for change in script.upgrade_ops.ops if script.upgrade_ops else ():
            inner: Iterable[object] = change.ops if isinstance(change, ModifyTableOps) else (change,)
            for one in inner:
                if (
                    isinstance(one, AddColumnOp)
                    and not one.column.nullable
                    and one.column.default is not None
                ):
                    value = getattr(one.column.default, "arg", None)
                    one.column.server_default = DefaultClause(text(repr(value)))


def main(arguments: list[str]) -> int:
    """Write it. The exit code."""
    again = "--again" in arguments
    words = [word for word in arguments if word != "--again"]
    scripts = ScriptDirectory(str(migrations.FOLDER))
    if again:
        newest = scripts.get_revision(migrations.head())
        assert newest is not None
        words = words or [str(newest.doc).rstrip(".")]
        Path(newest.path).unlink()
    if len(words) != 1:
        sys.stderr.write(f"{__doc__}")
        return 2
    number = len(list(ScriptDirectory(str(migrations.FOLDER)).walk_revisions())) + 1
    with tempfile.TemporaryDirectory() as folder:
        engine = sqlite_engine(
            URL.create("sqlite", database=f"{folder}/empty.db"), "BEGIN", foreign_keys=False
        )
        with engine.begin() as connection:
            if number > 1:
                migrations.upgrade(connection, folder)
            config = migrations.configuration()
            config.attributes.update(connection=connection, process=_fill_old_rows)
            made = command.revision(config, words[0], autogenerate=True, rev_id=f"{number:04}")
        engine.dispose()
    sys.stdout.write(f"{made.path if made and not isinstance(made, list) else ''}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
