"""From a step to the coroutine that does it: one line each, and the type checker sees that none is missing."""

from __future__ import annotations

from typing import assert_never

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
from reference.edge.runtimes.base import ContainerFacts, ContainerSpec, EngineView, OnProgress, Runtime
from reference.edge.settings import ClientSettings


async def execute(
    act: Act, runtime: Runtime, client: ClientSettings, view: EngineView, on_progress: OnProgress
) -> None:
    """Do it. Raises the runtime's errors; may be cancelled at any await."""
    match act:
        case Pull(image):
            await runtime.pull(image, on_progress)
        case Create():
            await runtime.create(specification(act, client, view))
        case Start(container_id):
            await runtime.start(container_id)
        case Stop(container_id):
            await runtime.stop(container_id, client.stop_grace_ms)
        case Remove(container_id):
            await runtime.remove(container_id)
        case RemoveImage(digest):
            await runtime.remove_image(digest)
        case SetRestartPolicy(container_id, policy):
            await runtime.set_restart_policy(container_id, policy)
        case Sync():
            await runtime.sync()
        case RestartEngine():
            await runtime.restart_engine()
        case PrepareSnapshot() | Snapshot() | RestoreSnapshot() | RemoveSnapshot():
            await _volumes(act, runtime, _mounts(client, view))
        case _:
            assert_never(act)


async def _volumes(
    act: PrepareSnapshot | Snapshot | RestoreSnapshot | RemoveSnapshot,
    runtime: Runtime,
    mounts: dict[str, str],
) -> None:
    match act:
        case PrepareSnapshot(generation):
            await runtime.prepare_snapshot(generation, mounts)
        case Snapshot(generation):
            await runtime.snapshot(generation, mounts)
        case RestoreSnapshot(generation):
            await runtime.restore_snapshot(generation)
        case RemoveSnapshot(generation):
            await runtime.remove_snapshot(generation)
        case _:
            assert_never(act)


def specification(create: Create, client: ClientSettings, view: EngineView) -> ContainerSpec:
    """The candidate's: what the oldest container of the client has, or, for the first one, what is set up."""
    existing = _oldest(view)
    return ContainerSpec(
        generation=create.generation,
        image=create.image,
        mounts=_mounts(client, view),
        environment=dict(existing.environment if existing is not None else client.environment),
        restart_policy="no",
        like=existing.id if existing is not None else "",
    )


def _oldest(view: EngineView) -> ContainerFacts | None:
    return min(view.containers, key=lambda c: c.generation, default=None)


def _mounts(client: ClientSettings, view: EngineView) -> dict[str, str]:
    existing = _oldest(view)
    return dict(existing.mounts if existing is not None else client.mounts)
