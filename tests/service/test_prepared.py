"""Statements that pass SQLAlchemy by fail as it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from reference.service import schema
from reference.service.prepared import Prepared, Value
from reference.service.store import Store

_HEADS = schema.event_heads
_NAMES = ("tenant", "last", "forgotten")
_ADD = Prepared(insert(_HEADS).values({name: bindparam(name) for name in _NAMES}).inline())
_FIND = Prepared(select(_HEADS).where(_HEADS.c.tenant == bindparam("tenant")))


async def test_rows_by_name_and_errors_like_sqlalchemys(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "service.db")
    try:
        given: dict[str, Value] = {"tenant": "acme", "last": 7, "forgotten": 2}
        await store.write(lambda c: _ADD.run(c, given))
        assert await store.read(lambda c: _FIND.rows(c, {"tenant": "other"})) == []
        (row,) = await store.read(lambda c: _FIND.rows(c, {"tenant": "acme"}))
        assert (row.tenant, row.last, row.forgotten) == ("acme", 7, 2)
        assert await store.read(lambda c: _FIND.first(c, {"tenant": "acme"})) == ("acme", 7, 2)

        def wrong(statement: Prepared, expected: type[Exception]) -> bool:
            with store._engines[0].begin() as connection, pytest.raises(expected):
                statement.run(connection, given)
            return True

        assert wrong(_ADD, IntegrityError), "the key is taken"
        assert wrong(Prepared(text("SELECT * FROM nothing_here")), OperationalError)
        (row,) = await store.read(lambda c: _FIND.rows(c, {"tenant": "acme"}))
        assert row.last == 7, "nothing of it was kept"
    finally:
        await store.close()
