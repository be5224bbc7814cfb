"""The client and the server of Toxiproxy: errors with names, servers side by side, and one that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import toxiproxy  # type: ignore[import-untyped]

from chaos.proxies.toxics import Toxic, ToxicsError, ToxicsGoneError, ToxicsHungError
from chaos.proxies.toxiproxy import ServerProcess, ToxiproxyServer
from tests.chaos.proxies.far_end import FarEnd, client_of
from tests.chaos.proxies.real_toxiproxy import hurt, program, server_in

HANGS_S = 0.7
"""A server that is only slow may count as one that hangs: it is started again more often then, nothing else."""
SLOW = Toxic("slow", "latency", "downstream", 1.0, {"latency": 100, "jitter": 0})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ToxiproxyServer]:
    async with server_in(tmp_path) as server:
        yield server


@pytest.fixture
async def far() -> AsyncIterator[FarEnd]:
    async with FarEnd.echo() as far:
        yield far


def port_of(server: ToxiproxyServer, name: str = "way") -> int:
    port = server.port_of(name)
    assert port is not None
    return port


async def test_the_client_does_all_that_the_api_can(server: ToxiproxyServer, far: FarEnd) -> None:
    toxics = server.process.toxics
    assert await toxics.version() == "2.12.0"
    made = await toxics.create("way", far.port, enabled=False)
    assert (made.name, made.enabled) == ("way", False)
    await toxics.add("way", SLOW)
    opened = await toxics.enable("way")
    assert await toxics.proxies() == {"way": opened}
    assert opened.enabled
    changed = Toxic("slow", "latency", "downstream", 0.5, {"latency": 1, "jitter": 0})
    await toxics.update("way", changed)
    assert await toxics.toxics("way") == {"slow": changed}
    await toxics.remove("way", "slow")
    assert await toxics.toxics("way") == {}
    async with client_of(opened.port) as client:
        await client.asked(b"hello")
    await toxics.disable("way")
    assert not (await toxics.proxies())["way"].enabled
    await toxics.reset()
    assert (await toxics.proxies())["way"].enabled
    await toxics.delete("way")
    assert await toxics.proxies() == {}


async def test_what_it_refuses_has_a_name(server: ToxiproxyServer, far: FarEnd) -> None:
    toxics = server.process.toxics
    await toxics.create("way", far.port)
    with pytest.raises(ToxicsGoneError, match="proxy not found"):
        await toxics.delete("none")
    with pytest.raises(ToxicsGoneError, match="toxic not found"):
        await toxics.update("way", SLOW)
    with pytest.raises(ToxicsError, match="already exists"):
        await toxics.create("way", far.port)
    with pytest.raises(ToxicsError, match="invalid toxic type"):
        await toxics.add("way", Toxic("x", "no-such-thing"))


async def test_an_answer_500_is_an_error_not_a_proxy(server: ToxiproxyServer, far: FarEnd) -> None:
    taken = f"127.0.0.1:{far.port}"
    with pytest.raises(ToxicsError, match=r"500: .*address already in use"):
        await server.process.toxics._do(lambda: toxiproxy.Toxiproxy().create(taken, "way", listen=taken))


async def test_an_api_that_is_not_there_has_a_name(tmp_path: Path) -> None:
    process = ServerProcess(await program(), tmp_path / "log")
    await process.start()
    toxics = process.toxics
    await process.stop()
    with pytest.raises(ToxicsHungError, match="is not there"):
        await toxics.version()


async def test_servers_side_by_side_are_not_mixed_up(tmp_path: Path, far: FarEnd) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            servers.append(await stack.enter_async_context(server_in(folder)))
        await asyncio.gather(
            *(s.create(f"way-{n}-{i}", far.port) for n, s in enumerate(servers) for i in range(5))
        )
        for number, server in enumerate(servers):
            assert set(await server.process.toxics.proxies()) == {f"way-{number}-{i}" for i in range(5)}


async def test_a_server_that_hangs_is_started_again_and_does_all_that_is_wanted(
    tmp_path: Path, far: FarEnd
) -> None:
    async with server_in(tmp_path, limit_s=HANGS_S) as server:
        for name in ("way", "closed", "free"):
            await server.create(name, far.port)
        await server.add("way", SLOW)
        await server.add("free", Toxic("gone", "limit_data", attributes={"bytes": 1}))
        await server.down("closed")
        first = server.process.pid
        await hurt(server, hang=True)
        await server.remove("free", "gone")
        assert server.restarts >= 1
        assert server.process.pid != first
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert await server.process.toxics.toxics("way") == {"slow": SLOW}
        assert server.port_of("closed") is None
        assert not (await server.process.toxics.proxies())["closed"].enabled
        async with client_of(port_of(server, "free")) as client:
            await client.asked(b"whole")
        async with client_of(port_of(server)) as client:
            assert await client.asked(b"late") >= 0.095


@pytest.mark.parametrize("hang", [True, False], ids=["hangs", "has died"])
async def test_what_was_asked_for_when_the_server_failed_is_done(
    tmp_path: Path, far: FarEnd, hang: bool
) -> None:
    async with server_in(tmp_path, limit_s=HANGS_S) as server:
        await server.create("way", far.port)
        await hurt(server, hang=hang)
        await server.add("way", SLOW)
        assert await server.process.toxics.toxics("way") == {"slow": SLOW}
        await hurt(server, hang=hang)
        await server.down("way")
        assert server.port_of("way") is None
        await hurt(server, hang=hang)
        await server.up("way")
        async with client_of(port_of(server)) as client:
            assert await client.asked(b"late") >= 0.095
        assert server.restarts >= 3


async def test_a_refusal_leaves_no_trace(server: ToxiproxyServer, far: FarEnd) -> None:
    await server.create("way", far.port)
    with pytest.raises(ToxicsError):
        await server.add("way", Toxic("x", "no-such-thing"))
    with pytest.raises(ToxicsError):
        await server.create("way", far.port)
    with pytest.raises(ToxicsGoneError):
        await server.update("way", SLOW)
    with pytest.raises(ToxicsGoneError):
        await server.add("none", SLOW)
    await hurt(server, hang=False)
    await server.remove("way", "x")
    await server.add("way", SLOW)
    assert await server.process.toxics.toxics("way") == {"slow": SLOW}


async def test_a_call_that_is_cancelled_is_over_before_the_next_begins(tmp_path: Path, far: FarEnd) -> None:
    async with server_in(tmp_path) as server:
        await server.create("way", far.port)
        for _ in range(20):
            task = asyncio.create_task(server.down("way"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.up("way")
            assert (await server.process.toxics.proxies())["way"].enabled
            async with client_of(port_of(server)) as client:
                await client.asked(b"open")


async def test_a_server_that_cannot_come_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToxicsError, match="does not come up"):
        await ServerProcess(Path("/bin/true"), tmp_path / "log").start()
    with pytest.raises(ToxicsError, match="cannot be started"):
        await ServerProcess(tmp_path / "none", tmp_path / "log").start()


ORPHAN = """
import asyncio, sys
from pathlib import Path
from chaos.proxies.toxiproxy import ServerProcess

async def main():
    server = ServerProcess(Path(sys.argv[1]), Path(sys.argv[2]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ORPHAN, await program(), tmp_path / "log", stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(await parent.stdout.readline()))
    try:
        parent.kill()
        await parent.wait()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(child, ended.set)
        async with asyncio.timeout(10):
            await ended.wait()
        asyncio.get_running_loop().remove_reader(child)
    finally:
        os.close(child)
