"""A real device in a folder: where its things lie, what it is set up with, and its processes.

state/  journal and engine      run/  of this boot      data/volume/  the client's      heard  what it told
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from reference.core.limits import Limits
from reference.core.model import Command, Image, Installed
from reference.core.model import Health as HealthOf
from reference.core.update import UpdateRecord
from reference.edge.journal import Journal
from reference.edge.main import journal_path, registry_access
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.procfs import MARKER, Life
from reference.edge.runtimes.pull import PullLimits
from reference.edge.settings import EdgeSettings

PORT = 17_950
"""Below the ephemeral ports; each device has a loopback address of its own."""
EPOCH = "epoch-1"
LIMITS = Limits(backoff_first_ms=5, backoff_limit_ms=20, poll_ms=10, watch_ms=5_000)
"""Little waiting, but no look while an act is under way: it would be cut short wherever a busy machine had got to."""
GOOD = HealthOf(start_period_ms=0, window_ms=30_000, stable_for_ms=40)
"""A version that becomes healthy has all the time that a busy machine may need for it."""
BEFORE = "".join(f'{{"seq":{n},"value":20.5,"version":"v0","at":{n}}}\n' for n in range(1, 41))
"""What is on the volume from before: samples that must never be lost."""
CONTAINER = "/etc/opc-client/config.json"


@dataclass(frozen=True, slots=True)
class Task:
    """What one life of the agent's process is to do."""

    folder: Path
    address: str
    """Loopback address of the client."""
    registry: str
    orders: tuple[Command, ...]
    """Given one after the other, each when the device is at rest."""
    setup: bool = False
    """The device is made first, with a journal that has its floor, and with `installed`."""
    installed: Image | None = None
    """Runs before the agent begins, as generation 1; None: nothing does."""
    cast: Path | None = None
    """An engine's folder that holds the image of it."""
    kill: tuple[str, int] | None = None
    """Name and number of the boundary at which the process kills itself."""
    record: Path | None = None
    """Where the boundaries are written that are reached; None and no `kill`: no hook at all."""
    leave: bool = False
    """At rest the process ends as by SIGKILL, not as by SIGTERM."""
    mutant: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """The folder of one device."""

    folder: Path
    address: str
    registry: str

    @property
    def state(self) -> Path:
        """Durable."""
        return self.folder / "state"

    @property
    def run(self) -> Path:
        """Of one boot."""
        return self.folder / "run"

    @property
    def data(self) -> Path:
        """Holds the volume, and its copies beside it."""
        return self.folder / "data"

    @property
    def volume(self) -> Path:
        """The client's."""
        return self.data / "volume"

    @property
    def heard(self) -> Path:
        """One report a line: what the service would have stored."""
        return self.folder / "heard"

    def roots(self) -> dict[str, Path]:
        """What an agent changes, by the names that the table of atoms uses."""
        return {"STATE": self.state, "RUN": self.run, "DATA": self.data}

    def settings(self) -> EdgeSettings:
        """What the agent is told."""
        nowhere = {"host": "127.0.0.1", "port": 1, "ca": Path("ca"), "cert": Path("cert"), "key": Path("key")}
        mounts = {"/data": str(self.volume), CONTAINER: str(self.folder / "config.json")}
        return EdgeSettings.model_validate(
            {
                "tenant_id": "acme",
                "client_id": "edge-1",
                "state_dir": self.state,
                "run_dir": self.run,
                "broker": nowhere,
                "registries": [{"host": self.registry, "plain_http": True}],
                "client": {"address": self.address, "port": PORT, "mounts": mounts, "stop_grace_ms": 5_000},
                "command_keys": [Path("key.pem")],
                "registry_ca": self.folder.parent / "ca.pem",
                "seed": 1,
            }
        )

    def runtime(self) -> ProcessRuntime:
        """A process runtime over its folders."""
        settings = self.settings()
        limits = PullLimits(stall_ms=settings.pull_watchdog_ms, margin_bytes=settings.disk_margin_bytes)
        return ProcessRuntime(self.state / "engine", self.run, registry_access(settings), limits)

    def make(self) -> None:
        """The folders that a device has before its agent first runs, and the client's configuration."""
        for folder in (self.state, self.run, self.volume):
            folder.mkdir(parents=True)
        config = {"host": self.address, "port": PORT, "interval_ms": 5}
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.volume / "samples.log").write_text(BEFORE)

    async def install(self, image: Image | None, cast: Path | None) -> None:
        """Make the journal, and have `image` installed and running as generation 1."""
        record = UpdateRecord(EPOCH, floor=0)
        if image is not None:
            assert cast is not None
            shutil.copytree(cast, self.state / "engine", symlinks=True)
            runtime = self.runtime()
            mounts = self.settings().client.mounts
            name = await runtime.create(ContainerSpec(1, image, mounts, {}, "unless-stopped"))
            await runtime.start(name)
            record = UpdateRecord(EPOCH, floor=1, current=Installed(image, GOOD, 1, name))
        Journal.create(journal_path(self.settings()), record)

    def processes(self) -> list[int]:
        """Shims and workloads of this device: what carries a container's marker, or names `run` in its arguments."""
        names = {path.name for path in (self.state / "engine" / "containers").glob("g*")}
        names |= {path.name for path in (self.run / "containers").glob("g*")}
        needles = {f"{MARKER}={name}".encode() for name in names}
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdigit():
                    continue
                words = (entry / "cmdline").read_bytes().split(b"\0")
                ours = any(str(self.run).encode() in word for word in words)
                if ours or not needles.isdisjoint((entry / "environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
        return [pid for pid in found if _alive(pid)]

    def workloads(self) -> list[int]:
        """Those that run an image's program."""
        return [pid for pid in self.processes() if f"{self.state}/engine/images".encode() in _command(pid)]

    def kill_all(self) -> None:
        """End all that this device has left running; a shim may start something while we look."""
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        return Life(pid, int(text.rpartition(")")[2].split()[19])).alive
    return False


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
