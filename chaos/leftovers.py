"""What a run leaves that was killed together with whoever would have cleared up, and who clears it up later.

A run's folder is held by a lock for as long as its command lives: the kernel lets go of it, however the command ends.
A folder whose lock is free is nobody's any more, and neither is what names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from reference.core.errors import ServiceError
from reference.stack.box import kill_all, on_command_line

log = logging.getLogger("chaos")
PREFIXES = RUN, SOAK = "blackstart-chaos-", "blackstart-soak-"
"""Of the names of runs' folders, and of soaks'."""
LOCK = "held.lock"
GROUPS_S = 1.0
"""How long a control group may be busy with processes that are ending."""
_GROUP = re.compile(r"blackstart-(slow|chaos)-(?P<pid>[0-9]+)-[0-9a-f]+")
_MEMORY = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder. Not inherited by anything that is started meanwhile. Raises OSError."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@asynccontextmanager
async def scratch(prefix: str) -> AsyncIterator[Path]:
    """A folder for one run, held; swept and removed at the end. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with held(folder):
            try:
                yield folder
            finally:
                await sweep(folder)
                # Still held: else somebody could take it for one that was left.
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def sweep_abandoned() -> None:
    """Clear up after runs that were killed: processes, control groups, loop devices, folders. Logs what it finds."""
    for folder in await asyncio.to_thread(_folders):
        with contextlib.suppress(OSError):  # Held by a run that goes on, or not ours.
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                log.warning("a run was killed and has left its folder, which is cleared up: %s", folder)
                await sweep(folder)
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            finally:
                os.close(handle)


async def sweep(folder: Path) -> None:
    """What a run has left that was killed: clients outlive their agents, and so they do its own end. Logs what stays."""
    try:
        if left := on_command_line(folder):
            log.warning("processes of a run are left, and are ended: %s", left)
            await kill_all(lambda: on_command_line(folder))
    except ServiceError as error:
        log.error("%s", error)
    await asyncio.to_thread(_kernel, folder)


def _folders() -> list[Path]:
    """Folders of runs in the folder for temporary files that have a lock: one without was made just now."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            ours = entry.name.startswith(PREFIXES) and entry.is_dir(follow_symlinks=False)
            if ours and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                found.append(Path(entry.path))
    return [folder for folder in found if (folder / LOCK).is_file()]


def _kernel(folder: Path) -> None:
    """What the kernel keeps for nobody: control groups of workers that are dead, loop devices of the folder's images."""
    end = time.monotonic() + GROUPS_S
    while (busy := [group for group in _groups() if not _removed(group)]) and time.monotonic() < end:
        time.sleep(0.02)
    for group in busy:
        log.error("a control group cannot be removed: %s", group)
    for device in _loops(folder):
        done = subprocess.run(["losetup", "-d", device], capture_output=True, text=True, check=False)
        if done.returncode:
            log.error("a loop device cannot be released: %s", done.stderr.strip())


def _groups() -> list[Path]:
    """Control groups that a worker has made which lives no more."""
    from chaos.needs import blkio_folder  # Not at the top: it knows all faults.

    disks = blkio_folder()
    roots = {*_MEMORY, *([disks] if disks is not None else [])}
    return [
        group
        for root in sorted(roots)
        for group in root.glob("blackstart-*")
        if (name := _GROUP.fullmatch(group.name)) and not Path(f"/proc/{name['pid']}").exists()
    ]


def _removed(group: Path) -> bool:
    """Try it. One that somebody is in stays."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def _loops(folder: Path) -> list[str]:
    """Loop devices whose image is, or was, in the folder."""
    marker, found = f"{folder.resolve()}/", []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if file.read_text("utf-8", "replace").startswith(marker):
                found.append(f"/dev/{file.parents[1].name}")
    return found


__all__ = ["LOCK", "PREFIXES", "RUN", "SOAK", "held", "scratch", "sweep", "sweep_abandoned"]
