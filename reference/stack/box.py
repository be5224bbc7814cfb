"""What a device runs its client on, as it is seen and hurt from outside: by an observer, a judge, a vandal.

Nothing here asks the updater. One look has to be cheap: an observer looks every 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reference.core.errors import ServiceError
from reference.edge.runtimes.base import EngineView
from reference.edge.runtimes.process import ProcessRuntime

CLIENT_GRACE_MS = 1_000
GONE_S = 5.0
"""How long what was killed may take to be gone."""
_POLL_S = 0.02
_INTERPRETER = Path(sys.executable).resolve()
_PROGRAMS = re.compile(
    r"dockerd|containerd(-shim.*)?|docker-(init|proxy|registry)|runc|toxiproxy.*|mosquitto|postgres|pg_ctl|initdb|busybox"
)
"""What the parts of a stack and of a run are, beside Python: by the names of their files."""


class Box(Protocol):
    """One device's, made before its agent first starts."""

    runtime: str
    """As the agent's settings call it."""
    listens: str
    """Where the client has to listen to be reached at its port on loopback."""

    def settings(self) -> Mapping[str, object]:
        """What the agent's configuration says of it; `client` holds only what is added there."""

    def processes(self) -> list[int]:
        """Pids of living client processes, one for each container that runs."""

    def has_image(self, digest: str) -> bool:
        """Whether the image is on the disk. Raises ServiceError when that cannot be seen."""

    async def view(self) -> tuple[str, EngineView]:
        """The boot's id, and what is there, seen while no agent runs. Raises EngineError."""

    async def clear(self) -> None:
        """End the client, whichever containers of it run."""

    async def kill(self) -> None:
        """SIGKILL for everything that is the device's, its engine too: processes are gone, the page cache is not."""

    async def boot(self) -> None:
        """What a boot forgets is forgotten, and what a boot starts is started; not the agent."""


@dataclass(slots=True)
class Site:
    """Where a device is: its names, its folders, its client's port."""

    tenant: str
    client_id: str
    root: Path
    client_port: int

    @property
    def state_dir(self) -> Path:
        """Survives a boot."""
        return self.root / "state"

    @property
    def run_dir(self) -> Path:
        """Is forgotten by a boot."""
        return self.root / "run"

    @property
    def samples(self) -> Path:
        """What the client has collected, on its volume."""
        return self.root / "volume" / "samples.log"

    @property
    def config(self) -> Path:
        """The agent's configuration file."""
        return self.root / "edge.json"

    @property
    def log(self) -> Path:
        """What the agent writes to standard error."""
        return self.root / "agent.log"


BoxMaker = Callable[[Site], Box]


class ProcessBox:
    """The embedded runtime's: its containers are processes, and it has no engine that could die."""

    runtime = "process"
    listens = "127.0.0.1"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._engine_dir = site.state_dir / "engine"
        self._marker = os.fsencode(str(self._engine_dir))

    def settings(self) -> Mapping[str, object]:
        """See the port."""
        return {}

    def processes(self) -> list[int]:
        """See the port: those that run a program out of one of the device's unpacked images."""
        found = []
        for pid, command in commands():
            words = command.split(b"\0")
            if any(word.startswith(self._marker) and b"/rootfs/" in word for word in words):
                found.append(pid)
        return found

    def has_image(self, digest: str) -> bool:
        """See the port."""
        return (self._engine_dir / "images" / digest.removeprefix("sha256:")).is_dir()

    async def view(self) -> tuple[str, EngineView]:
        """See the port."""
        runtime = self._open()
        try:
            return runtime.boot_id, await runtime.observe()
        finally:
            await runtime.close()

    async def clear(self) -> None:
        """See the port."""
        runtime = self._open()
        await runtime.stop_all(CLIENT_GRACE_MS)
        await runtime.close()

    async def kill(self) -> None:
        """See the port: every process that has the device's folder on its command line."""
        await kill_all(lambda: on_command_line(self._site.root))

    async def boot(self) -> None:
        """See the port."""
        forget_boot(self._site)

    def _open(self) -> ProcessRuntime:
        return ProcessRuntime(self._engine_dir, self._site.run_dir)


def forget_boot(site: Site) -> None:
    """Empty the folder that does not survive a boot."""
    shutil.rmtree(site.run_dir)
    site.run_dir.mkdir()


def commands() -> list[tuple[int, bytes]]:
    """Every living process with its command line, words separated by NUL; empty for a zombie."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError), open(f"{entry.path}/cmdline", "rb") as file:  # noqa: PTH123
                found.append((int(entry.name), file.read()))
    return found


def on_command_line(folder: Path) -> list[int]:
    """Living processes, but this one, of a program that we start, that name something in `folder` on their command line.

    Whoever only looks (`tail -f` of a log, an editor, a shell) is a stranger, and is not among them.
    """
    marker, me = os.fsencode(f"{folder}/"), os.getpid()
    return [
        pid
        for pid, command in commands()
        if marker in command and pid != me and is_started_by_us(pid, marker)
    ]


def is_started_by_us(pid: int, marker: bytes) -> bool:
    """Whether its program is one that we start: our Python, a part of a stack, or what lies below `marker`, a folder."""
    try:
        program = os.readlink(b"/proc/%d/exe" % pid).removesuffix(b" (deleted)")  # noqa: PTH115 - bytes, and quick
    except OSError:  # It is gone, or another user's.
        return False
    # runc protects itself from its containers by a copy in memory.
    if program.startswith(b"/memfd:runc_cloned"):
        return True
    path = Path(os.fsdecode(program))
    ours = path.parent == _INTERPRETER.parent and path.name.startswith("python")
    return ours or program.startswith(marker) or _PROGRAMS.fullmatch(path.name) is not None


async def kill_all(find: Callable[[], list[int]]) -> None:
    """SIGKILL for all that `find` answers, until it answers nothing. Raises ServiceError when that does not end."""
    end = time.monotonic() + GONE_S
    while pids := find():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise ServiceError(f"processes survive SIGKILL: {pids}", todo="See what they wait for.")
        await asyncio.sleep(_POLL_S)
