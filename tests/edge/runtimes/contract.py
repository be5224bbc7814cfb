"""What every runtime has to do. A test class for a runtime inherits `RuntimeContract` and gives a `bench` fixture.

Programs are Python scripts that print nothing and need nothing but their mounts. The model world is a runtime here, too:
it knows what the programs do, and what of the contract it cannot show is named in its class with why.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import pytest

from reference.core.errors import EngineError, Reason, RegistryError
from reference.core.model import ContainerState, Image, ImageState, SnapshotState
from reference.edge.runtimes.base import ContainerFacts, ContainerSpec, PullProgress, Runtime

SLEEPER = b"import time\ntime.sleep(600)\n"
STUBBORN = (
    b"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen(%r, 'w')\ntime.sleep(600)\n"
)
QUITS = b"import sys\nsys.exit(7)\n"


class Codes(NamedTuple):
    """The exit codes with which a life ends here."""

    stopped: int
    """A program that knows nothing of SIGTERM."""
    quits: int
    """`QUITS`, which ends by itself."""
    cut: int | None
    """One that the device's end has ended. None: nobody was there to see it."""


class Room(NamedTuple):
    """A folder in which a program leaves word for its test."""

    mounts: dict[str, str]
    inside: str
    """What the program calls it."""
    there: Path


class Volume(Protocol):
    """What a client has written."""

    @property
    def mounts(self) -> Mapping[str, str]: ...

    def write(self, content: str) -> None: ...

    def read(self) -> str: ...


class Bench(Protocol):
    """A runtime under test, and what it stands on."""

    folder: Path

    @property
    def codes(self) -> Codes: ...

    def volume(self, content: str) -> Volume:
        """A volume that holds this."""
        ...

    def room(self) -> Room:
        """Somewhere that a program can write to."""
        ...

    def told_mounts(self, environment: Mapping[str, str]) -> Mapping[str, str] | None:
        """What the program's environment says of its mounts, where there are no real ones. None: there are."""
        ...

    def kill(self, facts: ContainerFacts) -> None:
        """SIGKILL to the process of this life."""
        ...

    @property
    def runtime(self) -> Runtime: ...

    def publish(self, program: bytes, version: str = "1") -> Image: ...

    async def again(self) -> Runtime:
        """The runtime as a new agent process would open it."""
        ...

    async def reboot(self) -> Runtime:
        """Everything dead, boot-scoped state gone, opened again."""
        ...


def ignore(_: PullProgress) -> None:
    pass


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def one(runtime: Runtime) -> ContainerFacts:
    (facts,) = (await runtime.observe()).containers
    return facts


async def made(bench: Bench, program: bytes = SLEEPER, generation: int = 1, **spec: dict[str, str]) -> str:
    image = bench.publish(program)
    await bench.runtime.pull(image, ignore)
    return await bench.runtime.create(ContainerSpec(generation, image, **spec))  # type: ignore[arg-type]


async def until_state(runtime: Runtime, state: ContainerState) -> ContainerFacts:
    deadline = time.monotonic() + 5
    while (facts := await one(runtime)).state is not state:
        assert time.monotonic() < deadline, f"it stayed {facts.state}"
        await asyncio.sleep(0.005)
    return facts


def folders(bench: Bench) -> list[str]:
    """Three, to be mounted."""
    made = [bench.folder / name for name in "xyz"]
    for path in made:
        path.mkdir()
    return [str(path) for path in made]


async def started_stubborn(bench: Bench) -> str:
    """A container that ignores SIGTERM, and has come to the point where it does."""
    room = bench.room()
    name = await made(bench, STUBBORN % f"{room.inside}/ready", mounts=room.mounts)
    await bench.runtime.start(name)
    await until((room.there / "ready").exists)
    return name


