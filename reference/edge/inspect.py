"""A look inside the edge: what a running agent shows of itself, and `status` and `journal` for people.

The agent holds its journal exclusively, so nobody else opens it: a running agent answers on `run_dir/agent.sock`
(HTTP, read-only, its owner alone). Only when no agent holds the journal is the file read, and then a copy of it: SQLite
would take locks and replay the log, and without the log (`immutable`) it would show an older state after a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pydantic import TypeAdapter

from reference.core.delivery import Memory
from reference.core.errors import BlackstartError, JournalError, Reason
from reference.edge.http import short_name
from reference.edge.journal import HistoryEntry, Journal
from reference.edge.settings import EdgeSettings, load_settings

SOCKET_NAME = "agent.sock"
ANSWER_S = 5.0
"""How long a running agent may take to answer."""
MAX_ANSWER_BYTES = 16 << 20
_SQLITE_LOCKS = (0x4000_0000, 512)
"""Where SQLite locks a database file, and how many bytes (sqlite.org/fileformat2.html, "The Lock-Byte Page")."""
_FLOCK = "hhqqi"
"""struct flock of Linux, 64 bits."""
_MEMORY = TypeAdapter(Memory)
_HISTORY = TypeAdapter(list[HistoryEntry])

Object = dict[str, object]


def socket_path(settings: EdgeSettings) -> Path:
    """Where a running agent answers."""
    return settings.run_dir / SOCKET_NAME


def journal_path(settings: EdgeSettings) -> Path:
    """Where the journal is."""
    return settings.state_dir / "journal.db"


def memory_view(memory: Memory) -> Object:
    """The journal's memory as JSON; names as in the journal."""
    found: Object = _MEMORY.dump_python(memory, mode="json")
    return found


def history_view(history: list[HistoryEntry]) -> list[Object]:
    """The journal's history as JSON, oldest first."""
    found: list[Object] = _HISTORY.dump_python(history, mode="json")
    return found


def look(settings: EdgeSettings, what: str) -> Object:
    """`status` or `journal` of this device: from the agent if one runs, else from the disk.

    Raises JournalError: JOURNAL_LOCKED when an agent holds the journal and does not answer, JOURNAL_CORRUPT when there
    is none that can be believed.
    """
    said = _ask(socket_path(settings), f"/{what}")
    if said is not None:
        return {"source": "agent", **said}
    path = journal_path(settings)
    if (holder := holder_of(path)) is not None:
        raise JournalError(
            f"an agent (pid {holder}) holds it and does not answer at {socket_path(settings)}",
            reason=Reason.JOURNAL_LOCKED,
            where=str(path),
            todo="Look at that process and its log.",
        )
    return {"source": "file", **_from_disk(path, what)}


def _from_disk(path: Path, what: str) -> Object:
    if not path.exists():
        raise JournalError("there is none yet", where=str(path), todo="Start the agent once.")
    with tempfile.TemporaryDirectory(prefix="blackstart-") as folder:
        copy = Path(folder) / path.name
        try:
            for end in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        except OSError as error:
            raise JournalError(f"cannot be read: {error.strerror}", where=str(path)) from None
        try:
            journal = Journal.open(copy)
        except JournalError as error:
            raise JournalError(error.what, reason=error.reason, where=str(path), todo=error.todo) from None
        try:
            if what == "journal":
                return {"history": history_view(journal.history())}
            return {"memory": memory_view(journal.memory)}
        finally:
            journal.close()


def holder_of(path: Path) -> int | None:
    """The process that holds the journal; None if nobody does. Asks the kernel, and takes no lock. Raises JournalError.

    Closing the file here would let go of locks of this very process: never ask from within an agent.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(
            f"cannot be read: {error.strerror}", reason=Reason.CONFIGURATION_INVALID, where=str(path)
        ) from None
    try:
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *_SQLITE_LOCKS, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, wanted))
    finally:
        os.close(handle)
    return None if kind == fcntl.F_UNLCK else pid


class _Socket(HTTPConnection):
    """HTTP over the agent's socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_S)
        with short_name(self._path) as name:
            self.sock.connect(name)


def _ask(path: Path, target: str) -> Object | None:
    """What the agent says; None if none listens there. Raises JournalError when it says something unusable."""
    connection = _Socket(path)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER_BYTES)
    except (FileNotFoundError, NotADirectoryError, ConnectionError, TimeoutError):
        return None  # whether an agent runs all the same, its hold on the journal tells
    except (OSError, HTTPException) as error:
        raise JournalError(f"the agent cannot be asked: {error}", where=str(path)) from None
    finally:
        connection.close()
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if response.status != 200 or not isinstance(found, dict):
        raise JournalError(
            f"the agent answers {response.status}", where=str(path), todo="Look at the agent's log."
        )
    return found


