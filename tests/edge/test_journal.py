"""The journal: what was written is what is read, and what cannot be believed is said to be so."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference.core.delivery import Memory
from reference.core.errors import JournalError, Reason
from reference.core.job import JobStatus, Report
from reference.core.model import Command, Health, Image, Installed, Outcome, Phase
from reference.core.update import UpdateRecord
from reference.edge import journal as module
from reference.edge.journal import Journal, set_aside

ROOT = Path(__file__).parents[2]

# ---- samples

_numbers = st.integers(0, 2**53 - 1)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_images = st.builds(Image, _text, _text, _text)
_health = st.builds(Health, _text, _numbers, _numbers, _numbers)
_commands = st.builds(Command, _text, _numbers, _images, _health, _numbers)
_installed = st.builds(Installed, _images, _health, _numbers, st.none() | _text, _text)


def _with_phase(phase: Phase, job: Command, outcome: Outcome) -> dict[str, object]:
    return {
        "phase": phase,
        "job": None if phase is Phase.IDLE else job,
        "outcome": outcome if phase is Phase.CLEANING_UP else None,
    }


_records = st.builds(
    lambda fixed, free: UpdateRecord(**fixed, **free),
    st.builds(_with_phase, st.sampled_from(Phase), _commands, st.sampled_from(Outcome)),
    st.fixed_dictionaries(
        {
            "epoch": _text,
            "floor": st.none() | _numbers,
            "current": st.none() | _installed,
            "previous": st.none() | _installed,
            "queued": st.none() | _commands,
            "cancel": st.booleans(),
            "candidate_id": st.none() | _text,
            "reason": st.none() | st.sampled_from(Reason),
            "message": _text,
            "attempts": _numbers,
            "boots": _numbers,
            "boot_id": st.none() | _text,
            "duty": st.booleans(),
            "downtime_ms": st.none() | _numbers,
        }
    ),
)
_reports = st.builds(
    Report,
    job_id=_text,
    generation=_numbers,
    sequence=_numbers,
    status=st.sampled_from(JobStatus),
    phase=st.sampled_from(Phase),
    outcome=st.none() | st.sampled_from(Outcome),
    reason=st.none() | st.sampled_from(Reason),
    message=_text,
    downtime_ms=st.none() | _numbers,
)
_memories = st.builds(
    Memory,
    _records,
    _numbers,
    # In the orders that `Memory` promises.
    st.lists(_reports, max_size=4, unique_by=lambda r: (r.generation, r.job_id)).map(
        lambda found: tuple(sorted(found, key=lambda r: (r.generation, r.job_id)))
    ),
    st.lists(_reports, max_size=4, unique_by=(lambda r: r.sequence, lambda r: (r.generation, r.job_id))).map(
        lambda found: tuple(sorted(found, key=lambda r: r.sequence))
    ),
)

IMAGE = Image("registry:5000/opc-client", "sha256:" + "a" * 64, "2.0.0")
COMMAND = Command("job-1", 7, IMAGE, Health(), 1_800_000_000_000)


def memory(message: str = "", **changes: object) -> Memory:
    record = UpdateRecord("epoch", Phase.PULLING, floor=7, job=COMMAND, message=message)
    report = Report("job-1", 7, 3, JobStatus.IN_PROGRESS, Phase.PULLING)
    ended = Report("job-0", 6, 2, JobStatus.SUCCEEDED, Phase.CLEANING_UP, Outcome.SUCCEEDED)
    return replace(Memory(record, 3, (report,), (ended,)), **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    Journal.create(path, UpdateRecord("epoch"))
    return path


def refused(path: Path) -> JournalError:
    """The error with which it does not open; it leaves the file to others."""
    with pytest.raises(JournalError) as caught:
        Journal.open(path).close()
    assert str(path) in str(caught.value)
    return caught.value


def edit(path: Path, *statements: str) -> None:
    """What a defect of the disk, or somebody's hand, does to a journal that nobody holds."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def write_and_close(path: Path, *memories: Memory) -> None:
    with closing(Journal.open(path)) as journal:
        for one in memories:
            journal.write(one)


# ---- what it is for


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_memories, min_size=1, max_size=2))
def test_what_was_written_is_what_is_read(memories: list[Memory]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        Journal.create(path, memories[0].record)
        with closing(Journal.open(path)) as journal:
            assert journal.memory == Memory(memories[0].record)
            for one in memories:
                journal.write(one)
                assert journal.reload() == one
        with closing(Journal.open(path)) as again:
            assert again.memory == memories[-1]


def test_the_modes_that_survive_a_cut_are_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Journal.open(path)) as journal:
        connection = journal._connection
        found = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "locking_mode")
        }
        assert found == {"journal_mode": "wal", "synchronous": 3, "locking_mode": "exclusive"}
        journal.write(memory())
        assert not Path(f"{path}-shm").exists(), "a mapped -shm ends the agent with SIGBUS on a full disk"

    class Deaf(sqlite3.Connection):
        """A SQLite that does not take a mode, and says nothing."""

        def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous=extra", "synchronous=normal"))

    monkeypatch.setattr(
        sqlite3, "connect", lambda *a, **k: Deaf(*a, **k) if k.get("uri") else sqlite3.Connection(*a)
    )
    assert "did not take the modes" in refused(path).what


