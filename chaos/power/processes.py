"""Processes of a device: who descends from them, and how all of them are made to stand still at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from chaos.faults.base import FaultError

STOP_S = 10.0
_STANDING = frozenset("tTZXD")
"""States of a thread that executes nothing, or will stop before it does: proc(5)."""


def alive(pid: int) -> bool:
    """Whether it runs or could: neither gone nor a zombie."""
    return _state(Path(f"/proc/{pid}/stat")) not in ("", "Z", "X")


def family(pids: Iterable[int]) -> set[int]:
    """They, and all that descend from them."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(entry.path, "stat").read_text("utf-8", "replace")
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, new = set[int](), set(pids)
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
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return True
    return all(_state(thread / "stat") in ("", *_STANDING) for thread in threads)


def _state(stat: Path) -> str:
    """The one letter of proc(5); empty for what is gone."""
    try:
        return stat.read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
