"""A handle on the model engine for tests that are told step by step: `reference.world.engine`, and one that may be changed.

Nothing is modelled here. What somebody else does to a device is written into the engine and its disk as if it had been
there for long: `containers`, `images`, `snapshots` and `volume` may be assigned and edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from reference.core.errors import Reason
from reference.core.model import Container, ContainerState, ImageState, SnapshotState
from reference.core.steps import Act, RestartEngine
from reference.world import engine as world
from reference.world.disk import (
    ENDED,
    LAYERS,
    NEVER,
    RUNNING,
    Disk,
    StoredContainer,
    StoredImage,
    Volumes,
    synced,
)
from reference.world.engine import Boot, Engine, Setting
from reference.world.nouns import FAR, GOOD, HEALTH, LIMITS, Behaviour, command, image, installed

__all__ = ["FAR", "GOOD", "HEALTH", "LIMITS", "Behaviour", "command", "image", "installed"]

K = TypeVar("K")
V = TypeVar("V")


class Cut(StrEnum):
    """Some of what a cut may leave, by name; the explorer has them all. AGENT: only the updater's process ends."""

    AGENT = "agent"
    KEEP = "keep"
    """All that was written."""
    LOSE = "lose"
    """Nothing that was not synced."""
    TEAR = "tear"
    """Nothing that was not synced, but for the index: an image half there is listed and broken."""
    LOSE_CONTAINERS = "lose-containers"
    """All, but for what was not synced of the containers."""
    STICK = "stick"
    """All, but the engine refuses every start until it is restarted: a port is still allocated."""
    FLAKE = "flake"
    """All, but the first pull fails."""

    @property
    def boot(self) -> Boot:
        """How the device comes back."""
        return {Cut.STICK: Boot.STUCK, Cut.FLAKE: Boot.FLAKY}.get(self, Boot.PLAIN)

    def left(self, disk: Disk) -> Disk:
        """The disk with the one value of each thing that this cut leaves."""
        containers = 0 if self in (Cut.LOSE, Cut.LOSE_CONTAINERS, Cut.TEAR) else -1
        images = 0 if self in (Cut.LOSE, Cut.TEAR) else -1
        index = 0 if self is Cut.LOSE else -1
        return Disk(
            tuple(
                c._replace(
                    listed=(c.listed[containers],), policy=(c.policy[containers],), ran=(c.ran[containers],)
                )
                for c in disk.containers
            ),
            tuple(i._replace(listed=(i.listed[index],), layers=(i.layers[images],)) for i in disk.images),
            (disk.volumes[images],),
        )


class View(MutableMapping[K, V]):
    """A mapping that is read from somewhere and written back there as a whole."""

    def __init__(self, read: Callable[[], dict[K, V]], write: Callable[[Mapping[K, V]], None]) -> None:
        self._read, self._write = read, write

    def __getitem__(self, key: K) -> V:
        return self._read()[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._write({**self._read(), key: value})

    def __delitem__(self, key: K) -> None:
        found = self._read()
        del found[key]
        self._write(found)

    def __iter__(self) -> Iterator[K]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())