class RuntimeContract:
    """The contract. A subclass may name tests in which its runtime is not judged, each with why: all others it passes."""

    cannot: ClassVar[Mapping[str, str]] = {}
    """What the runtime has nothing of to be tested: deselected by tests/conftest.py, and the reason is printed."""

    def test_every_exception_is_named_after_a_test_and_says_why(self) -> None:
        tests = {name for name in dir(RuntimeContract) if name.startswith("test_")}
        assert self.cannot.keys() <= tests
        assert all(self.cannot.values())

    async def test_a_pulled_image_is_present_and_pulling_again_is_success(self, bench: Bench) -> None:
        image = bench.publish(SLEEPER)
        seen: list[PullProgress] = []
        await bench.runtime.pull(image, seen.append)
        await bench.runtime.pull(image, ignore)
        assert (await bench.runtime.observe()).images == {image.digest: ImageState.PRESENT}
        assert seen[-1].done_bytes == seen[-1].total_bytes
        await bench.runtime.sync()

    async def test_an_unknown_image_is_named_as_such(self, bench: Bench) -> None:
        image = bench.publish(SLEEPER)
        with pytest.raises(RegistryError) as caught:
            await bench.runtime.pull(Image(image.repository, "sha256:" + "0" * 64, "9"), ignore)
        assert caught.value.reason is Reason.IMAGE_UNKNOWN
        assert (await bench.runtime.observe()).images == {}

    async def test_the_life_of_a_container(self, bench: Bench) -> None:
        runtime = bench.runtime
        name = await made(bench)
        facts = await one(runtime)
        assert (facts.state, facts.started_this_boot, facts.life) == (ContainerState.CREATED, False, "")
        await runtime.start(name)
        facts = await one(runtime)
        assert (facts.state, facts.started_this_boot, facts.exit_code) == (ContainerState.RUNNING, True, None)
        assert facts.up_ms < 5000
        await runtime.start(name)
        assert (await one(runtime)).life == facts.life, "starting what runs is no new life"
        await runtime.stop(name, 1000)
        stopped = await one(runtime)
        assert (stopped.state, stopped.exit_code, stopped.life) == (
            ContainerState.EXITED,
            bench.codes.stopped,
            "",
        )
        await runtime.stop(name, 1000)
        await runtime.start(name)
        assert (await one(runtime)).life not in ("", facts.life)
        await runtime.remove(name)
        await runtime.remove(name)
        assert (await runtime.observe()).containers == ()

    async def test_create_is_kept_per_generation(self, bench: Bench) -> None:
        image = bench.publish(SLEEPER)
        await bench.runtime.pull(image, ignore)
        spec = ContainerSpec(3, image, restart_policy="always")
        name = await bench.runtime.create(spec)
        assert await bench.runtime.create(spec) == name
        facts = await one(bench.runtime)
        assert (facts.id, facts.generation, facts.image, facts.restart_policy) == (name, 3, image, "always")

    async def test_a_generation_that_is_there_with_another_image_is_refused(self, bench: Bench) -> None:
        first, second = bench.publish(SLEEPER), bench.publish(QUITS, "2")
        for image in (first, second):
            await bench.runtime.pull(image, ignore)
        await bench.runtime.create(ContainerSpec(3, first))
        with pytest.raises(EngineError):
            await bench.runtime.create(ContainerSpec(3, second))
        assert (await one(bench.runtime)).image == first

    async def test_mounts_and_environment_are_kept(self, bench: Bench) -> None:
        mounts = bench.room().mounts
        await made(bench, mounts=mounts, environment={"A": "b"})
        facts = await one(bench.runtime)
        assert (dict(facts.mounts), dict(facts.environment)) == (mounts, {"A": "b"})

    async def test_configuration_is_the_same_for_the_same_mounts_and_environment(self, bench: Bench) -> None:
        image = bench.publish(SLEEPER)
        await bench.runtime.pull(image, ignore)
        x, y, z = folders(bench)
        for generation, mounts in ((1, {"/a": x, "/b": y}), (2, {"/b": y, "/a": x}), (3, {"/a": z})):
            await bench.runtime.create(ContainerSpec(generation, image, mounts))
        one, two, three = (c.configuration for c in (await bench.runtime.observe()).containers)
        assert one == two != three

    async def test_the_restart_policy_is_kept(self, bench: Bench) -> None:
        name = await made(bench)
        await bench.runtime.set_restart_policy(name, "unless-stopped")
        assert (await one(await bench.again())).restart_policy == "unless-stopped"

    async def test_a_restart_policy_that_nobody_knows_is_refused(self, bench: Bench) -> None:
        name = await made(bench)
        with pytest.raises(EngineError):
            await bench.runtime.set_restart_policy(name, "sometimes")

    async def test_an_exit_code_is_told(self, bench: Bench) -> None:
        await bench.runtime.start(await made(bench, QUITS))
        facts = await until_state(bench.runtime, ContainerState.EXITED)
        assert (facts.exit_code, facts.started_this_boot) == (bench.codes.quits, True)

    async def test_a_killed_workload_is_137(self, bench: Bench) -> None:
        await bench.runtime.start(await made(bench))
        bench.kill(await one(bench.runtime))
        assert (await until_state(bench.runtime, ContainerState.EXITED)).exit_code == 137

    async def test_what_ignores_sigterm_is_killed_after_its_grace(self, bench: Bench) -> None:
        name = await started_stubborn(bench)
        await bench.runtime.stop(name, 50)
        facts = await one(bench.runtime)
        assert (facts.state, facts.exit_code) == (ContainerState.EXITED, 137)

    async def test_a_running_container_outlives_the_agent(self, bench: Bench) -> None:
        name = await made(bench)
        await bench.runtime.start(name)
        before = await one(bench.runtime)
        runtime = await bench.again()
        after = await one(runtime)
        assert (after.life, after.state, runtime.boot_id) == (
            before.life,
            before.state,
            bench.runtime.boot_id,
        )
        await runtime.restart_engine()
        assert (await one(runtime)).life == before.life
        await runtime.stop(name, 1000)
        assert (await one(runtime)).state is ContainerState.EXITED

    async def test_a_reboot_is_told_from_an_exit(self, bench: Bench) -> None:
        name = await made(bench)
        await bench.runtime.start(name)
        boot_id = bench.runtime.boot_id
        runtime = await bench.reboot()
        facts = await one(runtime)
        assert runtime.boot_id != boot_id
        assert (facts.state, facts.started_this_boot) == (ContainerState.EXITED, False)
        assert facts.exit_code == bench.codes.cut
        await runtime.start(name)
        assert (await one(runtime)).state is ContainerState.RUNNING

    async def test_an_image_in_use_is_not_removed(self, bench: Bench) -> None:
        name = await made(bench)
        digest = (await one(bench.runtime)).image.digest
        with pytest.raises(EngineError):
            await bench.runtime.remove_image(digest)
        await bench.runtime.remove(name)
        await bench.runtime.remove_image(digest)
        await bench.runtime.remove_image(digest)
        assert (await bench.runtime.observe()).images == {}

    async def test_a_volume_is_copied_and_brought_back(self, bench: Bench) -> None:
        volume, runtime = bench.volume("old"), bench.runtime
        await runtime.prepare_snapshot(2, volume.mounts)
        await runtime.prepare_snapshot(2, volume.mounts)
        assert (await runtime.observe()).snapshots == {2: SnapshotState.PREPARED}
        await runtime.snapshot(2, volume.mounts)
        volume.write("new")
        assert (await (await bench.again()).observe()).snapshots == {2: SnapshotState.TAKEN}
        await bench.runtime.restore_snapshot(2)
        assert volume.read() == "old"
        volume.write("collected since")
        await bench.runtime.restore_snapshot(2)
        assert volume.read() == "collected since", "it is brought back once"
        assert (await bench.runtime.observe()).snapshots == {2: SnapshotState.RESTORED}
        await bench.runtime.remove_snapshot(2)
        await bench.runtime.remove_snapshot(2)
        assert (await bench.runtime.observe()).snapshots == {}
        assert volume.read() == "collected since"

    async def test_a_copy_is_made_once(self, bench: Bench) -> None:
        volume = bench.volume("old")
        await bench.runtime.prepare_snapshot(2, volume.mounts)
        await bench.runtime.snapshot(2, volume.mounts)
        volume.write("new")
        await bench.runtime.snapshot(2, volume.mounts)
        await bench.runtime.restore_snapshot(2)
        assert volume.read() == "old"

    async def test_what_was_not_copied_is_not_brought_back(self, bench: Bench) -> None:
        volume = bench.volume("old")
        with pytest.raises(EngineError):
            await bench.runtime.restore_snapshot(2)
        await bench.runtime.prepare_snapshot(2, volume.mounts)
        with pytest.raises(EngineError):
            await bench.runtime.restore_snapshot(2)
        assert volume.read() == "old"
        assert (await bench.runtime.observe()).snapshots == {2: SnapshotState.PREPARED}

    async def test_starting_what_is_not_there_is_an_engine_error(self, bench: Bench) -> None:
        with pytest.raises(EngineError):
            await bench.runtime.start("g1-00000000")

    async def test_a_cancelled_stop_is_continued(self, bench: Bench) -> None:
        name = await started_stubborn(bench)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bench.runtime.stop(name, 60_000)
        assert (await one(bench.runtime)).state is ContainerState.RUNNING
        await bench.runtime.stop(name, 0)
        assert (await one(bench.runtime)).state is ContainerState.EXITED

    async def test_mounts_and_environment_arrive(self, bench: Bench) -> None:
        room = bench.room()
        program = b"import json, os\njson.dump(dict(os.environ), open(%r, 'w'))\nos.rename(%r, %r)\n"
        out, new = f"{room.inside}/out.json", f"{room.inside}/out.json.new"
        name = await made(
            bench, program % (new, new, out), mounts=room.mounts, environment={"COLOUR": "blue"}
        )
        await bench.runtime.start(name)
        await until((room.there / "out.json").exists)
        environment = json.loads((room.there / "out.json").read_text())
        assert environment["COLOUR"] == "blue"
        assert bench.told_mounts(environment) in (room.mounts, None)
        assert "PYTEST_CURRENT_TEST" not in environment
