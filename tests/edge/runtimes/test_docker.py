"""The Docker runtime on a real engine: the contract, and what is its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError

from reference.core.errors import DeviceError, EngineError, ImageError, Reason
from reference.core.model import ContainerState, Health, HealthState, ImageState, Installed
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.docker import DockerRuntime
from reference.edge.runtimes.docker.engine import Engine
from reference.edge.runtimes.docker.images import keep_repository
from reference.edge.runtimes.docker.pull import Puller
from reference.edge.runtimes.docker.words import pull_error
from reference.edge.runtimes.procfs import life_of
from reference.edge.settings import ClientSettings, EngineSettings
from tests.edge.runtimes.contract import (
    QUITS,
    SLEEPER,
    RuntimeContract,
    ignore,
    made,
    one,
    until,
)
from tests.edge.runtimes.docker_bench import DockerBench, damage_layer, on_python
from tests.edge.runtimes.registry import build

POLITE = (
    b"import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    b"open('/room/ready', 'w')\ntime.sleep(600)\n"
)


async def started_polite(bench: DockerBench) -> str:
    """A container that ends at once when it is told to, and has come to the point where it does."""
    room = bench.room()
    name = await made(bench, POLITE, mounts=room.mounts)
    await bench.runtime.start(name)
    await until((room.there / "ready").exists, 20)
    return name


@pytest.fixture
def bench(docker_bench: DockerBench) -> DockerBench:
    return docker_bench


class TestDockerRuntime(RuntimeContract):
    """The contract."""


async def test_what_it_makes_is_known_by_its_labels(bench: DockerBench) -> None:
    name = await made(bench, generation=7)
    found = bench.api.inspect_container(name)
    labels, image = found["Config"]["Labels"], (await one(bench.runtime)).image
    assert labels["blackstart.client"] == bench.client
    assert labels["blackstart.generation"] == "7"
    assert labels["blackstart.image"] == f"{image.repository}@{image.digest}"
    assert labels["blackstart.version"] == "1"
    assert found["Name"].startswith(f"/{bench.client.partition('.')[2]}-g7-")


async def test_a_container_that_only_carries_the_name_is_nobodys_business(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    foreign = bench.api.create_container(
        f"{image.repository}@{image.digest}", name=f"{bench.client}-g1-00000000"
    )
    try:
        assert (await bench.runtime.observe()).containers == ()
        for act in (
            bench.runtime.start(foreign["Id"]),
            bench.runtime.stop(foreign["Id"], 0),
            bench.runtime.remove(foreign["Id"]),
            bench.runtime.set_restart_policy(foreign["Id"], "always"),
        ):
            with pytest.raises(EngineError) as caught:
                await act
            assert "adopt" in str(caught.value)
        assert bench.api.inspect_container(foreign["Id"])["State"]["Status"] == "created"
    finally:
        bench.api.remove_container(foreign["Id"], force=True)


async def test_a_stranger_renames_a_container_and_nothing_changes(bench: DockerBench) -> None:
    name = await made(bench)
    await bench.runtime.start(name)
    before = await one(bench.runtime)
    bench.api.rename(name, f"stranger-{bench.client.partition('.')[2]}")
    after = await one(bench.runtime)
    assert (after.id, after.life, after.configuration) == (before.id, before.life, before.configuration)
    await bench.runtime.stop(name, 0)


async def test_a_prune_of_what_is_dangling_takes_no_image_of_ours(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    bench.api.prune_images(filters={"dangling": True})  # type: ignore[no-untyped-call]
    assert (await bench.runtime.observe()).images == {image.digest: ImageState.PRESENT}


async def test_an_image_that_lost_its_digest_is_still_known(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    bench.api.remove_image(f"{image.repository}@{image.digest}")
    assert (await bench.runtime.observe()).images == {image.digest: ImageState.PRESENT}
    await bench.runtime.start(await bench.runtime.create(ContainerSpec(1, image)))
    facts = await one(bench.runtime)
    assert (facts.state, facts.image) == (ContainerState.RUNNING, image)


async def test_current_and_previous_are_named_for_people(bench: DockerBench) -> None:
    first, second = bench.publish(SLEEPER), bench.publish(QUITS, "2")
    for image in (first, second):
        await bench.runtime.pull(image, ignore)
    repository = keep_repository(bench.client)

    def named(role: str) -> str | None:
        with contextlib.suppress(APIError):
            return str(bench.api.inspect_image(f"{repository}:{role}")["RepoDigests"][0]).partition("@")[2]  # type: ignore[no-untyped-call]
        return None

    installed = [
        Installed(image, Health(), generation) for generation, image in enumerate((first, second), 1)
    ]
    await bench.runtime.settled(installed[0], None)
    assert (named("current"), named("previous")) == (first.digest, None)
    await bench.runtime.settled(installed[1], installed[0])
    assert (named("current"), named("previous")) == (second.digest, first.digest)
    await bench.runtime.settled(installed[1], None)
    await bench.runtime.remove_image(first.digest)
    await bench.runtime.remove_image(second.digest)
    assert bench.api.images(repository) == []


async def test_current_is_made_again_when_somebody_has_removed_its_container(bench: DockerBench) -> None:
    room = bench.room()
    first = await made(bench, mounts=room.mounts, environment={"A": "b"})
    before = await one(bench.runtime)
    image = before.image
    await bench.runtime.settled(Installed(image, Health(), 1, first), None)
    bench.api.remove_container(first, force=True)
    # Only what is installed is remembered; what the device is set up with has changed since.
    runtime = await bench.again()
    again = await runtime.create(ContainerSpec(1, image, {"/other": str(bench.folder)}, {"A": "c"}))
    after = await one(runtime)
    assert again != first
    assert (after.mounts, after.environment) == (before.mounts, before.environment)
    assert after.configuration == before.configuration


async def test_what_was_refused_for_a_first_install_is_not_remembered(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    with pytest.raises(DeviceError) as caught:
        await bench.runtime.create(ContainerSpec(1, image, {"/data": "/nowhere/at/all"}))
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    assert "/nowhere/at/all" in str(caught.value)
    await bench.runtime.create(ContainerSpec(1, image, {"/data": str(bench.folder)}))
    assert (await one(bench.runtime)).mounts == {"/data": str(bench.folder)}


async def test_an_end_that_the_engine_has_not_noticed_is_an_end(bench: DockerBench) -> None:
    await bench.runtime.start(await made(bench))
    facts = await one(bench.runtime)
    dockerd = bench.engine.pid
    assert dockerd is not None
    os.kill(dockerd, signal.SIGSTOP)  # It cannot notice anything now, and answers nobody.
    pid = int(facts.life.partition(":")[0])
    try:
        bench.kill(facts)
        await until(
            lambda: (life := life_of(pid)) is None or not life.alive
        )  # A signal takes its time to arrive.
    finally:
        os.kill(dockerd, signal.SIGCONT)
    assert (await one(bench.runtime)).state is ContainerState.EXITED


async def test_a_start_that_never_came_is_no_start(bench: DockerBench) -> None:
    name = await made(bench)
    marker = bench.run_dir / "containers" / name
    marker.parent.mkdir()
    marker.write_text(json.dumps(bench.api.inspect_container(name)["State"]["StartedAt"]))
    facts = await one(bench.runtime)
    assert (facts.state, facts.started_this_boot) == (ContainerState.CREATED, False)
    await bench.runtime.start(name)
    assert (await one(bench.runtime)).started_this_boot


async def test_what_the_engine_has_revived_was_started_in_this_boot(bench: DockerBench) -> None:
    name = await made(bench)
    bench.api.start(name)
    assert (await one(bench.runtime)).started_this_boot
    await bench.runtime.stop(name, 0)
    facts = await one(bench.runtime)
    assert (facts.state, facts.started_this_boot) == (ContainerState.EXITED, True)


@pytest.mark.parametrize("policy", ["no", "always"])
async def test_a_stop_is_an_end_for_good(bench: DockerBench, policy: str) -> None:
    name = await started_polite(bench)
    await bench.runtime.set_restart_policy(name, policy)
    await bench.runtime.stop(name, 600_000)
    await until(lambda: not bench.api.inspect_container(name)["State"]["Running"])
    found = bench.api.inspect_container(name)["State"]
    assert (found["Status"], found["Restarting"]) == ("exited", False)
    assert (await one(bench.runtime)).state is ContainerState.EXITED
    await bench.runtime.start(name)
    assert (await one(bench.runtime)).state is ContainerState.RUNNING


async def test_one_that_crash_loops_can_be_stopped_and_started(bench: DockerBench) -> None:
    name = await made(bench, QUITS)
    await bench.runtime.set_restart_policy(name, "always")
    await bench.runtime.start(name)
    await until(lambda: bench.api.inspect_container(name)["RestartCount"] > 2, 20)
    await bench.runtime.stop(name, 0)
    await bench.runtime.stop(name, 0)
    assert (await one(bench.runtime)).state is ContainerState.EXITED
    count = bench.api.inspect_container(name)["RestartCount"]
    await asyncio.sleep(0)
    assert bench.api.inspect_container(name)["RestartCount"] == count


async def test_a_program_that_is_not_there_is_the_images_fault(bench: DockerBench) -> None:
    image = bench.image(on_python({"app/main.py": b""}, {"Entrypoint": ["/no/such/program"]}))
    await bench.runtime.pull(image, ignore)
    name = await bench.runtime.create(ContainerSpec(1, image))
    with pytest.raises(ImageError) as caught:
        await bench.runtime.start(name)
    assert caught.value.reason is Reason.IMAGE_INVALID
    facts = await one(bench.runtime)
    assert (facts.state, facts.started_this_boot) == (ContainerState.CREATED, False)


async def test_a_port_that_is_taken_is_a_refused_start(bench: DockerBench) -> None:
    bench.setup = ClientSettings(port=8080, network="bridge", publish={"8080": "127.0.0.1:18577"})
    runtime = bench.open()
    first, second = await made(bench), await made(bench, generation=2)
    await runtime.start(first)
    with pytest.raises(EngineError) as caught:
        await runtime.start(second)
    assert caught.value.reason is Reason.START_REFUSED
    await runtime.stop(first, 0)
    await runtime.start(second)
    facts = {c.generation: c for c in (await runtime.observe()).containers}
    assert (facts[1].state, facts[2].state) == (ContainerState.EXITED, ContainerState.RUNNING)
    assert facts[2].address.startswith("198.1")


async def test_a_container_whose_making_was_interrupted_is_finished(bench: DockerBench) -> None:
    client = bench.client.partition(".")[2]
    networks = [f"{client}-one", f"{client}-two"]
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    for network in networks:
        bench.api.create_network(network)
    try:
        hand = bench.api.create_container(
            f"{image.repository}@{image.digest}",
            host_config=bench.api.create_host_config(network_mode=networks[0]),
        )
        bench.api.connect_container_to_network(hand["Id"], networks[1], aliases=["plc"])
        await bench.runtime.adopt(hand["Id"])
        name = await bench.runtime.create(ContainerSpec(2, image, like=hand["Id"]))
        bench.api.disconnect_container_from_network(name, networks[1])
        assert [c.generation for c in (await bench.runtime.observe()).containers] == [0]
        assert await bench.runtime.create(ContainerSpec(2, image, like=hand["Id"])) == name
        found = bench.api.inspect_container(name)["NetworkSettings"]["Networks"]
        assert set(found) == set(networks)
        assert "plc" in found[networks[1]]["Aliases"]
        await bench.runtime.remove(hand["Id"])
        await bench.runtime.remove(name)
    finally:
        for network in networks:
            bench.api.remove_network(network)


async def test_the_engine_goes_and_comes_and_the_client_runs_on(bench: DockerBench) -> None:
    name = await made(bench)
    await bench.runtime.start(name)
    before = await one(bench.runtime)
    await asyncio.to_thread(bench.engine.halt)
    try:
        with pytest.raises(EngineError) as caught:
            await bench.runtime.observe()
        assert caught.value.reason is Reason.ENGINE_ERROR
        assert "systemctl start docker" in str(caught.value)
    finally:
        await asyncio.to_thread(bench.engine.resume)
    assert (await one(bench.runtime)).life == before.life


async def test_nothing_that_restarts_the_engine_is_an_error(bench: DockerBench) -> None:
    for restart in (["/no/such/program"], ["/bin/false"]):
        engine = EngineSettings(socket=bench.engine.host, restart=restart)
        runtime = DockerRuntime(bench.state_dir, bench.run_dir, bench.client, bench.setup, engine)
        with pytest.raises(EngineError):
            await runtime.restart_engine()
        await runtime.close()


async def test_the_image_of_a_check_says_how_it_does(bench: DockerBench) -> None:
    check: dict[str, object] = {
        "Test": ["CMD", "python3", "-c", "import os, sys; sys.exit(os.path.exists('/room/sick'))"]
    }
    check |= {"Interval": 100_000_000, "Retries": 1}
    room = bench.room()
    image = bench.image(on_python({"app/main.py": SLEEPER}, {"Healthcheck": check}))
    await bench.runtime.pull(image, ignore)
    name = await bench.runtime.create(ContainerSpec(1, image, room.mounts))
    assert (await one(bench.runtime)).engine_health is None
    await bench.runtime.start(name)
    await _until_health(bench, HealthState.HEALTHY)
    (room.there / "sick").write_text("")
    await _until_health(bench, HealthState.UNHEALTHY)


async def _until_health(bench: DockerBench, wanted: HealthState) -> None:
    async with asyncio.timeout(20):
        while (await one(bench.runtime)).engine_health is not wanted:  # noqa: ASYNC110 - the engine's to say
            await asyncio.sleep(0.02)


async def test_a_container_that_cannot_be_looked_into_hides_no_other(bench: DockerBench) -> None:
    whole = await made(bench)
    await bench.runtime.start(whole)
    image = bench.image(build([{"one": bench.client.encode()}, {"app/main.py": b""}]), "2")
    await bench.runtime.pull(image, ignore)
    broken = await bench.runtime.create(ContainerSpec(2, image))
    damage_layer(bench, image)
    first, second = (await bench.runtime.observe()).containers
    assert (first.id, first.state) == (whole, ContainerState.RUNNING)
    assert (second.id, second.generation, second.image, second.state) == (
        broken,
        2,
        image,
        ContainerState.CREATED,
    )
    await bench.runtime.remove(broken)
    assert [c.id for c in (await bench.runtime.observe()).containers] == [whole]


async def test_an_image_that_strangers_stand_on_is_theirs_from_then_on(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    foreign = bench.api.create_container(f"{image.repository}@{image.digest}")["Id"]
    try:
        await bench.runtime.remove_image(image.digest)
        assert (await bench.runtime.observe()).images == {}
        assert bench.inspected(image)["Id"] == bench.api.inspect_container(foreign)["Image"]
    finally:
        bench.api.remove_container(foreign, force=True)
        bench.api.remove_image(f"{image.repository}@{image.digest}")


async def test_what_runs_is_told_by_the_engine_and_not_by_a_label(bench: DockerBench) -> None:
    said, runs = bench.publish(SLEEPER), bench.publish(QUITS, "2")
    for image in (said, runs):
        await bench.runtime.pull(image, ignore)
    labels = {
        "blackstart.client": bench.client,
        "blackstart.generation": "3",
        "blackstart.image": f"{said.repository}@{said.digest}",
    }
    bench.api.create_container(f"{runs.repository}@{runs.digest}", labels=labels)
    assert (await one(bench.runtime)).image.digest == runs.digest


async def test_the_first_pull_after_a_cut_may_fail_and_is_made_again(
    bench: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = bench.publish(SLEEPER)
    real, tries = Puller.pull, []

    async def pull(self: Puller, *arguments: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise pull_error("failed to register layer: too many levels of symbolic links", "r.test")
        await real(self, *arguments)

    monkeypatch.setattr(Puller, "pull", pull)
    await bench.runtime.pull(image, ignore)
    assert (len(tries), (await bench.runtime.observe()).images) == (2, {image.digest: ImageState.PRESENT})


async def test_an_engine_whose_processes_are_not_ours_to_see_is_taken_at_its_word(
    bench: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_sees_processes", lambda _: False)
    runtime = await bench.again()
    name = await started_polite(bench)
    facts = await one(runtime)
    assert facts.state is ContainerState.RUNNING
    assert facts.up_ms < 60_000
    await runtime.stop(name, 600_000)
    stopped = await one(runtime)
    assert (stopped.state, stopped.exit_code) == (ContainerState.EXITED, 0)
    await runtime.remove(name)


async def test_where_the_engines_folder_cannot_be_seen_everything_is_synced(
    bench: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    await bench.runtime.sync()
    assert synced == []
    facts = Engine._facts
    monkeypatch.setattr(
        Engine, "_facts", lambda self, info: facts(self, {**info, "DockerRootDir": "/nowhere"})
    )
    await (await bench.again()).sync()
    assert synced == ["all"]


async def test_a_volume_without_a_folder_cannot_be_copied(bench: DockerBench) -> None:
    with pytest.raises(DeviceError) as caught:
        await bench.runtime.prepare_snapshot(2, {"/data": "volume:remote"})
    assert "/data" in str(caught.value)


async def test_a_named_volume_is_copied_and_brought_back(bench: DockerBench) -> None:
    name = f"{bench.client.partition('.')[2]}-data"
    container = await made(bench, mounts={"/data": name})
    try:
        mounts = (await one(bench.runtime)).mounts
        folder = Path(mounts["/data"])
        (folder / "samples").write_text("old")
        await bench.runtime.prepare_snapshot(2, mounts)
        await bench.runtime.snapshot(2, mounts)
        (folder / "samples").write_text("new")
        await bench.runtime.restore_snapshot(2)
        assert (folder / "samples").read_text() == "old"
        await bench.runtime.remove_snapshot(2)
    finally:
        await bench.runtime.remove(container)
        bench.api.remove_volume(name)


async def test_what_is_damaged_is_set_aside_and_counts_as_none(bench: DockerBench) -> None:
    name = await made(bench)
    await bench.runtime.settled(Installed((await one(bench.runtime)).image, Health(), 1, name), None)
    folder = bench.state_dir / "docker"
    for file in ("template.json", "adopted.json"):
        (folder / file).write_bytes(b"{}")
    runtime = await bench.again()
    assert [c.id for c in (await runtime.observe()).containers] == [name]
    await runtime.create(ContainerSpec(2, (await one(runtime)).image))
    assert sorted(path.name for path in folder.glob("*.damaged")) == [
        "adopted.json.damaged",
        "template.json.damaged",
    ]


async def test_acts_that_were_cancelled_end_before_the_next_begins(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    for _ in range(4):
        task = asyncio.create_task(bench.runtime.create(ContainerSpec(1, image)))
        await asyncio.sleep(0)
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.wait([task])
    name = await bench.runtime.create(ContainerSpec(1, image))
    assert bench.mine() == [name]
