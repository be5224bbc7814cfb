"""What a cut leaves: every stored thing with all values that it may come back with, the present one last.

Between two syncs nothing orders the writes of different things, so each comes back with any value that it had since;
a sync leaves one. A volume and its snapshots exchange their names in one step, and are one thing therefore.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple, TypeVar

from reference.core.model import Image, ImageState, SnapshotState

V = TypeVar("V")
LAYERS = 2
"""An image has so many; only how many are there matters."""


NEVER, RUNNING, ENDED = 0, 1, 2
"""What the engine has written down of a container's life: none, one that goes on, one that ended."""


class StoredContainer(NamedTuple):
    """A container's files."""

    id: str
    generation: int
    image: Image
    listed: tuple[bool, ...]
    policy: tuple[str, ...] = ("no",)
    ran: tuple[int, ...] = (NEVER,)


class StoredImage(NamedTuple):
    """An image's files: the engine's index names it, and so many of its layers are there."""

    digest: str
    listed: tuple[bool, ...]
    layers: tuple[int, ...]

    @property
    def state(self) -> ImageState | None:
        """As the engine sees it now; None: it is not listed."""
        if not self.listed[-1]:
            return None
        return ImageState.PRESENT if self.layers[-1] == LAYERS else ImageState.BROKEN


class Volumes(NamedTuple):
    """The format of the client's volume (the version that migrated it, or ""), and the copies by generation."""

    format: str = ""
    snapshots: tuple[tuple[int, SnapshotState, str], ...] = ()


class Disk(NamedTuple):
    """All that a device keeps beside its journal. Containers in the order of their making."""

    containers: tuple[StoredContainer, ...] = ()
    images: tuple[StoredImage, ...] = ()
    volumes: tuple[Volumes, ...] = (Volumes(),)

    @property
    def settled(self) -> bool:
        """Whether a cut loses nothing of what the updater has ordered. What processes write is their own business."""
        containers = all(len(c.listed) == len(c.policy) == 1 for c in self.containers)
        return containers and all(len(i.listed) == len(i.layers) == 1 for i in self.images)


def then(values: tuple[V, ...], value: V) -> tuple[V, ...]:
    """The values after one more write. Which of the older ones came first does not matter."""
    if value == values[-1]:
        return values
    return (*(v for v in values if v != value), value)


def synced(disk: Disk) -> Disk:
    """The disk after a sync."""
    containers = tuple(
        c._replace(listed=c.listed[-1:], policy=c.policy[-1:], ran=c.ran[-1:])
        for c in disk.containers
        if c.listed[-1]
    )
    images = tuple(
        i._replace(listed=i.listed[-1:], layers=i.layers[-1:])
        for i in disk.images
        if i.listed[-1] or i.layers[-1]
    )
    return Disk(containers, images, disk.volumes[-1:])


def after_cut(disk: Disk) -> Iterator[Disk]:
    """Every disk that a cut may leave, each once. What is read after it is durable: the next mount has seen to that."""
    seen: set[Disk] = set()
    containers = [list(_containers(c)) for c in disk.containers]
    images = [list(_images(i)) for i in disk.images]
    for volume in disk.volumes:
        for these in product(*containers):
            for those in product(*images):
                left = Disk(
                    tuple(c for c in these if c is not None),
                    tuple(i for i in those if i is not None),
                    (volume,),
                )
                if left not in seen:
                    seen.add(left)
                    yield left


def _containers(c: StoredContainer) -> Iterator[StoredContainer | None]:
    if False in c.listed:
        yield None
    if True in c.listed:
        for policy, ran in product(c.policy, c.ran):
            yield c._replace(listed=(True,), policy=(policy,), ran=(ran,))


def _images(i: StoredImage) -> Iterator[StoredImage | None]:
    # Layers that no index names are written again by the next pull: as good as none.
    if False in i.listed:
        yield None
    if True in i.listed:
        for layers in i.layers:
            yield i._replace(listed=(True,), layers=(layers,))
