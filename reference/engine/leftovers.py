"""What a killed engine leaves behind, found and ended: processes, mounts, links, cgroups."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from reference.core.errors import EngineError
from reference.engine.places import Places

_CGROUPS = Path("/sys/fs/cgroup")
_OURS = re.compile(rb"([^\0]*/)?(dockerd|containerd|docker-|runc)")
"""How their command lines begin. They name our folders; so may an editor's, which is left alone."""
_DETACH = 2  # MNT_DETACH
END_S = 10.0
POLL_S = 0.02


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot; None when there is none, or only what is left of it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (
        FileNotFoundError,
        ProcessLookupError,
    ):  # Any other trouble does not mean that its engine is nobody's.
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, begun: int) -> bool:
    """Whether this very process runs still."""
    return started(pid) == begun


def processes_of(places: Places) -> set[int]:
    """The daemons of an engine and everything in its containers."""
    found = set(_in_cgroup(places))
    marks = (f"{places.exec}/".encode(), str(places.config).encode())
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if _OURS.match(command) and any(mark in command for mark in marks):
                found.add(pid)
    return {pid for pid in found if started(pid) is not None}


def _cgroups(places: Places) -> Iterator[Path]:
    """Its own in every hierarchy: one of version 2, or many of version 1."""
    for root in (_CGROUPS, *(path for path in _CGROUPS.glob("*") if path.is_dir())):
        if (found := root / places.cgroup).is_dir():
            yield found


def _in_cgroup(places: Places) -> Iterator[int]:
    for top in _cgroups(places):
        for list_of in (top / "cgroup.procs", *top.rglob("cgroup.procs")):
            with contextlib.suppress(OSError):
                yield from (int(line) for line in list_of.read_text().split())


def end_processes(places: Places) -> None:
    """SIGKILL to all of them, the daemons first: they would revive containers. Raises EngineError if one stays."""
    deadline = time.monotonic() + END_S
    while left := processes_of(places):
        if time.monotonic() > deadline:
            raise EngineError(
                f"processes of the engine do not end: {sorted(left)}",
                where=str(places.folder),
                todo="Look at them with ps; a process in state D waits for a disk.",
            )
        for pid in sorted(left, key=lambda pid: not is_called(pid, "dockerd", "containerd")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def is_called(pid: int, *names: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() in names
    return False


def mounts_of(places: Places) -> list[str]:
    """What is mounted on its folders and below, the innermost first. dockerd mounts its data on itself."""
    inside = tuple(f"{top}/" for top in (places.data, places.run))
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4])
        if f"{path}/".startswith(inside):
            found.append(path)
    return found[::-1]


def unmount(places: Places) -> None:
    """Unmount all of it. What is gone already is no error."""
    call = ctypes.CDLL(None, use_errno=True).umount2
    for path in mounts_of(places):
        call(os.fsencode(path), _DETACH)


def remove_run(places: Places) -> None:
    """Its cgroups, and the folder that means nothing any more."""
    for top in _cgroups(places):
        folders = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda p: -len(p.parts))
        for folder in (*folders, top):
            with contextlib.suppress(OSError):
                folder.rmdir()
    shutil.rmtree(places.run, ignore_errors=True)


def clear(places: Places) -> None:
    """All that is left of it, but for its data, its links and its rules. Raises EngineError."""
    end_processes(places)
    unmount(places)
    remove_run(places)
