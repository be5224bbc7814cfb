"""How transactions are run: SQLite with one writer that commits in groups, PostgreSQL with many and tries again.

A work is a function over a SQLAlchemy connection. It may be run more than once, of which one run counts: it touches
nothing but the database.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from reference.core.errors import BlackstartError, ServiceError

T = TypeVar("T")
Work = Callable[[Connection], T]
log = logging.getLogger(__name__)

BUSY_MS = 2_000
"""How long SQLite waits for the lock of another process (a backup). What is locked for longer is an outage: it is told
as one, and to all that waits for it at once."""
LOCK_MS = 5_000
"""How long a statement waits for a lock of another service (PostgreSQL: one that brings the schema up to date)."""
STATEMENT_MS = 10_000
"""No statement of ours is meant to take this long (PostgreSQL)."""
CONNECT_S = 3
GROUP = 64
"""Transactions that one commit may carry."""
WAITING = 5_000
"""Transactions that may wait for SQLite's writer: further ones are refused at once."""
WRITERS, READERS = 8, 4
"""Connections to PostgreSQL."""
CLASHES = 40
"""Tries of a transaction that another one got in the way of: enough for all writers of two services to want one row."""
SERIALIZATION_FAILURE, DEADLOCK, UNIQUE_VIOLATION = "40001", "40P01", "23505"


class Lane(Protocol):
    """Runs transactions of one kind."""

    def submit(self, work: Work[T]) -> Future[T]:
        """Run it in a transaction. The future holds its result once that is committed, or what went wrong."""

    def close(self) -> None:
        """Finish what was submitted. Blocks."""


# ---- SQLite


