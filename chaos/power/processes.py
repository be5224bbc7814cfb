"""Processes of a device: who descends from them, and how all of them are made to stand still at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable

from chaos.faults.base import FaultError
from reference.stack.box import is_started_by_us

STOP_S = 10.0
_STANDING = frozenset("tTZXD")
"""States of a thread that executes nothing, or will stop before it does: proc(5)."""


def alive(pid: int) -> bool:
    """Whether it runs or could: neither gone nor a zombie."""
    return _stat(f"/proc/{pid}")[0] not in ("", "Z", "X")


def family(marker: bytes, also: Iterable[int] = ()) -> set[int]:
    """Living processes that have `marker` on their command line, and `also` these; and all that descend from them.

    `marker`: a folder, with a `/` at its end. Strangers who only look into it are not among them. One quick look: whoever stops a device waits for it.
    """
    parents: dict[int, int] = {}
    new = set(also)
    for name in os.listdir("/proc"):  # noqa: PTH208 - ten times as quick
        if name.isdigit():
            state, parent = _stat(f"/proc/{name}")
            if state in ("", "Z", "X"):
                continue
            parents[int(name)] = parent
            if marker in _read(f"/proc/{name}/cmdline") and is_started_by_us(int(name), marker):
                new.add(int(name))
    new &= set(parents)
    found = set[int]()
    while new:
        found |= new
        new = {pid for pid, parent in parents.items() if parent in new} - found
    return found


def stand_still(find: Callable[[], set[int]]) -> set[int]:
    """SIGSTOP for all that `find` answers, until no thread of any of them executes anything; who they are.

    A process that waits for the disk stops when that has answered: it hears nothing of the answer. Raises FaultError
    when some will not stand; then all go on.
    """
    end, told = time.monotonic() + STOP_S, set[int]()
    while True:
        found = find()
        if found <= told and all(_stands(pid) for pid in found):  # nothing was forked while we looked
            return told
        for pid in found - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        told |= found
        if time.monotonic() > end:
            for pid in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            raise FaultError(f"processes survive SIGSTOP: {sorted(found)}")


def _stands(pid: int) -> bool:
    """Whether no thread of a process executes anything of its program any more. One that is gone does not."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return True
    return all(_stat(f"/proc/{pid}/task/{thread}")[0] in ("", *_STANDING) for thread in threads)


def _stat(folder: str) -> tuple[str, int]:
    """State and parent as in proc(5); an empty state for what is gone."""
    words = _read(f"{folder}/stat").rpartition(b")")[2].split()
    return (words[0].decode("ascii"), int(words[1])) if len(words) > 1 else ("", 0)


def _read(path: str) -> bytes:
    """All of a file of the kernel's; nothing when it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = b""
        while piece := os.read(handle, 1 << 16):
            found += piece
        return found
    except OSError:  # it went as we read
        return b""
    finally:
        os.close(handle)