def test_only_one_holds_it(path: Path) -> None:
    with closing(Journal.open(path)) as journal:
        assert refused(path).reason is Reason.JOURNAL_LOCKED
        script = (
            "import sys; from pathlib import Path; from reference.core.errors import JournalError\n"
            "from reference.edge.journal import Journal\n"
            "try: Journal.open(Path(sys.argv[1]))\n"
            "except JournalError as error: print(error.reason.value)"
        )
        other = subprocess.run(
            [sys.executable, "-c", script, str(path)], cwd=ROOT, text=True, capture_output=True, timeout=15
        )
        assert other.stdout.strip() == "journal_locked", other.stderr
        journal.write(memory())
    with closing(Journal.open(path)) as journal:
        assert journal.memory == memory()


def test_history_tells_phases_and_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HISTORY_KEPT", 5)
    with closing(Journal.open(path)) as journal:
        journal.write(memory())
        journal.write(memory("attempt 2"))
        assert [e.phase for e in journal.history()] == [Phase.PULLING], "a count is not a change of phase"
        for number in range(12):
            phase = Phase.STAGED if number % 2 else Phase.PULLING
            journal.write(Memory(replace(memory().record, phase=phase, boot_id=str(number))))
        found = journal.history()
        assert [e.boot_id for e in found] == [str(n) for n in range(7, 12)]
        assert found[-1].job_id == "job-1"


def test_create_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"

    def cut(*_: object) -> None:
        raise sqlite3.OperationalError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", cut)
        with pytest.raises(JournalError):
            Journal.create(path, UpdateRecord("epoch"))
    assert not path.exists()
    Journal.create(path, UpdateRecord("second"))  # over the half of the first one
    with closing(Journal.open(path)) as journal:
        assert journal.memory.record.epoch == "second"
    with pytest.raises(JournalError, match="cannot make"):
        Journal.create(tmp_path / "absent" / "journal.db", UpdateRecord("epoch"))


def test_a_new_journal_is_not_fed_the_log_of_an_old_one(path: Path, tmp_path: Path) -> None:
    with closing(Journal.open(path)) as journal:
        journal.write(memory("old"))
        log = Path(f"{path}-wal").read_bytes()
    path.unlink()
    Path(f"{path}-wal").write_bytes(log)
    Journal.create(path, UpdateRecord("new"))
    with closing(Journal.open(path)) as journal:
        assert journal.memory == Memory(UpdateRecord("new"))


# ---- what cannot be believed


def test_a_missing_file_is_not_made_by_opening_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    assert refused(path).reason is Reason.JOURNAL_CORRUPT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["record", "sequence", "outbox", "finished", "schema"])
def test_a_changed_byte_in_any_row_is_found(path: Path, kind: str) -> None:
    write_and_close(path, memory())
    # Still the same type and often still valid JSON: SQLite's own checks say ok to it.
    edit(path, f"UPDATE rows SET body = replace(body, substr(body, 1, 1), '9') WHERE kind = '{kind}'")
    error = refused(path)
    assert error.reason is Reason.JOURNAL_CORRUPT
    assert kind in error.what


def test_a_changed_byte_in_the_file_itself_is_found(path: Path) -> None:
    write_and_close(path, memory("a message to be found"))
    data = path.read_bytes()
    assert data.count(b"a message to be found") == 1
    path.write_bytes(data.replace(b"a message to be found", b"b message to be found"))
    assert "checksum" in refused(path).what


