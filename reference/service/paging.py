"""Long lists in pages: an opaque cursor says behind which row the next page begins.

It holds the sorted value and the id of the last row that was given, not a count of rows. So rows that come and go
between two pages neither hide nor double another one, as long as the sorted value of a row does not change.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Row, Select, tuple_
from sqlalchemy.sql import ColumnElement

from reference.core.errors import InputError

T = TypeVar("T")
MAX_CURSOR_CHARS = 1024
_MAX_INT = 2**53


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, and the cursor to go on with; None at the end."""

    items: list[T]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which page of which list. `filters` are whatever narrows the list, as text."""

    sort: str
    limit: int
    cursor: str | None
    filters: Sequence[object] = ()


def page(
    connection: Connection,
    query: Select[Any],
    asked: Asked,
    sorts: Mapping[str, ColumnElement[Any]],
    tie: ColumnElement[str],
    read: Callable[[Row[Any]], T],
) -> Page[T]:
    """One page. `tie` is unique in the list. Raises InputError for a cursor that is none of this list's."""
    name = asked.sort.lstrip("+- ")
    column, descending = sorts[name], asked.sort.startswith("-")
    if asked.cursor is not None:
        value, last = _decode(asked, whole=name.endswith("At"))
        here = tuple_(column, tie)
        query = query.where(here < (value, last) if descending else here > (value, last))
    order = (column.desc(), tie.desc()) if descending else (column, tie)
    query = query.add_columns(column.label("_sorted"), tie.label("_tie")).order_by(*order)
    rows = connection.execute(query.limit(asked.limit + 1)).all()
    more = len(rows) > asked.limit
    rows = rows[: asked.limit]
    cursor = _encode(asked, rows[-1]._sorted, rows[-1]._tie) if more else None
    return Page([read(row) for row in rows], cursor)


def _mark(asked: Asked) -> str:
    meaning = json.dumps([asked.sort.strip("+ "), *(str(one) for one in asked.filters)])
    return hashlib.sha256(meaning.encode(errors="replace")).hexdigest()[:12]


def _encode(asked: Asked, value: object, last: str) -> str:
    text = json.dumps([_mark(asked), value, last], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(asked: Asked, *, whole: bool) -> tuple[int | str, str]:
    text = asked.cursor or ""
    wrong = InputError(
        "is not a cursor of this list",
        where="query.cursor",
        todo="Take nextCursor of the page before, and keep sort and filters as they were.",
    )
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise wrong from None
    if not isinstance(found, list) or len(found) != 3:
        raise wrong
    mark, value, last = found
    fits = type(value) is int and abs(value) < _MAX_INT if whole else _plain(value)
    if mark != _mark(asked) or not fits or not _plain(last):
        raise wrong
    return value, last


def _plain(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()
