"""A runtime in memory, behind the port of the real ones: no processes, no disk, and faults on demand."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace

from reference.core.errors import EngineError
from reference.core.model import ContainerState, Image, ImageState, Installed, SnapshotState
from reference.edge.runtimes.base import ContainerFacts, ContainerSpec, EngineView, OnProgress, PullProgress


class FakeRuntime:
    """Does as it is told, writes down what was asked (`calls`), and fails where `fail` says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.containers: dict[str, ContainerFacts] = {}
        self.images: dict[str, ImageState] = {}
        self.snapshots: dict[int, SnapshotState] = {}
        self.fail: dict[str, list[Exception]] = {}
        """By method: what its next calls raise, one each."""
        self.hold: dict[str, asyncio.Event] = {}
        """By method: what its calls wait for before they do anything."""
        self.begun = asyncio.Event()
        """A call that is held was reached."""
        self.cancelled: list[str] = []
        self.installed: list[tuple[Installed | None, Installed | None]] = []
        """What it was told to be installed while no job was under way."""
        self.most_running = 0
        self._lives = itertools.count(1)
        self._started: dict[str, float] = {}

    @property
    def boot_id(self) -> str:
        return "boot-1"

    @property
    def received_bytes(self) -> int:
        return 0

    async def settled(self, current: Installed | None, previous: Installed | None) -> None:
        self.installed.append((current, previous))

    def install(self, image: Image, generation: int, *, running: bool = True) -> str:
        """A container that is there from before."""
        self.images[image.digest] = ImageState.PRESENT
        name = f"c{generation}"
        spec = ContainerSpec(generation, image, restart_policy="unless-stopped")
        self.containers[name] = self._facts(name, spec)
        if running:
            self._run(name)
        return name

    def running(self) -> list[str]:
        return [c.id for c in self.containers.values() if c.life]

    async def observe(self) -> EngineView:
        await self._asked("observe", quiet=True)
        now = time.monotonic()
        seen = [
            replace(c, up_ms=round((now - self._started[c.id]) * 1000)) if c.life else c
            for c in self.containers.values()
        ]
        return EngineView(tuple(seen), dict(self.images), dict(self.snapshots))

    async def pull(self, image: Image, progress: OnProgress) -> None:
        await self._asked("pull")
        progress(PullProgress(1, 1))
        self.images[image.digest] = ImageState.PRESENT

    async def create(self, spec: ContainerSpec) -> str:
        await self._asked("create")
        name = f"c{spec.generation}"
        self.containers.setdefault(name, self._facts(name, spec))
        return name

    async def start(self, container_id: str) -> None:
        await self._asked("start", container_id)
        if container_id not in self.containers:
            raise EngineError(f"no container {container_id}")
        if not self.containers[container_id].life:
            self._run(container_id)

    async def stop(self, container_id: str, grace_ms: int) -> None:
        await self._asked("stop", container_id)
        found = self.containers.get(container_id)
        if found is not None and found.life:
            self.containers[container_id] = replace(
                found, state=ContainerState.EXITED, life="", exit_code=0, up_ms=0
            )

    async def remove(self, container_id: str) -> None:
        await self._asked("remove", container_id)
        self.containers.pop(container_id, None)

    async def set_restart_policy(self, container_id: str, policy: str) -> None:
        await self._asked("set_restart_policy", container_id)
        self.containers[container_id] = replace(self.containers[container_id], restart_policy=policy)

    async def remove_image(self, digest: str) -> None:
        await self._asked("remove_image", digest[-4:])
        self.images.pop(digest, None)

    async def sync(self) -> None:
        await self._asked("sync")

    async def prepare_snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        await self._asked("prepare_snapshot", str(generation))
        self.snapshots.setdefault(generation, SnapshotState.PREPARED)

    async def snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        await self._asked("snapshot", str(generation))
        assert not self.running()
        if self.snapshots.get(generation) in (None, SnapshotState.PREPARED):
            self.snapshots[generation] = SnapshotState.TAKEN

    async def restore_snapshot(self, generation: int) -> None:
        await self._asked("restore_snapshot", str(generation))
        assert not self.running()
        if self.snapshots.get(generation) in (None, SnapshotState.PREPARED):
            raise EngineError(f"no snapshot {generation}")
        self.snapshots[generation] = SnapshotState.RESTORED

    async def remove_snapshot(self, generation: int) -> None:
        await self._asked("remove_snapshot", str(generation))
        self.snapshots.pop(generation, None)

    async def restart_engine(self) -> None:
        await self._asked("restart_engine")

    async def close(self) -> None:
        self.calls.append("close")

    async def _asked(self, method: str, what: str = "", quiet: bool = False) -> None:
        if not quiet:
            self.calls.append(f"{method} {what}".strip())
        if (gate := self.hold.get(method)) is not None:
            self.begun.set()
            try:
                await gate.wait()
            except asyncio.CancelledError:
                self.cancelled.append(method)
                raise
        if self.fail.get(method):
            raise self.fail[method].pop(0)

    def _run(self, name: str) -> None:
        self._started[name] = time.monotonic()
        self.containers[name] = replace(
            self.containers[name],
            state=ContainerState.RUNNING,
            started_this_boot=True,
            life=f"life-{next(self._lives)}",
            exit_code=None,
        )
        self.most_running = max(self.most_running, len(self.running()))

    @staticmethod
    def _facts(name: str, spec: ContainerSpec) -> ContainerFacts:
        return ContainerFacts(
            name, spec.generation, spec.image, ContainerState.CREATED, False, 0, "", None, spec.restart_policy,
            "configuration", spec.mounts, spec.environment,
        )  # fmt: skip
