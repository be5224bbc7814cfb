"""The bench of the process runtime: a registry on loopback, a runtime, and an end of all that was started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from reference.core.model import Image
from reference.edge.runtimes.base import ContainerFacts
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.procfs import MARKER
from reference.edge.runtimes.pull import Access, PullLimits
from reference.engine import PrivateEngine
from tests.edge.runtimes.contract import Codes, Room
from tests.edge.runtimes.registry import Built, Registry, build, running_registry
from tests.engine import needs_engine

if TYPE_CHECKING:
    from tests.edge.runtimes.docker_bench import DockerBench


class Folder:
    """A volume in a folder, and a configuration beside it, which is a file and no volume."""

    def __init__(self, folder: Path, content: str) -> None:
        self._data, setting = folder / "data", folder / "client.json"
        self._data.mkdir()
        setting.write_text("{}")
        self.mounts = {"/data": str(self._data), "/etc/client.json": str(setting)}
        self.write(content)

    def write(self, content: str) -> None:
        (self._data / "samples").write_text(content)

    def read(self) -> str:
        return (self._data / "samples").read_text()


class ProcessBench:
    """A process runtime with its registry."""

    codes = Codes(stopped=143, quits=7, cut=None)

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder = folder
        self.registry = registry
        self.state_dir, self.run_dir = folder / "state", folder / "run"
        self.login: dict[str, tuple[str, str]] = {}
        self.token_hosts: dict[str, frozenset[str]] = {}
        self.runtime = self.open()

    def open(self, limits: PullLimits | None = None, **options: str) -> ProcessRuntime:
        access = Access(self.login, frozenset({self.registry.address}), None, self.token_hosts)
        limits = limits or PullLimits(stall_ms=5000)
        self.runtime = ProcessRuntime(self.state_dir, self.run_dir, access, limits, **options)
        return self.runtime

    def image(self, built: Built, version: str = "1") -> Image:
        return Image(f"{self.registry.address}/opc", self.registry.publish(built), version)

    def publish(self, program: bytes, version: str = "1") -> Image:
        return self.image(build([{"app/main.py": program}]), version)

    def volume(self, content: str) -> Folder:
        return Folder(self.folder, content)

    def room(self) -> Room:
        there = self.folder / "room"
        there.mkdir(exist_ok=True)
        return Room({"/room": str(there)}, str(there), there)

    def told_mounts(self, environment: Mapping[str, str]) -> Mapping[str, str] | None:
        return dict(json.loads(environment["BLACKSTART_MOUNTS"]))

    def kill(self, facts: ContainerFacts) -> None:
        os.kill(int(facts.life.partition(":")[0]), signal.SIGKILL)

    async def again(self) -> ProcessRuntime:
        await self.runtime.close()
        return self.open()

    async def reboot(self) -> ProcessRuntime:
        self.kill_all()
        shutil.rmtree(self.run_dir)
        return self.open()

    def processes(self) -> list[int]:
        """Shims and workloads: what carries a container's marker, or has our folder among its arguments."""
        found = []
        names = {path.name for path in (self.state_dir / "containers").iterdir()}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    marked = any(f"{MARKER}={name}".encode() in environment for name in names)
                    if marked or str(self.run_dir).encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def workloads(self) -> list[int]:
        """Those of them that run an image's program."""
        return [pid for pid in self.processes() if b"main.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def kill_all(self) -> None:
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """The engine of all tests of the Docker runtime: a test may restart it, and cut its power."""
    needs_engine()
    with PrivateEngine(tmp_path_factory.mktemp("docker")) as engine:
        yield engine
    engine.wipe()


@pytest.fixture
async def docker_bench(tmp_path: Path, docker_engine: PrivateEngine) -> AsyncIterator[DockerBench]:
    from tests.edge.runtimes.docker_bench import DockerBench  # it imports this file

    async with running_registry() as registry:
        bench = DockerBench(tmp_path, registry, docker_engine, f"test.c{uuid4().hex[:12]}")
        try:
            yield bench
        finally:
            await bench.clear()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ProcessBench]:
    async with running_registry() as registry:
        bench = ProcessBench(tmp_path, registry)
        try:
            yield bench
        finally:
            bench.kill_all()