def test_a_row_that_moved_to_another_key_is_found(path: Path) -> None:
    write_and_close(path, memory())
    edit(path, "UPDATE rows SET kind = 'finished' WHERE kind = 'outbox'")
    assert refused(path).reason is Reason.JOURNAL_CORRUPT


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE rows",),
        ("DELETE FROM rows WHERE kind = 'record'",),
        ("DELETE FROM rows WHERE kind = 'sequence'",),
        ("DELETE FROM rows",),
        ("UPDATE rows SET body = x'ff', checksum = x'ff'",),
        ("INSERT INTO rows VALUES ('other', '', '', '')",),
    ],
)
def test_lost_tables_and_rows_are_found(path: Path, statements: tuple[str, ...]) -> None:
    write_and_close(path, memory())
    edit(path, *statements)
    assert refused(path).reason is Reason.JOURNAL_CORRUPT


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"rubbish" * 1000])
def test_a_file_that_is_no_database_is_found(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refused(path).reason is Reason.JOURNAL_CORRUPT


def test_half_a_file_is_found(path: Path) -> None:
    write_and_close(path, memory())
    path.write_bytes(path.read_bytes()[:5000])
    assert refused(path).reason is Reason.JOURNAL_CORRUPT


def test_a_record_that_contradicts_itself_is_not_believed(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        body = '{"epoch":"epoch","phase":"pulling"}'
        row = (body, module._checksum("record", "", body))
        connection.execute("UPDATE rows SET body = ?, checksum = ? WHERE kind = 'record'", row)
    assert "cannot be read" in refused(path).what


def test_a_journal_that_cannot_be_used_here_is_not_called_corrupt(tmp_path: Path) -> None:
    """It may be a good one: an agent that sets it aside forgets what was installed."""
    (tmp_path / "journal.db").mkdir()
    assert refused(tmp_path / "journal.db").reason is Reason.CONFIGURATION_INVALID


def test_set_aside_keeps_every_file_of_every_time(path: Path) -> None:
    kept = []
    for content in (b"first", b"second"):
        path.write_bytes(content)
        Path(f"{path}-wal").write_bytes(content + b" log")
        target = set_aside(path, 0.0)
        assert target.name.startswith("journal.db.corrupt-19700101T000000Z")
        assert not path.exists()
        assert not Path(f"{path}-wal").exists()
        kept.append(target)
    assert [t.read_bytes() for t in kept] == [b"first", b"second"]
    assert [Path(f"{t}-wal").read_bytes() for t in kept] == [b"first log", b"second log"]


# ---- writes that fail


def test_a_full_disk_changes_nothing_and_can_be_got_over(path: Path) -> None:
    with closing(Journal.open(path)) as journal:
        journal.write(memory("before"))
        pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(JournalError) as caught:
            journal.write(memory("x" * 100_000))
        assert caught.value.reason is Reason.DISK_FULL
        assert journal.memory == memory("before")
        assert journal.reload() == memory("before")
        journal._connection.execute("PRAGMA max_page_count=100000")
        journal.write(memory("after"))
    with closing(Journal.open(path)) as journal:
        assert journal.memory == memory("after")


class _Liar(sqlite3.Connection):
    """A connection whose next COMMIT raises: with what it wrote on the disk, or not."""

    arrives: bool | None = None

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.arrives is not None:
            if self.arrives:
                super().execute(sql)
            self.arrives = None
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("arrives", [True, False])
def test_after_a_commit_that_raised_the_disk_is_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, factory=_Liar, **k))
    with closing(Journal.open(path)) as journal:
        journal.write(memory("before"))
        assert isinstance(journal._connection, _Liar)
        journal._connection.arrives = arrives
        with pytest.raises(JournalError):
            journal.write(memory("after"))
        held = memory("after" if arrives else "before")
        assert journal.reload() == held
        assert journal.memory == held
        journal._connection.arrives = arrives
        with pytest.raises(JournalError):
            journal.write(memory("once more"))
        journal.write(memory("at last"))  # The failed one has left nothing open.
    with closing(Journal.open(path)) as journal:
        assert journal.memory == memory("at last")


def test_what_is_read_after_a_failed_write_is_synced_before_it_is_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be in the page cache only: a cut would take it back after something was done on its strength."""
    real, believed = module._make_durable, []
    with closing(Journal.open(path)) as journal:
        journal.write(memory("before"))
        # Committed beside `write`: as after one that raised, the disk may have more than is remembered.
        module._write(journal._connection, memory("after"), None)

        def fails(connection: sqlite3.Connection, where: Path) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(module, "_make_durable", fails)
        with pytest.raises(JournalError):
            journal.reload()
        assert journal.memory == memory("before"), "what could not be synced is not believed"

        def noted(connection: sqlite3.Connection, where: Path) -> None:
            believed.append(journal.memory)
            real(connection, where)

        monkeypatch.setattr(module, "_make_durable", noted)
        assert journal.reload() == memory("after")
        assert believed == [memory("before")], "synced once, and nothing was believed before"
        assert Path(f"{path}-wal").stat().st_size == 0, "the log is in the database, and both are on the disk"


def test_a_disk_that_does_not_sync_for_a_moment_does_not_cost_the_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read, so it is whole: set aside it would cost floor, job and previous."""
    before, after = memory("before"), memory("after")
    Journal.create(path, before.record)
    with closing(Journal.open(path)) as journal:
        journal.write(before)

        def fails(*_: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(module, "_make_durable", fails)
            with pytest.raises(JournalError) as caught:
                journal.reload()
        assert caught.value.reason is Reason.DISK_FULL and "whole" in str(caught.value)
        assert journal.memory == before
        journal.write(after)
        assert journal.reload() == after
