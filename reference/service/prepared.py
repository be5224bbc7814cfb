"""Statements that are run for every order: compiled once, and handed to the database's driver as they are.

What SQLAlchemy does around a statement (events, caches, result types) costs several times what SQLite needs to carry
out a small one. So the few statements of the hottest path pass it by; they fail with the same errors.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ClauseElement

Value = str | int | bytes | None


class Prepared:
    """Parameters are named; each has to be given. Types that need converting do not work here."""

    def __init__(self, *statements: ClauseElement) -> None:
        """Several statements become one where the database can do that (PostgreSQL: `WITH`); the last one answers."""
        self._statements = statements
        self._row: Any = None
        self._compiled: dict[str, list[tuple[str, tuple[str, ...] | None]]] = {}

    def first(self, connection: Connection, values: Mapping[str, Value]) -> Sequence[Any] | None:
        """The first row of the last statement. Raises sqlalchemy.exc.DBAPIError."""
        row: Sequence[Any] | None = self._run(connection, values).fetchone()
        return row

    def rows(self, connection: Connection, values: Mapping[str, Value]) -> list[Any]:
        """All rows of the last statement, their columns by name. Raises sqlalchemy.exc.DBAPIError."""
        cursor = self._run(connection, values)
        found = cursor.fetchall()
        if not found:
            return []
        if self._row is None:
            self._row = _row_type([column[0] for column in cursor.description])
        return [self._row._make(row) for row in found]

    def run(self, connection: Connection, values: Mapping[str, Value]) -> None:
        """All statements, without an answer. Raises sqlalchemy.exc.DBAPIError."""
        self._run(connection, values).close()

    def _run(self, connection: Connection, values: Mapping[str, Value]) -> Any:
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = self._compile(dialect)
        cursor = connection.connection.cursor()
        for sql, order in compiled:
            try:
                cursor.execute(sql, values if order is None else [values[name] for name in order])
            except dialect.loaded_dbapi.Error as error:
                raise _like_sqlalchemy(connection, cursor, sql, error) from error
        return cursor

    def _compile(self, dialect: Dialect) -> list[tuple[str, tuple[str, ...] | None]]:
        compiled = [statement.compile(dialect=dialect) for statement in self._statements]
        if dialect.name == "postgresql":
            # One way to the server and back instead of one for each. All parts see the same rows, and foreign keys
            # are checked at the end (PostgreSQL 15 documentation, 7.8.4 "Data-Modifying Statements in WITH").
            *before, last = (str(one) for one in compiled)
            parts = ", ".join(f"part{number} AS ({sql})" for number, sql in enumerate(before))
            return [(f"WITH {parts} {last}" if parts else last, None)]
        return [(str(one), tuple(one.positiontup or ())) for one in compiled]  # type: ignore[attr-defined]


def _like_sqlalchemy(connection: Connection, cursor: Any, sql: str, error: Exception) -> BaseException:
    """The driver's error as SQLAlchemy would have raised it; a connection that is gone leaves the pool."""
    dialect = connection.dialect
    gone = dialect.is_disconnect(error, connection.connection, cursor)  # type: ignore[arg-type]
    raised = DBAPIError.instance(
        sql, None, error, dialect.loaded_dbapi.Error, connection_invalidated=gone, dialect=dialect
    )
    if gone:
        connection.invalidate(error)
    return raised


def _row_type(names: Sequence[str]) -> Any:
    return namedtuple("Row", names)