# ---- for people

_ABOUT = {
    "status": "What the updater of this device does, what runs, what would come back. Works without an agent, too.",
    "journal": "What the updater has journaled, the newest last. Works without an agent, too.",
}


def said(arguments: Sequence[str], known: Mapping[str, str]) -> tuple[str, Sequence[str]]:
    """The command and what it is given. SystemExit, as argparse does, for another command."""
    if not arguments or arguments[0] not in known:
        argparse.ArgumentParser(prog="blackstart edge").error(f"one of {', '.join(known)} is needed")
    return arguments[0], arguments[1:]


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """`status` and `journal`. Exit codes: 0 shown, 1 it cannot be told, 2 what was given is wrong."""
    what, rest = said(sys.argv[1:] if arguments is None else arguments, _ABOUT)
    parser = argparse.ArgumentParser(prog=f"blackstart edge {what}", description=_ABOUT[what])
    parser.add_argument("--config", type=Path, required=True, help="the device's configuration, JSON")
    parser.add_argument(
        "--data", type=Path, help="folder of `state`, and of `run` where the configuration names none"
    )
    if what == "journal":
        parser.add_argument("--limit", type=int, default=20, help="only the last so many (usually 20)")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(rest)
    try:
        settings = load_settings(
            options.config, environment if environment is not None else os.environ, options.data
        )
        found = look(settings, what)
    except BlackstartError as error:
        print(f"blackstart edge: {error}", file=sys.stderr)  # noqa: T201
        return 2 if error.reason is Reason.INVALID_INPUT else 1
    if what == "journal":
        history = found.get("history")
        found["history"] = history[-max(options.limit, 1) :] if isinstance(history, list) else []
    if options.json:
        print(json.dumps(found, indent=1))  # noqa: T201
    else:
        show = _show_status if what == "status" else _show_journal
        print(show(found))  # noqa: T201
    return 0


def _inner(found: object, *path: str) -> object:
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _image(found: object) -> str:
    version, digest = _inner(found, "version"), _inner(found, "digest")
    return f"{version} ({str(digest)[:19]})" if digest else "-"


def _show_status(found: Object) -> str:
    record, live = _inner(found, "memory", "record"), _inner(found, "live")
    runs = found["source"] == "agent"
    rows: list[tuple[str, object]] = [
        ("agent", f"runs, pid {_inner(live, 'pid')}" if runs else "does not run")
    ]
    if runs:
        rows += [
            ("broker", "connected" if _inner(live, "connected") else "not connected"),
            ("running", _image(_inner(live, "running"))),
        ]
    rows += [
        ("phase", _inner(record, "phase")),
        ("job", _inner(record, "job", "job_id")),
        ("target", _image(_inner(record, "job", "image"))),
        ("current", _image(_inner(record, "current", "image"))),
        ("previous", _image(_inner(record, "previous", "image"))),
        ("floor", _inner(record, "floor")),
        ("outcome", _inner(record, "outcome")),
        ("reason", _inner(record, "reason")),
        ("message", _inner(record, "message")),
        ("hold", "yes" if _inner(live, "hold") else None),
        ("duty", "yes" if _inner(record, "duty") else None),
    ]
    outbox = _inner(found, "memory", "outbox")
    rows.append(("outbox", len(outbox) if isinstance(outbox, list) else None))
    if runs:
        rows += [
            ("pull", _pull(_inner(live, "pull"))),
            ("last error", _inner(live, "last_error", "message")),
            ("disk free", _inner(live, "disk", "free_bytes")),
            ("ballast", "held" if _inner(live, "disk", "ballast_held") else "released"),
        ]
    return "\n".join(f"{name:<11} {value}" for name, value in rows if value not in (None, ""))


def _pull(found: object) -> str | None:
    total = _inner(found, "total_bytes")
    return f"{_inner(found, 'done_bytes')} of {total} bytes" if total else None


def _show_journal(found: Object) -> str:
    history = found["history"]
    assert isinstance(history, list)
    if not history:
        return "Nothing has been journaled yet."
    titles = ("at", "job", "generation", "phase", "outcome", "reason")
    rows = [titles, *(_row(entry) for entry in history)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
    return "\n".join("  ".join(w.ljust(n) for w, n in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(entry: object) -> tuple[str, ...]:
    at_ms = _inner(entry, "at_ms")
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1000)) if isinstance(at_ms, int) else "-"
    keys = ("job_id", "generation", "phase", "outcome", "reason")
    return (at, *("-" if (value := _inner(entry, key)) is None else str(value) for key in keys))


if __name__ == "__main__":
    sys.exit(main())
