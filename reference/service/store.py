"""The database behind two doors: `write`, one transaction after the other, and `read`.

SQLite takes one writer at a time; here it has one thread and one connection, so that writers wait in a queue rather
than for a lock. WAL with synchronous=FULL: what a commit has returned from survives a power cut. The doors take
functions over a SQLAlchemy connection, so another database changes this file only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from reference.core.errors import ServiceError
from reference.service.schema import SCHEMA_VERSION, metadata

T = TypeVar("T")
BUSY_MS = 5_000
"""How long a statement waits for a lock of another process (a backup, a look with sqlite3)."""
log = logging.getLogger(__name__)


class Store:
    """Open with `Store.open`; `close` when done. Every failure of the database is a ServiceError."""

    def __init__(self, path: Path, writer: Engine, reader: Engine) -> None:
        self.path = path
        self._engines = {True: writer, False: reader}
        self._threads = {
            True: ThreadPoolExecutor(1, "store-writer"),
            False: ThreadPoolExecutor(1, "store-reader"),
        }

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the database, and make it if it is not there. Blocks. Raises ServiceError."""
        writer, reader = _engine(path, "BEGIN IMMEDIATE"), _engine(path, "BEGIN")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with writer.begin() as connection:
                _prepare(connection, path)
        except (SQLAlchemyError, OSError) as error:
            writer.dispose()
            raise _unavailable(error, path) from None
        return cls(path, writer, reader)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction: durable when this returns, undone when `work` raises. Raises ServiceError."""
        return await self._run(True, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` over one consistent view. Raises ServiceError."""
        return await self._run(False, work)

    async def close(self) -> None:
        """Finish what was begun and let go of the file."""
        for threads in self._threads.values():
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        for engine in self._engines.values():
            engine.dispose()

    async def _run(self, writing: bool, work: Callable[[Connection], T]) -> T:
        def transaction() -> T:
            try:
                with self._engines[writing].begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                raise _unavailable(error, self.path) from None

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads[writing], transaction)
        except RuntimeError as error:
            # An executor that has been shut down.
            raise ServiceError(f"the database is closed: {error}", where=str(self.path)) from None


def _engine(path: Path, begin: str) -> Engine:
    # Not as text: in a URL's text `?`, `#` and `%` of a path would mean something.
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"check_same_thread": False}, pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver's own idea of when to begin hides SELECTs from the transaction: it is switched off.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"busy_timeout = {BUSY_MS}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _prepare(connection: Connection, path: Path) -> None:
    modes = [connection.exec_driver_sql(f"PRAGMA {p}").scalar_one() for p in ("journal_mode", "synchronous")]
    if modes != ["wal", 2]:
        raise ServiceError(f"the database cannot be made durable here: {modes}", where=str(path))
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version == 0:
        metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        raise ServiceError(
            f"the database has schema {version}, this program knows {SCHEMA_VERSION}",
            where=str(path),
            todo="Use the program that made it, or another data folder.",
        )


def _unavailable(error: SQLAlchemyError | OSError, path: Path) -> ServiceError:
    cause = getattr(error, "orig", None) or error
    return ServiceError(
        f"the database failed: {cause}",
        where=str(path),
        todo="Look at the disk and the file's rights, then try again.",
    )
