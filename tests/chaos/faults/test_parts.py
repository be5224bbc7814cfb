"""Faults of parts on real ones: each fires and says so, is healed, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from chaos.faults import fault_named
from chaos.faults._parts import listens, state_of
from chaos.faults.base import FaultError, Need, checked
from chaos.faults.database_down import blames
from chaos.postgres import Postgres, missing
from chaos.scenario.model import FaultUse
from reference.core.errors import InputError
from reference.engine import Engine, PrivateEngine
from reference.engine.leftovers import started
from reference.stack import Stack
from reference.stack.box import Site
from reference.stack.device import Device
from reference.stack.docker_box import CLIENT_LABEL, MARK, DockerBox
from tests.chaos.faults.parts_ground import StandIn, answers, fault, running, shown, stand_in, until_rest
from tests.engine import engine, own_engine, static_image

__all__ = ["engine", "own_engine"]

ON_STACK = pytest.mark.asyncio(loop_scope="module")
LASTING = (
    "agent-killed",
    "broker-killed",
    "container-paused",
    "database-down",
    "engine-restarted",
    "registry-killed",
    "service-killed",
)
INSTANT = ("container-killed", "container-oom-killed", "container-restarted")
MEMORY = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StandIn]:
    folder = tmp_path_factory.mktemp("parts")
    async with running(Stack(folder / "stack", seed=1), folder) as found:
        yield found


async def ready(ground: StandIn) -> dict[str, object]:
    """What the service says of what it stands on, once that is all well."""
    assert ground.api is not None
    async with asyncio.timeout(20):
        while (answer := await ground.api.get("/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    found: dict[str, object] = answer.json()
    return found


def groups() -> set[Path]:
    """Memory cgroups that faults have made."""
    return {found for top in MEMORY for found in top.glob("blackstart-chaos-*")}


# ---- the client


@ON_STACK
async def test_a_killed_client_is_gone_and_the_updater_brings_it_back(ground: StandIn) -> None:
    [before] = ground.device.box.processes()
    one = fault(ground, "container-killed", {"which": "oldest"})
    await one.begin()
    assert started(before) is None
    assert f"process {before} of edge-1 was gone after" in await one.fired()
    await one.heal()
    await until_rest(ground)
    assert ground.device.box.processes() != [before]


@ON_STACK
async def test_what_happened_to_one_of_two_devices_has_not_happened(ground: StandIn) -> None:
    lonely = Device("acme", "edge-9", ground.folder / "edge-9", 1, ground.stack.box)
    both = replace(ground, devices=(*ground.devices, lonely))
    for name in ("agent-killed", "container-killed"):
        one = fault(both, name, lasts="1h" if name == "agent-killed" else "")
        await one.begin()
        assert await one.fired() == "", name
        await one.heal()
    await until_rest(ground)


@ON_STACK
async def test_a_fault_without_anybody_to_hurt_shows_nothing(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack")
    lonely = stand_in(tmp_path, stack, Device("acme", "edge-9", tmp_path, 1, stack.box))
    for name in (*LASTING, *INSTANT):
        if name in ("database-down", "container-restarted", "engine-restarted"):
            continue
        one = fault(lonely, name)
        await one.begin()
        assert await one.fired() == "", name
        await one.heal()


@ON_STACK
async def test_a_paused_client_stands_still_and_goes_on(ground: StandIn) -> None:
    await until_rest(ground)
    [pid] = ground.device.box.processes()
    one = fault(ground, "container-paused", lasts="1s")
    await one.begin()
    assert state_of(pid) == "T"
    assert f"process {pid} of edge-1 is stopped (state T)" in await one.fired()
    await one.heal()
    assert state_of(pid) in ("R", "S", "D")
    await one.heal()
    assert await answers(ground.device) == "1.0.0"
    assert ground.device.box.processes() == [pid]


@ON_STACK
async def test_a_client_that_was_killed_while_it_was_paused_is_no_trouble(ground: StandIn) -> None:
    await until_rest(ground)
    [pid] = ground.device.box.processes()
    one = fault(ground, "container-paused", lasts="1s")
    await one.begin()
    ground.guard.kill(pid, signal.SIGKILL)
    await one.heal()
    await until_rest(ground)


@ON_STACK
async def test_the_kernel_kills_for_want_of_memory(ground: StandIn) -> None:
    if os.geteuid() != 0:
        pytest.skip("a memory cgroup: this needs root")
    await until_rest(ground)
    [before] = ground.device.box.processes()
    known = groups()
    one = fault(ground, "container-oom-killed")
    await one.begin()
    assert started(before) is None
    assert f"the kernel killed process {before} of edge-1 for want of memory (oom_kill" in await one.fired()
    assert groups() == known, "its cgroup is removed"
    await until_rest(ground)


@ON_STACK
async def test_a_process_that_is_not_of_the_run_is_not_hurt(
    ground: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ground.device.box), "processes", lambda _: [os.getppid()])
    for name in ("container-killed", "container-paused", "container-oom-killed"):
        with pytest.raises(FaultError, match="not of this run"):
            await fault(ground, name).begin()


@ON_STACK
async def test_faults_of_an_engine_say_that_there_is_none(ground: StandIn) -> None:
    for name in ("container-restarted", "engine-restarted"):
        one = fault(ground, name)
        assert Need.DOCKER in one.needs
        with pytest.raises(FaultError, match="runtime: docker"):
            await one.begin()
        await one.heal()


# ---- the agent


@ON_STACK
@pytest.mark.parametrize("lasts", ["", "1s"])
async def test_a_killed_agent_comes_back_and_the_client_runs_on(ground: StandIn, lasts: str) -> None:
    await until_rest(ground)
    device = ground.device
    assert device.agent is not None
    pid, client = device.agent.pid, device.box.processes()
    one = fault(ground, "agent-killed", lasts=lasts)
    await one.begin()
    assert started(pid) is None
    assert f"the agent of edge-1 (process {pid}) ended by SIGKILL" in await one.fired()
    if not lasts:
        async with asyncio.timeout(20):
            while not device.agent.alive:  # noqa: ASYNC110 - at once, where nothing says for how long
                await asyncio.sleep(0.02)
    assert device.agent.alive is (lasts == "")
    await one.heal()
    assert device.agent.alive
    again = device.agent.pid
    await one.heal()
    assert device.agent.pid == again != pid
    assert device.box.processes() == client


# ---- the stack


@ON_STACK
@pytest.mark.parametrize("part", ["broker", "service"])
async def test_a_killed_part_is_back_on_its_port(ground: StandIn, part: str) -> None:
    await ready(ground)
    pid = ground.stack.pid_of(part)
    port = {"broker": ground.stack.broker_port, "service": ground.stack.service_port}[part]
    one = fault(ground, f"{part}-killed", lasts="1s")
    await one.begin()
    assert started(pid) is None
    assert f"the {part} (process {pid}) ended by SIGKILL, and its port {port} refused" in await one.fired()
    again = fault(ground, f"{part}-killed", lasts="1s")
    await again.begin()
    assert await again.fired() == "", "it was down already: that one hurts nobody"
    await again.heal()
    assert not await listens(port), "and brings back nothing that it has not killed"
    await one.heal()
    back = ground.stack.pid_of(part)
    await one.heal()
    assert ground.stack.pid_of(part) == back != pid
    assert await listens(port)
    await ready(ground)


@ON_STACK
async def test_a_locked_database_is_noticed_and_let_go(ground: StandIn) -> None:
    await ready(ground)
    one = fault(ground, "database-down", lasts="1s")
    await one.begin()
    assert await one.fired() == "", "not before the service has said so"
    assert ground.api is not None
    writing = asyncio.create_task(ground.api.post("/api/v1/clients", json={"clientId": "edge-2"}))
    how = await shown(one)
    assert "another writer locked" in how
    assert "/readyz said 503 for the database after" in how
    await one.heal()
    await one.heal()
    await writing
    assert await ready(ground) == {"status": "ready", "checks": {"database": "ok", "broker": "ok"}}


@ON_STACK
async def test_a_killed_registry_is_back_behind_its_front(ground: StandIn) -> None:
    stack = ground.stack
    port = int(stack.registry().host.rpartition(":")[2])
    stack.add_front("registry", "127.0.0.1:1")
    try:
        one = fault(ground, "registry-killed", lasts="1s")
        pid = stack.pid_of("registry")
        await one.begin()
        assert f"the registry (process {pid}) ended by SIGKILL, and its port {port} refused" in await shown(
            one
        )
        await one.heal()
        assert stack.registry().host == "127.0.0.1:1", "devices go on reaching it where they did"
        assert stack.registry().push_host == f"127.0.0.1:{port}"
        assert await listens(port)
    finally:
        stack.add_front("registry", f"127.0.0.1:{port}")


@ON_STACK
async def test_a_broker_that_is_away_is_not_taken_for_the_database(ground: StandIn) -> None:
    assert ground.api is not None
    await ready(ground)
    broker, one = fault(ground, "broker-killed", lasts="1s"), fault(ground, "database-down", lasts="1s")
    await broker.begin()
    async with asyncio.timeout(10):
        while (await ground.api.get("/readyz")).status_code != 503:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    assert not blames(await ground.api.get("/readyz"))
    await broker.heal()
    await one.heal()
    await ready(ground)


async def test_a_killed_postgresql_is_noticed_and_started_again(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(f"postgresql: {reason}")
    server = await asyncio.to_thread(Postgres, tmp_path)
    try:
        await asyncio.to_thread(server.start)
        async with Stack(tmp_path / "stack", database=server.create_database()) as stack:
            ground = stand_in(tmp_path, stack)
            ground.server = server
            pid, port = server.pid, server.port
            one = fault(ground, "database-down", lasts="1s")
            await one.begin()
            assert server.pid is None
            assert f"PostgreSQL (process {pid}) ended by SIGKILL, and /readyz said 503" in await shown(one)
            await one.heal()
            assert server.port == port
            async with stack.api() as ground.api:
                await ready(ground)
    finally:
        server.stop()


# ---- on an engine


def device_on(engine: Engine, folder: Path) -> Device:
    """One whose container runs for ever, with nobody who looks after it."""
    device = Device("acme", "edge-1", folder / "device", 4_840, lambda site: DockerBox(site, engine=engine))
    device.run_dir.mkdir(parents=True)
    start(device, engine)
    return device


def start(site: Site, engine: Engine) -> None:
    assert isinstance(site, Device)
    assert isinstance(site.box, DockerBox)
    image = static_image(engine, "parts:1")
    with site.box.asked() as docker:
        docker.containers.create(
            image, ["/bin/busybox", "sleep", "1000"], environment={MARK: str(site.root)}, network_mode="host", stop_signal="SIGKILL",
            labels={CLIENT_LABEL: f"{site.tenant}.{site.client_id}"},
        ).start()  # fmt: skip


async def process_of(device: Device) -> int:
    async with asyncio.timeout(10):
        while len(found := device.box.processes()) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found[0]


async def test_a_container_is_paused_restarted_and_killed(engine: Engine, tmp_path: Path) -> None:
    device = device_on(engine, tmp_path)
    ground = stand_in(tmp_path, Stack(tmp_path / "stack"), device)
    assert isinstance(device.box, DockerBox)
    try:
        first = await process_of(device)
        paused = fault(ground, "container-paused", lasts="1s")
        await paused.begin()
        with device.box.asked() as docker:
            assert [c.status for c in docker.containers.list(filters={"status": "paused"})] == ["paused"]
        assert "of edge-1 is paused" in await paused.fired()
        await paused.heal()
        await paused.heal()
        with device.box.asked() as docker:
            assert docker.containers.list(filters={"status": "paused"}) == []
        restarted = fault(ground, "container-restarted", {"grace": "0s"})
        await restarted.begin()
        second = await process_of(device)
        assert second != first
        assert f"was process {first}, and started again at" in await restarted.fired()
        killed = fault(ground, "container-killed")
        await killed.begin()
        assert f"process {second} of edge-1 was gone after" in await killed.fired()
    finally:
        await device.box.clear()


async def test_the_engine_is_told_that_the_kernel_killed_for_want_of_memory(
    engine: Engine, tmp_path: Path
) -> None:
    device = device_on(engine, tmp_path)
    ground = stand_in(tmp_path, Stack(tmp_path / "stack"), device)
    assert isinstance(device.box, DockerBox)
    try:
        await process_of(device)
        one = fault(ground, "container-oom-killed")
        await one.begin()
        assert "for want of memory" in await one.fired()
        with device.box.asked() as docker:
            async with asyncio.timeout(10):
                while True:
                    [found] = docker.containers.list(
                        all=True, filters={"label": f"{CLIENT_LABEL}=acme.edge-1"}
                    )
                    if found.status == "exited":
                        break
                    await asyncio.sleep(0.02)
            assert found.attrs["State"]["OOMKilled"] is True
    finally:
        await device.box.clear()


async def test_an_engine_goes_and_comes_back_with_or_without_its_containers(
    own_engine: PrivateEngine, tmp_path: Path
) -> None:
    device = device_on(own_engine, tmp_path)
    ground = stand_in(tmp_path, Stack(tmp_path / "stack"), device)
    client, dockerd = await process_of(device), own_engine.pid
    one = fault(ground, "engine-restarted", lasts="1s")
    await one.begin()
    assert own_engine.pid is None
    assert f"dockerd (process {dockerd}) ended, none answers yet; 1 of 1" in await one.fired()
    await one.heal()
    again = own_engine.pid
    await one.heal()
    assert own_engine.answers()
    assert own_engine.pid == again != dockerd
    assert f"process {again} answers after" in await one.fired()
    assert device.box.processes() == [client], "with live restore they go on"
    killed = fault(ground, "engine-restarted", {"kill": True})
    await killed.begin()
    async with asyncio.timeout(30):
        while not own_engine.answers():  # noqa: ASYNC110 - at once, where nothing says for how long
            await asyncio.sleep(0.05)
    await killed.heal()
    assert f"dockerd (process {again}) ended, process {own_engine.pid} answers" in await killed.fired()
    without = fault(ground, "engine-restarted", {"live-restore": False})
    await without.begin()
    await without.heal()
    assert "0 of 1 processes of the client went on" in await without.fired()
    assert device.box.processes() == []
    assert isinstance(device.box, DockerBox)
    with device.box.asked() as docker:
        assert docker.info()["LiveRestoreEnabled"] is True, "as it was before"


# ---- what they take


def test_one_that_is_done_at_once_takes_no_for() -> None:
    for name in INSTANT:
        with pytest.raises(InputError, match="takes no `for`"):
            checked(fault_named(name), FaultUse.model_validate({"fault": name, "for": "1s"}))


@pytest.mark.parametrize("name", (*LASTING, *INSTANT))
async def test_healing_what_was_never_begun_is_success(name: str, tmp_path: Path) -> None:
    await fault(stand_in(tmp_path, Stack(tmp_path / "stack")), name).heal()
