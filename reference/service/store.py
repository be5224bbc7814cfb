"""The database behind two doors: `write`, one transaction that is durable when it returns, and `read`.

By URL it is SQLite, a file with one writer, or PostgreSQL. The rules are the same on both: a transaction sees one
state of the database, and no two of them overwrite each other's work (`reference.service.databases`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, delete, insert, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, ProgrammingError, SQLAlchemyError

from reference.core.errors import InputError, ServiceError
from reference.service import migrations, schema
from reference.service.databases import (
    READERS,
    WRITERS,
    GroupWriter,
    Lane,
    OneReader,
    Retrying,
    clashed,
    postgres_engine,
    sqlite_engine,
)

T = TypeVar("T")
ANSWER_S = 15.0
"""A database that hangs cannot keep its own time: longer than it may take for a statement, and a try of it again."""
Watcher = Callable[[str | None], None]
"""Is told after each transaction what is wrong with the database, None when nothing is."""


class Store:
    """Open with `Store.open`; `close` when done. Every failure of the database is a ServiceError."""

    def __init__(
        self, where: str, folder: Path | None, engines: tuple[Engine, ...], lanes: tuple[Lane, Lane]
    ) -> None:
        self.where = where
        """For people: the file, or the URL without its password."""
        self.folder = folder
        """Where a file may be kept beside the database; None when there is no such place."""
        self._engines = engines
        self._writing, self._reading = lanes
        self._watcher: Watcher | None = None
        self._troubles: dict[Lane, str] = {}
        self._wrote_s = time.monotonic()

    @classmethod
    def open(cls, where: Path | str, folder: Path | None = None) -> Store:
        """Open the database, make it if it is not there, and bring its schema up to date. Blocks.

        `where`: a path for SQLite, or a URL, `sqlite:///PATH` or `postgresql://USER@HOST/NAME`. `folder`: see there;
        with SQLite the file's own. Raises ServiceError, and InputError for a URL that is none.
        """
        url = _url(where)
        opened = _open_sqlite if url.get_backend_name() == "sqlite" else _open_postgres
        return opened(url, folder)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engines[0].dialect.name

    def watch(self, watcher: Watcher) -> None:
        """Let `watcher` know of the database's health, on the event loop."""
        self._watcher = watcher

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction: durable when this returns, undone when `work` raises. Raises ServiceError.

        `work` touches nothing but the database: it may be run again when another transaction got in its way. After a
        ServiceError it may have been kept all the same, if the database died in the commit: a work bears being
        repeated.
        """
        return await self._run(self._writing, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` over one consistent view. Raises ServiceError."""
        return await self._run(self._reading, work)

    async def probe(self, every_s: float) -> None:
        """Find out whether the database can be written, unless it was within `every_s`. Raises ServiceError.

        In an outage always: what can be read (SQLite that another process has locked, a full disk, a standby of
        PostgreSQL) can be written only when a write says so, and nobody else may have something to write.
        """
        if not self._troubles and time.monotonic() - self._wrote_s < every_s:
            return
        await self.write(_write_something)

    async def close(self) -> None:
        """Finish what was begun and let go of the database."""
        for lane in (self._writing, self._reading):
            await asyncio.get_running_loop().run_in_executor(None, lane.close)
        for engine in self._engines:
            engine.dispose()

    async def _run(self, lane: Lane, work: Callable[[Connection], T]) -> T:
        try:
            async with asyncio.timeout(ANSWER_S):
                result = await asyncio.wrap_future(lane.submit(work))
        except TimeoutError:
            failure = ServiceError(f"the database failed: no answer within {ANSWER_S:g} s", where=self.where)
            self._fails(lane, failure)
            raise failure from None
        except SQLAlchemyError as error:
            failure = _unavailable(error, self.where)
            # What the database itself refuses is a defect of ours, not its absence; a clash is neither.
            if not isinstance(error, IntegrityError | ProgrammingError | DataError) and not clashed(error):
                self._fails(lane, failure)
            raise failure from None
        except RuntimeError as error:
            # A lane that has been closed.
            raise ServiceError(f"the database is closed: {error}", where=self.where) from None
        # That something could be read does not say that it can be written.
        self._troubles.pop(lane, None)
        if lane is self._writing:
            self._wrote_s = time.monotonic()
        self._tell()
        return result

    def _fails(self, lane: Lane, failure: ServiceError) -> None:
        self._troubles[lane] = failure.what
        self._tell()

    def _tell(self) -> None:
        if self._watcher is not None:
            self._watcher(next(iter(self._troubles.values()), None))


def _write_something(connection: Connection) -> None:
    """A row that is gone again when this commits: pages are written all the same."""
    table = schema.idempotency
    mark = uuid.uuid4().hex
    given = {"subject": "", "route": "", "fingerprint": "", "status": 0, "body": "", "expires_ms": 0}
    connection.execute(insert(table).values(tenant="", key=mark, **given))
    connection.execute(delete(table).where(table.c.tenant == "", table.c.key == mark))


def _url(where: Path | str) -> URL:
    if isinstance(where, Path):
        # Not as text: in a URL's text `?`, `#` and `%` of a path would mean something.
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except ArgumentError:
        url = None
    kind = url.get_backend_name() if url is not None else ""
    if url is None or kind not in ("sqlite", "postgresql"):
        # The text itself is not repeated: it may hold a password.
        raise InputError(
            "is not a database that can be used",
            where="database URL",
            todo="Give sqlite:///PATH or postgresql://USER@HOST/NAME.",
        )
    if kind == "sqlite" and url.database in (None, "", ":memory:"):
        raise InputError("names no file", where="database URL", todo="Give sqlite:///PATH.")
    return url.set(drivername="sqlite" if kind == "sqlite" else "postgresql+psycopg")


def _open_sqlite(url: URL, folder: Path | None) -> Store:
    path = Path(str(url.database))
    migrator = sqlite_engine(url, "BEGIN IMMEDIATE", foreign_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with migrator.begin() as connection:
            modes = [
                connection.exec_driver_sql(f"PRAGMA {p}").scalar_one()
                for p in ("journal_mode", "synchronous")
            ]
            if modes != ["wal", 2]:
                raise ServiceError(f"the database cannot be made durable here: {modes}", where=str(path))
            migrations.upgrade(connection, str(path))
    except (SQLAlchemyError, OSError) as error:
        raise _unavailable(error, str(path)) from None
    finally:
        migrator.dispose()
    writer, reader = sqlite_engine(url, "BEGIN IMMEDIATE"), sqlite_engine(url, "BEGIN")
    lanes = (GroupWriter(writer), OneReader(reader))
    return Store(str(path), folder or path.parent, (writer, reader), lanes)


def _open_postgres(url: URL, folder: Path | None) -> Store:
    where = url.render_as_string(hide_password=True)
    engine = postgres_engine(url)
    try:
        # Not under REPEATABLE READ: whoever waited for the lock has to see what its holder did.
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            migrations.upgrade(connection, where)
    except SQLAlchemyError as error:
        engine.dispose()
        raise _unavailable(error, where) from None
    except BaseException:
        engine.dispose()
        raise
    lanes = (Retrying(engine, WRITERS, "store-writer"), Retrying(engine, READERS, "store-reader"))
    return Store(where, folder, (engine,), lanes)


def _unavailable(error: SQLAlchemyError | OSError, where: str) -> ServiceError:
    cause = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    return ServiceError(
        f"the database failed: {cause[0]}",
        where=where,
        todo="Look at the database, its disk and its rights, then try again.",
    )
