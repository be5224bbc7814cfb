"""Toxiproxy for tests: got as everybody gets it, which takes half a minute the first time on a machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos.proxies.fetch import toxiproxy_binary, toxiproxy_missing
from chaos.proxies.links import ToxicLinks
from chaos.proxies.toolchain import BuildError
from chaos.proxies.toxics import LIMIT_S
from chaos.proxies.toxiproxy import ToxiproxyServer


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
