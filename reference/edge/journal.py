"""The journal: everything that a device must remember over a power cut, written in one durable transaction.

SQLite in WAL mode with EXTRA sync and EXCLUSIVE locking: the one variant that lost nothing over 300 cuts at a single
sync a commit (docs/adr/0006-journal-sqlite.md). The modes are asserted at open, every row carries its checksum, and
a file that is missing is never made by opening it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from reference.core.delivery import Memory
from reference.core.errors import JournalError, Reason
from reference.core.job import Report
from reference.core.model import Outcome, Phase
from reference.core.update import UpdateRecord
from reference.support.files import fsync_dir

SCHEMA_VERSION = 3
"""2: with policy, correlation and probation; 3: with the policy's handover, whose trial an older agent cannot go on with.
What an older journal does not say has the value that means as before."""
_PARTS = ("-wal", "-shm", "")
"""Files of a journal, by the end of their names. The database itself is moved last: a cut leaves it to be found."""
ASIDE_KEPT = 5
"""Journals that were set aside and are kept: a disk that damages each of them must not be filled by them, too."""
HISTORY_KEPT = 1000
"""Rows of history kept, newest first."""

_RECORD = TypeAdapter(UpdateRecord)
_REPORT = TypeAdapter(Report)
_EARLY = TypeAdapter(tuple[str, int])
_NUMBER = TypeAdapter(int)
_SCHEMA = """
CREATE TABLE rows (kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, checksum TEXT NOT NULL,
                   PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE history (number INTEGER PRIMARY KEY, body TEXT NOT NULL, checksum TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of phase, for people and for judges: `at_ms` (wall time) decides nothing."""

    at_ms: int
    job_id: str | None
    generation: int | None
    phase: Phase
    outcome: Outcome | None
    reason: Reason | None
    boot_id: str | None


_ENTRY = TypeAdapter(HistoryEntry)


class Journal:
    """An open journal, held exclusively. `memory` is what the disk holds."""

    def __init__(self, path: Path, connection: sqlite3.Connection, memory: Memory) -> None:
        self.path = path
        self._connection = connection
        self.memory = memory

    @classmethod
    def create(cls, path: Path, record: UpdateRecord) -> None:
        """Make a new journal that holds `record`; it is visible whole or not at all."""
        new = path.with_suffix(".new")
        try:
            # Of the final name too: SQLite would replay an orphaned log of an earlier journal into the new one.
            for file in (new, path):
                for leftover in (Path(f"{file}-wal"), Path(f"{file}-shm"), Path(f"{file}-journal")):
                    leftover.unlink(missing_ok=True)
            new.unlink(missing_ok=True)
            with closing(sqlite3.connect(new, isolation_level=None)) as connection:
                connection.executescript(_SCHEMA)
                _write(connection, Memory(record), None)
            with new.open("rb") as handle:
                os.fsync(handle.fileno())
            new.replace(path)
            fsync_dir(path.parent)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"cannot make the journal: {error}", where=str(path)) from error

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open, check and sync what is there.

        Raises JournalError: JOURNAL_LOCKED when another agent holds it, JOURNAL_TOO_NEW when a newer agent has written
        it, JOURNAL_CORRUPT when it is missing or any part of it cannot be believed, DISK_FULL or CONFIGURATION_INVALID
        when it may be good and cannot be used here. An older one is brought to this version, in one transaction.
        """
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, timeout=1.0
            )
        except sqlite3.Error as error:
            if not path.exists():
                raise JournalError("is missing", where=str(path)) from error
            raise _named(error, path) from error
        try:
            _settle(connection)
            memory = _load(connection)
            # What a killed agent wrote may still be only in the page cache: make it durable before believing it.
            _make_durable(connection, path)
            if _version(connection) != SCHEMA_VERSION:
                _write(connection, memory, None)
        except BaseException as error:
            connection.close()
            raise _named(error, path) from error
        return cls(path, connection, memory)

    def write(self, memory: Memory) -> None:
        """Make `memory` durable: when this returns it is on the disk.

        Raises JournalError when it is not known to be: read again with `reload`, and assume nothing.
        """
        entry = None if _news(self.memory.record) == _news(memory.record) else _entry(memory.record)
        try:
            _write(self._connection, memory, entry)
        except sqlite3.Error as error:
            raise _named(error, self.path) from error
        self.memory = memory

    def reload(self) -> Memory:
        """What the disk holds, after a write that failed: a COMMIT that raised may have reached it.

        It may have reached the page cache only, so it is synced before it is believed, as at the start. Raises
        JournalError: JOURNAL_CORRUPT when it cannot be read; DISK_FULL when it can, and the disk does not take it now:
        `memory` is the old one then.
        """
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            memory = _load(self._connection)
        except (sqlite3.Error, JournalError) as error:
            raise _named(error, self.path) from error
        try:
            _make_durable(self._connection, self.path)
        except (sqlite3.Error, OSError) as error:
            # It was read, so it is whole: an error that may pass must not cost all that is remembered.
            what = f"is whole, and cannot be synced now: {error}"
            raise JournalError(what, reason=Reason.DISK_FULL, where=str(self.path)) from error
        self.memory = memory
        return self.memory

    def history(self) -> list[HistoryEntry]:
        """The last changes of phase, oldest first."""
        rows = self._connection.execute("SELECT number, body, checksum FROM history ORDER BY number")
        return [
            _ENTRY.validate_json(_believed("history", str(n), body, checksum)) for n, body, checksum in rows
        ]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def set_aside(path: Path, now_s: float) -> Path:
    """Move a journal that cannot be believed out of the way, under a dated name; answers where it is now."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    target, number = path.with_name(f"{path.name}.corrupt-{stamp}"), 1
    while any(Path(f"{target}{suffix}").exists() for suffix in _PARTS):
        number += 1
        target = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    for suffix in _PARTS:
        part = Path(f"{path}{suffix}")
        if part.exists():
            part.replace(Path(f"{target}{suffix}"))
    found = path.parent.glob(f"{glob.escape(path.name)}.corrupt-*")
    aside = sorted({p.name.removesuffix("-wal").removesuffix("-shm") for p in found} - {target.name})
    for old in aside[: 1 - ASIDE_KEPT]:
        for suffix in _PARTS:
            path.with_name(f"{old}{suffix}").unlink(missing_ok=True)
    fsync_dir(path.parent)
    return target


def _settle(connection: sqlite3.Connection) -> None:
    # EXCLUSIVE before WAL: otherwise a -shm file is mapped, and a full disk then ends the agent with SIGBUS.
    for pragma, value in (("locking_mode", "exclusive"), ("journal_mode", "wal"), ("synchronous", "extra")):
        connection.execute(f"PRAGMA {pragma}={value}")
    modes = {
        p: connection.execute(f"PRAGMA {p}").fetchone()[0]
        for p in ("locking_mode", "journal_mode", "synchronous")
    }
    if modes != {"locking_mode": "exclusive", "journal_mode": "wal", "synchronous": 3}:
        raise JournalError(f"SQLite did not take the modes that keep it over a power cut: {modes}")
    found = connection.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise JournalError(f"quick_check: {found}")


def _make_durable(connection: sqlite3.Connection, path: Path) -> None:
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_FULL":
            raise
        # A full disk has no room to move the log into the database; as it is, both can be read, and both are synced.
        for part in (path, Path(f"{path}-wal")):
            if part.exists():
                with part.open("rb") as handle:
                    os.fsync(handle.fileno())


def _version(connection: sqlite3.Connection) -> int:
    """The version of the journal. Raises JournalError when it names none."""
    rows = connection.execute("SELECT key, body, checksum FROM rows WHERE kind = 'schema'").fetchall()
    bodies = [_believed("schema", key, body, checksum) for key, body, checksum in rows]
    if len(bodies) != 1 or not bodies[0].isdecimal():
        raise JournalError(f"names the versions {bodies}")
    return int(bodies[0])


def _load(connection: sqlite3.Connection) -> Memory:
    if (version := _version(connection)) > SCHEMA_VERSION:
        what = f"has version {version}, this agent reads up to {SCHEMA_VERSION}"
        todo = "Install the newer agent again. The client goes on running, and the journal is as it was."
        raise JournalError(what, reason=Reason.JOURNAL_TOO_NEW, todo=todo)
    rows = connection.execute("SELECT kind, key, body, checksum FROM rows ORDER BY kind, key").fetchall()
    bodies: dict[str, list[str]] = {
        "record": [],
        "sequence": [],
        "outbox": [],
        "finished": [],
        "schema": [],
        "early_cancel": [],
    }
    for kind, key, body, checksum in rows:
        if kind not in bodies:
            raise JournalError(f"holds a row of the unknown kind {kind!r}")
        bodies[kind].append(_believed(kind, key, body, checksum))
    if len(bodies["record"]) != 1 or len(bodies["sequence"]) != 1:
        raise JournalError("holds no record")
    try:
        outbox = tuple(_REPORT.validate_json(body) for body in bodies["outbox"])
        finished = sorted(
            (_REPORT.validate_json(body) for body in bodies["finished"]), key=lambda r: r.sequence
        )
        record = _RECORD.validate_json(bodies["record"][0])
        early = [_EARLY.validate_json(body) for body in bodies["early_cancel"]]
        sequence = _NUMBER.validate_json(bodies["sequence"][0])
    except ValidationError as error:
        raise JournalError(f"holds a row that cannot be read: {error.errors()[0]['msg']}") from error
    return Memory(record, sequence, outbox, tuple(finished), early[0] if early else None)


def _write(connection: sqlite3.Connection, memory: Memory, entry: HistoryEntry | None) -> None:
    rows = [
        ("schema", "", str(SCHEMA_VERSION)),
        ("record", "", _RECORD.dump_json(memory.record).decode()),
        ("sequence", "", str(memory.sequence)),
    ]
    for kind, reports in (("outbox", memory.outbox), ("finished", memory.finished)):
        rows += [(kind, f"{r.generation:020}/{r.job_id}", _REPORT.dump_json(r).decode()) for r in reports]
    if memory.early_cancel is not None:
        rows.append(("early_cancel", "", _EARLY.dump_json(memory.early_cancel).decode()))
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("DELETE FROM rows")
        sealed = [(kind, key, body, _checksum(kind, key, body)) for kind, key, body in rows]
        connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", sealed)
        if entry is not None:
            number = 1 + (connection.execute("SELECT max(number) FROM history").fetchone()[0] or 0)
            body = _ENTRY.dump_json(entry).decode()
            seal = _checksum("history", str(number), body)
            connection.execute("INSERT INTO history VALUES (?, ?, ?)", (number, body, seal))
            connection.execute("DELETE FROM history WHERE number <= ?", (number - HISTORY_KEPT,))
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _news(record: UpdateRecord) -> tuple[object, ...]:
    local = record.reason if record.job is None else None  # A failed probation is nobody's phase.
    return (record.epoch, record.job, record.phase, record.outcome, record.boot_id, local)


def _entry(record: UpdateRecord) -> HistoryEntry:
    job = record.job
    return HistoryEntry(
        at_ms=time.time_ns() // 1_000_000,
        job_id=job.job_id if job else None,
        generation=job.generation if job else None,
        phase=record.phase,
        outcome=record.outcome,
        reason=record.reason,
        boot_id=record.boot_id,
    )


def _checksum(kind: str, key: str, body: str) -> str:
    return hashlib.blake2b(f"{kind}\0{key}\0{body}".encode(), digest_size=16).hexdigest()


def _believed(kind: str, key: str, body: str, checksum: str) -> str:
    if _checksum(kind, key, body) != checksum:
        raise JournalError(f"the row {kind}/{key} does not match its checksum")
    return body


def _named(error: BaseException, path: Path) -> BaseException:
    """SQLite's errors in our words. Whatever is not its own is passed on."""
    if isinstance(error, JournalError) and not error.where:
        return JournalError(error.what, reason=error.reason, where=str(path), todo=error.todo)
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            todo = "Another agent runs on this state: end it first."
            return JournalError(
                "is held by another agent", reason=Reason.JOURNAL_LOCKED, where=str(path), todo=todo
            )
        if name == "SQLITE_FULL":
            return JournalError("the disk is full", reason=Reason.DISK_FULL, where=str(path))
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            # It may be a good one: whoever sets it aside forgets what was installed.
            todo = "Let the agent's user read and write it and its folder."
            return JournalError(
                f"cannot be used: {error}", reason=Reason.CONFIGURATION_INVALID, where=str(path), todo=todo
            )
        return JournalError(f"{name}: {error}", where=str(path))
    return error
