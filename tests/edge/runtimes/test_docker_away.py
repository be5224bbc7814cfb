"""An engine that is away, and what it takes with it: nobody's failure but its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from reference.core.errors import EngineError
from reference.core.model import ContainerState
from reference.edge.runtimes.docker import DockerRuntime
from reference.edge.settings import EngineSettings
from reference.engine import PrivateEngine
from tests.edge.runtimes.contract import QUITS, SLEEPER, made, one, until_state
from tests.edge.runtimes.docker_bench import DockerBench
from tests.edge.runtimes.registry import running_registry
from tests.engine import needs_engine


@pytest.fixture
async def mortal(tmp_path: Path) -> AsyncIterator[DockerBench]:
    """A bench on an engine whose containers end with it."""
    needs_engine()
    async with running_registry() as registry:
        with PrivateEngine(tmp_path / "engine", live_restore=False) as engine:
            bench = DockerBench(tmp_path, registry, engine, f"test.c{uuid4().hex[:12]}")
            try:
                yield bench
            finally:
                await bench.clear()


def patient(bench: DockerBench, patience_ms: int) -> DockerRuntime:
    settings = EngineSettings(socket=bench.engine.host, patience_ms=patience_ms)
    return DockerRuntime(bench.state_dir, bench.run_dir, bench.client, bench.setup, settings)


async def test_what_the_engine_ended_is_not_held_against_it(mortal: DockerBench) -> None:
    name = await made(mortal, SLEEPER)
    await mortal.runtime.start(name)
    assert (await one(mortal.runtime)).started_this_boot
    await asyncio.to_thread(mortal.engine.restart)
    ended = await one(mortal.runtime)
    assert (ended.state, ended.started_this_boot) == (ContainerState.EXITED, False)
    await mortal.runtime.start(name)
    assert (await one(mortal.runtime)).started_this_boot


async def test_what_ended_by_itself_did_so_whatever_the_engine_does_later(mortal: DockerBench) -> None:
    name = await made(mortal, QUITS)
    await mortal.runtime.start(name)
    assert (await until_state(mortal.runtime, ContainerState.EXITED)).started_this_boot
    await asyncio.to_thread(mortal.engine.restart)
    assert (await one(mortal.runtime)).started_this_boot


async def test_an_engine_that_is_away_is_waited_for(
    docker_bench: DockerBench, caplog: pytest.LogCaptureFixture
) -> None:
    await made(docker_bench, SLEEPER)
    runtime = patient(docker_bench, 60_000)
    await asyncio.to_thread(docker_bench.engine.halt)
    try:
        looking = asyncio.create_task(one(runtime))
        async with asyncio.timeout(10):
            while "the engine is away" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not looking.done()
    finally:
        await asyncio.to_thread(docker_bench.engine.resume)
    assert (await looking).state is ContainerState.CREATED
    await runtime.close()


async def test_patience_ends_once_and_is_there_again_after_the_engine_was(
    docker_bench: DockerBench, caplog: pytest.LogCaptureFixture
) -> None:
    """Each look would otherwise wait anew, and nothing would ever be given up."""
    runtime = patient(docker_bench, 300)
    await asyncio.to_thread(docker_bench.engine.halt)
    try:
        for _ in range(3):
            with pytest.raises(EngineError):
                await runtime.observe()
        assert caplog.text.count("the engine is away") == 1
    finally:
        await asyncio.to_thread(docker_bench.engine.resume)
    await runtime.observe()
    await asyncio.to_thread(docker_bench.engine.halt)
    try:
        with pytest.raises(EngineError):
            await runtime.observe()
        assert caplog.text.count("the engine is away") == 2
    finally:
        await asyncio.to_thread(docker_bench.engine.resume)
    await runtime.close()
