"""The ways through Toxiproxy of a run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos.proxies.links import Passage, ToxicLinks
from chaos.proxies.toxics import ToxicsError, ToxicsGoneError
from reference.core.errors import ServiceError
from tests.chaos.proxies.far_end import FarEnd, client_of, until
from tests.chaos.proxies.real_toxiproxy import hurt, links_in, program


@pytest.fixture
async def links(tmp_path: Path) -> AsyncIterator[ToxicLinks]:
    async with links_in(tmp_path) as links:
        yield links


@pytest.fixture
async def far() -> AsyncIterator[FarEnd]:
    async with FarEnd.echo() as far:
        yield far


@pytest.fixture
async def way(links: ToxicLinks, far: FarEnd) -> Passage:
    return await links.passage("edge-1 to the broker", far.port)


async def test_a_name_may_have_spaces(way: Passage) -> None:
    async with client_of(way.port) as client:
        await client.asked(b"hello")
        await way.add("latency", latency=60)
        assert await client.asked(b"late") >= 0.055


async def test_toxics_of_one_kind_do_not_get_in_each_others_way(way: Passage) -> None:
    first, second = await way.add("latency", latency=60), await way.add("latency", latency=60)
    async with client_of(way.port) as client:
        assert await client.asked(b"both") >= 0.115
        await way.remove(first)
        await way.remove(first)
        assert await client.asked(b"one") >= 0.055
        await way.update(second, latency=90)
        assert await client.asked(b"more") >= 0.085
    with pytest.raises(ServiceError, match="no toxic"):
        await way.update(first, latency=1)


async def test_it_stays_down_until_everyone_has_let_go(way: Passage, far: FarEnd) -> None:
    async with client_of(way.port) as client:
        await client.asked(b"hello")
        await way.down("a")
        assert (await client.rest()).body == b""
    await way.down("b")
    await way.up("a")
    async with client_of(way.port) as client:
        assert (await client.rest()).how == "reset"
    await way.up("b")
    await way.up("b")
    async with client_of(way.port) as client:
        await client.asked(b"again")
    assert (way.seen().refused, far.connections) == (1, 2)


async def test_whoever_holds_the_port_of_a_way_that_is_down_is_not_reached(way: Passage) -> None:
    """The port that Toxiproxy has left may be anybody's: it is not asked."""
    left = way._server.port_of(way.name)
    await way.down()
    asked = FarEnd.echo()
    server = await asyncio.start_server(asked._serve, "127.0.0.1", left)
    async with server:
        async with client_of(way.port) as client:
            assert (await client.rest()).how == "reset"
        await way.up()
        async with client_of(way.port) as client:
            await client.asked(b"hello")
    assert asked.connections == 0


async def test_a_toxic_whose_adding_is_cancelled_does_not_stay(way: Passage) -> None:
    for number in range(10):
        task = asyncio.create_task(way.add("latency", latency=60_000))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with client_of(way.port) as client:
        await client.asked(b"quick")


async def test_the_client_keeps_its_port_when_the_server_is_started_again(way: Passage) -> None:
    port = way.port
    await way.add("latency", latency=60)
    await hurt(way._server, hang=False)
    second = await way.add("latency", latency=60)
    async with client_of(port) as client:
        assert await client.asked(b"both") >= 0.115
    await way.remove(second)
    assert way._server.restarts == 1


async def test_without_a_folder_nothing_is_left(far: FarEnd) -> None:
    await program()
    links = ToxicLinks()
    await links.start(print)
    assert links.server is not None
    log = links.server.process.log_path
    try:
        async with client_of((await links.passage("way", far.port)).port) as client:
            await client.asked(b"hello")
        assert log.exists()
    finally:
        await links.stop()
    assert not log.parent.exists()


async def test_names_are_unique_and_order_is_start_then_passage(
    links: ToxicLinks, way: Passage, far: FarEnd, tmp_path: Path
) -> None:
    with pytest.raises(ToxicsError, match="already"):
        await links.passage(way.name, far.port)
    with pytest.raises(ServiceError, match="not started"):
        await ToxicLinks(tmp_path).passage("x", far.port)


async def test_stopping_ends_everything_and_again_is_success(links: ToxicLinks, way: Passage) -> None:
    pid = way._server.process.pid
    async with client_of(way.port) as client:
        await client.asked(b"hello")
        await links.stop()
        await links.stop()
        assert (await client.rest()).body == b""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        async with client_of(way.port):
            pass


async def test_a_toxic_that_is_removed_under_traffic_leaves_a_way_that_works(links: ToxicLinks) -> None:
    """Whether the API hangs then or not: afterwards the toxic is gone, and everything passes."""
    body = b"x" * 4_000_000
    async with FarEnd.sends(body) as far:
        way = await links.passage("blobs", far.port)
        for kind, attributes in (
            ("bandwidth", {"rate": 50}), ("latency", {"latency": 20}), ("slicer", {"average_size": 100, "delay": 500}),
        ):  # fmt: skip
            toxic = await way.add(kind, "downstream", 1.0, **attributes)
            async with client_of(way.port) as client:
                await client.send(b"?")
                watch = way.watch()
                await until(lambda watch=watch: watch.seen().received > 0)  # type: ignore[misc]
                await way.remove(toxic)
                await client.rest()
            async with client_of(way.port) as client:
                await client.send(b"?")
                assert (await client.rest()).body == body


async def test_what_is_not_there_has_a_name(way: Passage) -> None:
    with pytest.raises(ToxicsError, match="invalid toxic type"):
        await way.add("no-such-thing")
    with pytest.raises(ToxicsGoneError):
        await way._server.down("none")