@dataclass
class ModelEngine:
    """One engine after another, and how its versions behave."""

    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    state: Engine = field(default_factory=Engine)
    boot: int = 1
    restarts: int = 0

    @property
    def setting(self) -> Setting:
        """How versions behave, by digest."""
        return Setting(dict(self.behaviours))

    def fork(self) -> ModelEngine:
        """Another one that has come as far."""
        return copy(self)

    # -- what the updater asks for, and what happens by itself

    def act(self, step: Act) -> None:
        """Carry out a step. Raises RefusedError with the engine as far as it has got."""
        self.restarts += isinstance(step, RestartEngine)
        for _, state in world.perform(self.setting, self.state, step):
            self.state = state

    def advance(self, ms: int) -> int:
        """Let so much time pass; answers how often the engine has started something by itself."""
        after = world.advance(self.setting, self.state, ms)
        self.state = after._replace(revived=0)
        return after.revived

    def sync(self) -> None:
        """All that was written is on the disk."""
        self._disk(synced(self.state.disk))

    def cut(self, kind: Cut) -> None:
        """A power cut and a boot, or (AGENT) only the updater's end."""
        if kind is Cut.AGENT:
            self.state = world.unwatched(self.state)
            return
        left = self.state._replace(disk=kind.left(self.state.disk))
        ((_, self.state),) = world.boots(Setting(dict(self.behaviours), (kind.boot,)), left)
        self.boot += 1

    # -- what is there, and what somebody else does to it

    @property
    def containers(self) -> tuple[Container, ...]:
        """As they are seen."""
        return self.state.containers

    @containers.setter
    def containers(self, wanted: tuple[Container, ...]) -> None:
        known = {s.id: s for s in self.state.disk.containers}
        stored = tuple(_stored(c, known.get(c.id)) for c in wanted)
        self.state = self.state._replace(containers=wanted)
        self._disk(self.state.disk._replace(containers=stored))

    @property
    def images(self) -> View[str, ImageState]:
        """As they are listed, by digest."""
        return View(lambda: self.state.images, self._have_images)

    @images.setter
    def images(self, wanted: Mapping[str, ImageState]) -> None:
        self._have_images(wanted)

    def _have_images(self, wanted: Mapping[str, ImageState]) -> None:
        layers = {ImageState.PRESENT: (LAYERS,), ImageState.BROKEN: (0,)}
        known = {i.digest: i for i in self.state.disk.images}
        now = self.state.images
        stored = (
            known[d] if now.get(d) is state else StoredImage(d, (True,), layers[state])
            for d, state in wanted.items()
        )
        self._disk(self.state.disk._replace(images=tuple(sorted(stored))))

    @property
    def snapshots(self) -> View[int, tuple[SnapshotState, str]]:
        """State and format of each copy, by generation."""
        return View(
            lambda: {g: (state, copied) for g, state, copied in self._volumes.snapshots},
            self._have_snapshots,
        )

    @snapshots.setter
    def snapshots(self, wanted: Mapping[int, tuple[SnapshotState, str]]) -> None:
        self._have_snapshots(wanted)

    def _have_snapshots(self, wanted: Mapping[int, tuple[SnapshotState, str]]) -> None:
        copies = tuple((g, *wanted[g]) for g in sorted(wanted))
        self._disk(self.state.disk._replace(volumes=(self._volumes._replace(snapshots=copies),)))

    @property
    def volume(self) -> str:
        """The format of the client's volume: the version that migrated it, or ""."""
        return self._volumes.format

    @property
    def pull_failures(self) -> View[str, tuple[Reason, ...]]:
        """Registry trouble to come, by digest: used up one by one."""

        def write(wanted: Mapping[str, tuple[Reason, ...]]) -> None:
            self.state = self.state._replace(pulls=tuple(sorted(wanted.items())))

        return View(lambda: dict(self.state.pulls), write)

    @property
    def act_failures(self) -> View[type[Act], int]:
        """So many times an act of this kind will fail."""
        kinds = {kind.__name__: kind for kind in Act.__args__}

        def write(wanted: Mapping[type[Act], int]) -> None:
            acts = tuple((kind.__name__, left, Reason.ENGINE_ERROR) for kind, left in wanted.items())
            self.state = self.state._replace(acts=acts)

        return View(lambda: {kinds[name]: left for name, left, _ in self.state.acts}, write)

    @property
    def _volumes(self) -> Volumes:
        return self.state.disk.volumes[-1]

    def _disk(self, disk: Disk) -> None:
        self.state = self.state._replace(disk=disk)


def _stored(c: Container, known: StoredContainer | None) -> StoredContainer:
    """Its files; those that are there stay as volatile as they are."""
    if known is not None and known.policy[-1] == c.restart_policy:
        return known
    ran = {ContainerState.RUNNING: RUNNING, ContainerState.EXITED: ENDED}.get(c.state, NEVER)
    return StoredContainer(c.id, c.generation, c.image, (True,), (c.restart_policy,), (ran,))
