"""The end of a container's process, as fast as the kernel can tell and no faster than is safe."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import docker
from docker.errors import APIError

from reference.core.errors import EngineError
from reference.edge.runtimes.docker.engine import Document, Engine
from reference.edge.runtimes.docker.facts import Running, noticed
from reference.edge.runtimes.docker.words import said
from reference.edge.runtimes.procfs import Handle, Life

POLL_S = 0.005
NOTICE_S = 10.0
"""Longest wait for a killed process to be gone, and for the engine to notice."""
_GONE = ("is not running", "no such container", "process already finished")
Look = Callable[[], Awaitable[Document | None]]


async def end(engine: Engine, container: Document, alive: Running | None, grace_ms: int, look: Look) -> bool:
    """Signal, wait, kill; whether it had to be killed. Returns when nothing of it runs, and nobody will run it again.

    The engine is asked to send the first signal, because that is what keeps its restart policy from reviving the
    container; a policy of `no` has nothing to keep, and the signal goes straight to the process. Where the network is
    the device's own, nothing of the container is left with its last process; elsewhere its ports are the engine's,
    which has to let go of them first.
    """
    container_id = str(container["Id"])
    process = alive.process if alive is not None and _revives_nothing(container) else None
    killed = False
    if alive is not None:
        await _signal(engine, container_id, process, stop_signal(container))
        killed = not await _ended(alive, grace_ms / 1000, look)
        if killed:
            await _signal(engine, container_id, process, signal.SIGKILL)
            if not await _ended(alive, NOTICE_S, look):
                raise EngineError(
                    f"{container_id[:12]} does not end when it is killed", todo="See what it waits for."
                )
    elif container["State"].get("Restarting"):
        await engine.act("stop a container", lambda api: api.stop(container_id, timeout=0))
    if process is None or leaves_something(container):
        await wait_noticed(look)
    return killed


def leaves_something(container: Document) -> bool:
    """Whether more of it is left than its first process: ports of the engine's, or processes that do not end with it."""
    host = container["HostConfig"]
    return host.get("NetworkMode") != "host" or bool(host.get("PidMode"))


def _revives_nothing(container: Document) -> bool:
    policy = (container["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no"
    return policy == "no" and not container["State"].get("Paused")


def stop_signal(container: Document) -> int:
    """What its image, or whoever made it, wants to be told at the end."""
    word = str(container["Config"].get("StopSignal") or "SIGTERM").upper()
    if word.isdecimal() and int(word) in set(signal.Signals):
        return int(word)
    name = word if word.startswith("SIG") else f"SIG{word}"
    try:
        return int(signal.Signals[name])
    except KeyError:
        return int(signal.SIGTERM)


async def _signal(engine: Engine, container_id: str, process: Life | None, number: int) -> None:
    """To the process itself, or, where that is not ours to do, by the engine."""
    if process is not None:
        with Handle(process) as handle:
            try:
                handle.send(signal.Signals(number))
            except PermissionError:
                pass
            else:
                return

    def work(api: docker.APIClient) -> None:
        try:
            api.kill(container_id, signal=number)
        except APIError as error:
            if not any(phrase in said(error).lower() for phrase in _GONE):
                raise

    await engine.act(f"send signal {number} to {container_id[:12]}", work)


async def _ended(alive: Running, timeout_s: float, look: Look) -> bool:
    """Whether its process has ended within `timeout_s`."""
    if alive.process is not None:
        with Handle(alive.process) as handle:
            return await handle.ended(timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await _until_noticed(look)
    except TimeoutError:
        return False
    return True


async def wait_noticed(look: Look) -> None:
    """Until the engine knows that nothing of it runs: only then are its ports free, and can it be started again."""
    try:
        async with asyncio.timeout(NOTICE_S):
            await _until_noticed(look)
    except TimeoutError:
        what = "the engine does not notice that a container has ended"
        raise EngineError(what, todo="Restart the engine: it has lost its container's shim.") from None


async def _until_noticed(look: Look) -> None:
    while (found := await look()) is not None and not noticed(found):  # noqa: ASYNC110 - the engine's to say
        await asyncio.sleep(POLL_S)
