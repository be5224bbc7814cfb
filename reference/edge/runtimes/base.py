"""The runtime port: all that the updater asks of whatever runs containers.

Every method is idempotent ("already so" is success), may be cancelled at any await, and may be cut at any instant:
what it leaves behind is continued or repaired by calling it again. Failures are `reference.core.errors` with a reason
code; nothing else leaves a runtime. One contract suite (tests/edge/runtimes/contract.py) runs over every runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from reference.core.model import ContainerState, HealthState, Image, ImageState, Installed, SnapshotState


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is. `total_bytes` is None until the manifest is known."""

    done_bytes: int
    total_bytes: int | None


OnProgress = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to be created. `configuration` is what stays the same over all updates of a client."""

    generation: int
    image: Image
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Path inside the container -> path on the device."""
    environment: Mapping[str, str] = field(default_factory=dict)
    restart_policy: str = "no"
    like: str = ""
    """Id of the container whose configuration it takes over, where an engine knows more than mounts and environment."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A container as the engine sees it; `reference.core.model.Container` adds what the probe sees."""

    id: str
    generation: int
    image: Image
    state: ContainerState
    started_this_boot: bool
    up_ms: int
    life: str
    """Names the present process life: another life, another value. Empty when it does not run."""
    exit_code: int | None
    restart_policy: str
    configuration: str
    """Digest of all that stays the same over the updates of a client: mounts, environment, and what else an engine knows."""
    mounts: Mapping[str, str]
    """Path inside the container -> path on the device."""
    environment: Mapping[str, str]
    overlaps: bool = False
    """Whether it may stand by beside another one of the client: its image says so, and its network allows it."""
    engine_health: HealthState | None = None
    """What the image's own check says of this life; None: the image has none."""
    address: str = ""
    """Where it is found in its own network while it runs; empty: it has none, or is on the device's."""
    standby: str = ""
    """Name of the abstract unix socket on which it answers while it stands by; empty: it cannot."""


@dataclass(frozen=True, slots=True)
class EngineView:
    """All containers of ours and all images, at one moment."""

    containers: tuple[ContainerFacts, ...]
    images: Mapping[str, ImageState]
    """By digest as commanded."""
    snapshots: Mapping[int, SnapshotState] = field(default_factory=dict)
    """By generation."""


class Runtime(Protocol):
    """The port. `boot_id` is constant over the life of one boot of the device and differs between boots."""

    @property
    def boot_id(self) -> str: ...

    @property
    def received_bytes(self) -> int:
        """Of images, over the wire, since this process began; as near as the engine tells."""

    async def observe(self) -> EngineView:
        """What is there. Raises EngineError when the engine does not answer."""

    async def pull(self, image: Image, progress: OnProgress) -> None:
        """Fetch by digest, check every byte, unpack. Afterwards `observe` shows it PRESENT; not yet synced.

        Raises RegistryError, ImageError, DeviceError (disk full). Progress made is kept where that is safe.
        """

    async def create(self, spec: ContainerSpec) -> str:
        """Make the container without starting it; answers its id. One that exists for the generation is kept."""

    async def start(self, container_id: str) -> None:
        """Start it, with the boot-scoped marker written first. Raises EngineError(START_REFUSED)."""

    async def stop(self, container_id: str, grace_ms: int) -> None:
        """SIGTERM, then SIGKILL after `grace_ms`; returns when no process of it is left."""

    async def remove(self, container_id: str) -> None:
        """Stop at once if it runs, and remove. The volumes stay."""

    async def set_restart_policy(self, container_id: str, policy: str) -> None:
        """What the engine does when the process ends or the device boots: `no`, `always` or `unless-stopped`."""

    async def remove_image(self, digest: str) -> None:
        """Remove the image and what only it used. One that a container uses is refused with EngineError."""

    async def sync(self) -> None:
        """Return when all engine data is on the disk, not only in its cache."""

    async def prepare_snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        """See that the volumes among `mounts` can be copied, while something may run on them.

        What an earlier restore kept aside is removed. Raises DeviceError (disk full, a volume that cannot be copied).
        """

    async def snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        """Copy the volumes; nothing runs on them. On the disk when it returns; half a copy is none."""

    async def restore_snapshot(self, generation: int) -> None:
        """Have the volumes as they were copied; nothing runs on them. Done once: a restored one stays as it is.

        Each volume is exchanged in one step, and a call that was cut is continued by the next. What is replaced is
        kept. Raises EngineError when there is no copy.
        """

    async def remove_snapshot(self, generation: int) -> None:
        """Remove the copies. What a restore replaced is kept aside, the last one only."""

    async def restart_engine(self) -> None:
        """Restart the engine, or do what comes nearest; containers that run go on running."""

    async def settled(self, current: Installed | None, previous: Installed | None) -> None:
        """What is installed now that no job is under way: for names that people see, and for what is kept of current.

        Nothing hangs on it: it may be called again and again, late, or never. Raises EngineError.
        """

    async def close(self) -> None:
        """Let go of everything held here. Containers go on running."""