def sqlite_engine(url: URL, begin: str, *, foreign_keys: bool = True) -> Engine:
    """One connection, in WAL with synchronous=FULL: what a commit has returned from survives a power cut.

    Without `foreign_keys`, for migrations alone: a table that others refer to is replaced by its copy.
    """
    engine = create_engine(url, connect_args={"check_same_thread": False}, pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver's own idea of when to begin hides SELECTs from the transaction: it is switched off.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"foreign_keys = {'ON' if foreign_keys else 'OFF'}",
            f"busy_timeout = {BUSY_MS}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@dataclass(frozen=True, slots=True)
class _Asked(Generic[T]):
    work: Work[T]
    future: Future[T]

    def settle(self, outcome: T | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class _NotBegunError(Exception):
    def __init__(self, cause: DBAPIError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class GroupWriter:
    """One thread and one connection. All that waits when it is free shares a commit, each in a savepoint of its own.

    A work that refuses (a BlackstartError) undoes itself alone. Any other failure undoes the group, whose members are
    then run one by one, so that each gets the outcome it would have had alone. Where not even a transaction can be
    begun, all that waits is told so at once: one by one, each would wait for the same lock again.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.SimpleQueue[_Asked[object] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        """Raises RuntimeError when closed, ServiceError when too many wait."""
        if self._closed:
            raise RuntimeError("the writer is closed")
        if self._waiting.qsize() >= WAITING:
            raise ServiceError(f"{WAITING} transactions wait for the database", todo="Try again later.")
        future: Future[T] = Future()
        self._waiting.put(_Asked(work, future))  # type: ignore[arg-type]
        return future

    def close(self) -> None:
        """Finish what was submitted."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (asked := self._waiting.get()) is not None:
            group = [asked]
            while len(group) < GROUP:
                try:
                    another = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    self._waiting.put(None)
                    break
                group.append(another)
            self._carry_out([one for one in group if one.future.set_running_or_notify_cancel()])

    def _carry_out(self, group: list[_Asked[object]]) -> None:
        if len(group) > 1:
            try:
                outcomes = self._together(group)
            except _NotBegunError as error:
                self._refuse(group, error.cause)
                return
            except Exception as error:
                log.debug("a group is run one by one: %s", error)
            else:
                for one, outcome in zip(group, outcomes, strict=True):
                    one.settle(outcome)
                return
        for place, one in enumerate(group):
            try:
                with self._begun() as connection:
                    result = one.work(connection)
            except _NotBegunError as error:
                self._refuse(group[place:], error.cause)
                return
            except Exception as error:
                one.settle(error)
            else:
                one.settle(result)

    def _refuse(self, group: list[_Asked[object]], cause: DBAPIError) -> None:
        """Tell these and all that waits behind them, as far as it waits now, why they cannot be run."""
        for one in group:
            one.settle(cause)
        for _ in range(self._waiting.qsize()):
            asked = self._waiting.get()
            if asked is None:
                self._waiting.put(None)
            elif asked.future.set_running_or_notify_cancel():
                asked.settle(cause)

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self._engine.connect())
                stack.enter_context(connection.begin())
            except DBAPIError as error:
                raise _NotBegunError(error) from None
            yield connection

    def _together(self, group: list[_Asked[object]]) -> list[object]:
        outcomes: list[object] = []
        with self._begun() as connection:
            for one in group:
                # Not begin_nested(): its bookkeeping costs more than the work of an order.
                connection.exec_driver_sql("SAVEPOINT one")
                try:
                    outcomes.append(one.work(connection))
                except BlackstartError as refusal:
                    connection.exec_driver_sql("ROLLBACK TO one")
                    outcomes.append(refusal)
                connection.exec_driver_sql("RELEASE one")
        return outcomes


class OneReader:
    """One thread and one connection for reading (SQLite)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(1, "store-reader")

    def submit(self, work: Work[T]) -> Future[T]:
        """Raises RuntimeError when closed."""
        return self._threads.submit(self._transaction, work)

    def close(self) -> None:
        """Finish what was submitted."""
        self._threads.shutdown()

    def _transaction(self, work: Work[T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)


# ---- PostgreSQL


def postgres_engine(url: URL) -> Engine:
    """Connections whose transactions each see one state of the database, and fail rather than overwrite another's."""
    timeouts = (
        f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={LOCK_MS} "
        f"-c idle_in_transaction_session_timeout={STATEMENT_MS} -c synchronous_commit=on"
    )
    return create_engine(
        url,
        isolation_level="REPEATABLE READ",
        pool_size=WRITERS + READERS,
        max_overflow=1,
        pool_timeout=LOCK_MS / 1000,
        connect_args={
            "options": timeouts,
            "connect_timeout": CONNECT_S,
            "application_name": "blackstart",
            # A peer that vanished without a word is noticed, too.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": STATEMENT_MS,
        },
    )


class Retrying:
    """Several threads. A transaction that another one got in the way of is run again: nothing of it was kept.

    Under REPEATABLE READ two transactions that write the same row cannot both commit (SQLSTATE 40001), and every rule
    of one client writes that client's row or its job's. Two that insert the same key cannot either (23505): the one
    that lost sees the other's row when it is run again.
    Source: PostgreSQL 15 documentation, 13.2.2 "Repeatable Read Isolation Level".
    """

    def __init__(self, engine: Engine, threads: int, name: str) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(threads, name)

    def submit(self, work: Work[T]) -> Future[T]:
        """Raises RuntimeError when closed."""
        return self._threads.submit(self._transaction, work)

    def close(self) -> None:
        """Finish what was submitted."""
        self._threads.shutdown()

    def _transaction(self, work: Work[T]) -> T:
        for attempt in range(CLASHES - 1):
            try:
                return self._once(work)
            except _Again as again:
                if not again.at_once:
                    time.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))  # noqa: S311 (spreads load)
        return self._once(work, last=True)

    def _once(self, work: Work[T], *, last: bool = False) -> T:
        committing = False
        try:
            with self._engine.connect() as connection, connection.begin() as transaction:
                result = work(connection)
                committing = True
                transaction.commit()
                return result
        except DBAPIError as error:
            if last or not _worth_another_try(error, committing):
                raise
            raise _Again(at_once=error.connection_invalidated) from None


class _Again(Exception):  # noqa: N818 (it is no error: the transaction is run again)
    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once


def clashed(error: Exception) -> bool:
    """Whether another transaction got in the way: nothing is wrong with the database."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state in (SERIALIZATION_FAILURE, DEADLOCK)


def _worth_another_try(error: DBAPIError, committing: bool) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if clashed(error):
        return True
    if isinstance(error, IntegrityError):
        return state == UNIQUE_VIOLATION
    # A connection of the pool that had died unnoticed. One that died in COMMIT may have committed: never again then.
    return bool(error.connection_invalidated) and not committing
