"""The steps: the activity that the updater wants now. Each is idempotent and safe to cut anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reference.core.model import Image

if TYPE_CHECKING:
    from reference.core.record import UpdateRecord


@dataclass(frozen=True, slots=True)
class Journal:
    """Make this record durable. The only step that changes it."""

    record: UpdateRecord


@dataclass(frozen=True, slots=True)
class Pull:
    """Have the image by digest, whole and verified; a broken one is removed first."""

    image: Image


@dataclass(frozen=True, slots=True)
class Create:
    """Have a container of this image and generation, with current's configuration, not started."""

    image: Image
    generation: int


@dataclass(frozen=True, slots=True)
class Start:
    """Start the container. `trusted`: it has passed a trial before, or its commit is durable."""

    container_id: str
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Have no process of this container."""

    container_id: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Have this container no more. Its volumes stay."""

    container_id: str


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """Have this image no more."""

    digest: str


@dataclass(frozen=True, slots=True)
class SetRestartPolicy:
    """What the engine does by itself when the container's process ends or the device boots."""

    container_id: str
    policy: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Put all engine data on the disk."""


@dataclass(frozen=True, slots=True)
class RestartEngine:
    """Once per job, before a candidate is blamed for a start that was refused."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something happens or `for_ms` have passed."""

    for_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class PrepareSnapshot:
    """See that a copy of the client's volumes can be made for this generation, before anything is stopped for it."""

    generation: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Have a whole copy of the client's volumes. Only while nothing runs on them."""

    generation: int


@dataclass(frozen=True, slots=True)
class RestoreSnapshot:
    """Have every volume as the snapshot has it, once. Only while nothing runs on them."""

    generation: int


@dataclass(frozen=True, slots=True)
class RemoveSnapshot:
    """Have this snapshot no more. What a restored one replaced is kept aside until the next is prepared."""

    generation: int


Act = (
    Pull
    | Create
    | Start
    | Stop
    | Remove
    | RemoveImage
    | SetRestartPolicy
    | Sync
    | RestartEngine
    | PrepareSnapshot
    | Snapshot
    | RestoreSnapshot
    | RemoveSnapshot
)
"""What the runtime does."""
Step = Journal | Act | Wait
