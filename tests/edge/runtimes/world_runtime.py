"""The model world's engine behind the runtime port, so that one contract judges the model and the real thing.

Every atom of an act is a moment at which the call may be cancelled. What the port has and the model has not (a life's
name, where a pull's progress stands) is added here; what the engine does is `reference.world.engine`'s alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reference.core.errors import BlackstartError, EngineError, Reason, RegistryError
from reference.core.model import Container, Image, Installed
from reference.core.steps import (
    Act,
    Create,
    PrepareSnapshot,
    Pull,
    Remove,
    RemoveImage,
    RemoveSnapshot,
    RestartEngine,
    RestoreSnapshot,
    SetRestartPolicy,
    Snapshot,
    Start,
    Stop,
    Sync,
)
from reference.edge.runtimes.base import ContainerFacts, ContainerSpec, EngineView, OnProgress, PullProgress
from reference.world import engine as world
from reference.world.atoms import Atom
from reference.world.disk import LAYERS, synced
from reference.world.engine import Boot, Engine, RefusedError, Setting
from reference.world.nouns import GOOD, Behaviour
from tests.edge.runtimes.contract import QUITS, SLEEPER, Codes, Room

PROGRAMS = {SLEEPER: GOOD, QUITS: Behaviour(crashes=True)}
"""What the contract's programs do, in the model's words."""


@dataclass
class WorldDevice:
    """A device of the model world: what is left of it when a runtime is let go of."""

    engine: Engine = field(default_factory=Engine)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    """Of all that was published, by digest."""
    boot: int = 1
    lives: dict[str, int] = field(default_factory=dict)
    """Process lives so far, by container."""

    @property
    def setting(self) -> Setting:
        return Setting(self.behaviours, (Boot.PLAIN,))

    def become(self, engine: Engine) -> None:
        """The engine is this one now."""
        before = {c.id for c in self.engine.containers if c.running}
        for container in engine.containers:
            if container.running and container.id not in before:
                self.lives[container.id] = self.lives.get(container.id, 0) + 1
        self.engine = engine

    def reboot(self) -> None:
        """Down in good order: all that was written is on the disk."""
        written = self.engine._replace(disk=synced(self.engine.disk))
        ((_, engine),) = world.boots(self.setting, written)
        self.engine = self.engine._replace(containers=())
        self.become(engine)
        self.boot += 1


class WorldRuntime:
    """The port, over a device of the model world."""

    def __init__(self, device: WorldDevice) -> None:
        self._device = device

    @property
    def boot_id(self) -> str:
        return f"boot-{self._device.boot}"

    @property
    def received_bytes(self) -> int:
        return 0

    async def observe(self) -> EngineView:
        engine = self._device.engine
        copies = {g: state for g, state, _ in engine.disk.volumes[-1].snapshots}
        return EngineView(tuple(map(self._facts, engine.containers)), dict(engine.images), copies)

    def _facts(self, c: Container) -> ContainerFacts:
        life = f"{c.id}:{self._device.lives[c.id]}" if c.running else ""
        return ContainerFacts(
            c.id, c.generation, c.image, c.state, c.started_this_boot, c.up_ms, life, c.exit_code, c.restart_policy,
            c.configuration, {}, {},
        )  # fmt: skip

    async def pull(self, image: Image, progress: OnProgress) -> None:
        device = self._device
        if image.digest not in device.behaviours:
            unknown = (*device.engine.pulls, (image.digest, (Reason.IMAGE_UNKNOWN,)))
            device.engine = device.engine._replace(pulls=unknown)
        await self._do(Pull(image), progress)

    async def create(self, spec: ContainerSpec) -> str:
        await self._do(Create(spec.image, spec.generation))
        made = next(
            c
            for c in self._device.engine.containers
            if (c.generation, c.image) == (spec.generation, spec.image)
        )
        if made.restart_policy != spec.restart_policy:
            await self.set_restart_policy(made.id, spec.restart_policy)
        return made.id

    async def start(self, container_id: str) -> None:
        await self._do(Start(container_id))

    async def stop(self, container_id: str, grace_ms: int) -> None:
        await self._do(Stop(container_id))

    async def remove(self, container_id: str) -> None:
        await self._do(Remove(container_id))

    async def set_restart_policy(self, container_id: str, policy: str) -> None:
        await self._do(SetRestartPolicy(container_id, policy))

    async def remove_image(self, digest: str) -> None:
        await self._do(RemoveImage(digest))

    async def sync(self) -> None:
        await self._do(Sync())

    async def prepare_snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        await self._do(PrepareSnapshot(generation))

    async def snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        await self._do(Snapshot(generation))

    async def restore_snapshot(self, generation: int) -> None:
        await self._do(RestoreSnapshot(generation))

    async def remove_snapshot(self, generation: int) -> None:
        await self._do(RemoveSnapshot(generation))

    async def restart_engine(self) -> None:
        await self._do(RestartEngine())

    async def settled(self, current: Installed | None, previous: Installed | None) -> None:
        """Nothing here has names for people."""

    async def close(self) -> None:
        """Nothing is held."""

    async def _do(self, act: Act, progress: OnProgress | None = None) -> None:
        layers = 0
        try:
            for atom, engine in world.perform(self._device.setting, self._device.engine, act):
                self._device.become(engine)
                if progress is not None and atom is Atom.PULL_LAYER:
                    layers += 1
                    progress(PullProgress(layers, LAYERS))
                await asyncio.sleep(0)
        except RefusedError as refused:
            raise _named(act, refused) from refused


def _named(act: Act, refused: RefusedError) -> BlackstartError:
    kind = RegistryError if isinstance(act, Pull) else EngineError
    return kind(refused.failure.message, reason=refused.failure.reason)


class WorldVolume:
    """The volume of the model: its format stands for all that is written in it."""

    def __init__(self, device: WorldDevice, content: str) -> None:
        self._device = device
        self.mounts: dict[str, str] = {}
        self.write(content)

    def write(self, content: str) -> None:
        disk = self._device.engine.disk
        now = disk.volumes[-1]._replace(format=content)
        self._device.engine = self._device.engine._replace(disk=disk._replace(volumes=(now,)))

    def read(self) -> str:
        return self._device.engine.disk.volumes[-1].format


class WorldBench:
    """The model under the contract."""

    codes = Codes(stopped=0, quits=1, cut=137)
    """In the model a client heeds SIGTERM, as the reference's does, and the engine remembers what ran, as Docker does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.device = WorldDevice()
        self.runtime = WorldRuntime(self.device)

    def publish(self, program: bytes, version: str = "1") -> Image:
        digest = f"sha256:{hashlib.sha256(program + version.encode()).hexdigest()}"
        self.device.behaviours[digest] = PROGRAMS[program]
        return Image("registry.test/opc", digest, version)

    def volume(self, content: str) -> WorldVolume:
        return WorldVolume(self.device, content)

    def room(self) -> Room:
        return Room({}, str(self.folder), self.folder)

    def told_mounts(self, environment: Mapping[str, str]) -> Mapping[str, str] | None:
        return None

    def kill(self, facts: ContainerFacts) -> None:
        self.device.become(world.ended(self.device.engine, facts.id))

    async def again(self) -> WorldRuntime:
        self.device.engine = world.unwatched(self.device.engine)
        self.runtime = WorldRuntime(self.device)
        return self.runtime

    async def reboot(self) -> WorldRuntime:
        self.device.reboot()
        self.runtime = WorldRuntime(self.device)
        return self.runtime
