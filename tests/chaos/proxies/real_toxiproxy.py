"""Toxiproxy for tests: got as everybody gets it, which takes half a minute the first time on a machine."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos.proxies.fetch import toxiproxy_binary, toxiproxy_missing
from chaos.proxies.links import ToxicLinks
from chaos.proxies.toolchain import BuildError
from chaos.proxies.toxics import LIMIT_S
from chaos.proxies.toxiproxy import ToxiproxyServer
from tests.chaos.proxies.far_end import until


async def program() -> Path:
    """The server's program. Several test processes may ask at once: one builds, the others wait."""
    if why := toxiproxy_missing():
        pytest.skip(why)
    try:
        return await toxiproxy_binary(print)
    except BuildError as error:
        pytest.skip(f"Toxiproxy cannot be built here: {error}")


@asynccontextmanager
async def server_in(folder: Path, limit_s: float = LIMIT_S) -> AsyncIterator[ToxiproxyServer]:
    """A server of its own."""
    server = ToxiproxyServer(await program(), folder / "toxiproxy.log", limit_s)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def links_in(folder: Path) -> AsyncIterator[ToxicLinks]:
    """Ways through a server of their own."""
    await program()
    links = ToxicLinks(folder)
    try:
        await links.start(print)
        yield links
    finally:
        await links.stop()


async def hurt(server: ToxiproxyServer, *, hang: bool) -> None:
    """Kill it, or stop it; returns when not one of its threads goes on: a signal takes a moment to reach them all."""
    pid = server.process.pid
    os.kill(pid, signal.SIGSTOP if hang else signal.SIGKILL)
    await until(lambda: all(state in "TtZX" for state in states_of(pid)))


def states_of(pid: int) -> list[str]:
    try:
        told = [path.read_text("utf-8") for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return []
    return [text.rpartition(")")[2].split()[0] for text in told]
