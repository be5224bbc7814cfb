"""The process runtime: the contract, and what is its own."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reference.core.errors import EngineError, ImageError, Reason
from reference.core.model import ContainerState, ImageState
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.procfs import Life, life_of
from tests.edge.runtimes.conftest import ProcessBench
from tests.edge.runtimes.contract import (
    QUITS,
    SLEEPER,
    RuntimeContract,
    ignore,
    made,
    one,
    until,
    until_state,
)
from tests.edge.runtimes.registry import LayerSource, build

DOUBLE_FORK = b"""
import os, time
path = %r
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(path, "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
while not (os.path.exists(path) and os.path.getsize(path)):
    time.sleep(0.001)  # it is ended with us: it has to have said its name before
time.sleep(%d)
"""


class TestProcessRuntime(RuntimeContract):
    """The contract."""


def state_of(bench: ProcessBench, name: str) -> dict[str, int]:
    return dict(json.loads((bench.run_dir / "containers" / name / "state.json").read_bytes()))


async def test_stop_and_start_are_quick(bench: ProcessBench, capsys: pytest.CaptureFixture[str]) -> None:
    name = await made(bench)
    await bench.runtime.start(name)
    begin = time.perf_counter()
    await bench.runtime.stop(name, 5000)
    middle = time.perf_counter()
    await bench.runtime.start(name)
    end = time.perf_counter()
    with capsys.disabled():
        print(f" [stop {(middle - begin) * 1000:.0f} ms, start {(end - middle) * 1000:.0f} ms]", end="")


async def test_two_starts_at_once_run_one(bench: ProcessBench) -> None:
    name = await made(bench)
    other = bench.open()
    await asyncio.gather(bench.runtime.start(name), other.start(name), bench.runtime.start(name))
    assert bench.workloads() == [state_of(bench, name)["pid"]]


async def test_it_outlives_the_process_that_started_it(bench: ProcessBench) -> None:
    name = await made(bench)
    code = (
        "import asyncio, sys, os, signal; from pathlib import Path\n"
        "from reference.edge.runtimes.process import ProcessRuntime\n"
        "runtime = ProcessRuntime(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "asyncio.run(runtime.start(sys.argv[3])); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    agent = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(bench.state_dir), str(bench.run_dir), name],
        check=False,
        timeout=20,
    )
    assert agent.returncode == -signal.SIGKILL
    assert (await one(bench.runtime)).state is ContainerState.RUNNING
    await bench.runtime.stop(name, 1000)
    assert bench.processes() == []


async def test_without_its_shim_it_runs_on_and_can_be_stopped(bench: ProcessBench) -> None:
    name = await made(bench)
    await bench.runtime.start(name)
    before = await one(bench.runtime)
    shim = state_of(bench, name)["shim_pid"]
    os.kill(shim, signal.SIGKILL)
    await until(lambda: (life := life_of(shim)) is None or not life.alive)
    assert (await one(bench.runtime)).life == before.life
    await bench.runtime.start(name)
    assert (await one(bench.runtime)).life == before.life
    await bench.runtime.stop(name, 1000)
    facts = await one(bench.runtime)
    assert (facts.state, facts.exit_code) == (ContainerState.EXITED, None)
    assert bench.processes() == []


async def test_sigterm_to_the_shim_reaches_the_workload(bench: ProcessBench) -> None:
    name = await made(bench)
    await bench.runtime.start(name)
    os.kill(state_of(bench, name)["shim_pid"], signal.SIGTERM)
    assert (await until_state(bench.runtime, ContainerState.EXITED)).exit_code == 143


async def test_a_double_forked_child_ends_with_stop(bench: ProcessBench) -> None:
    told = bench.folder / "pid"
    name = await made(bench, DOUBLE_FORK % (str(told), 600))
    await bench.runtime.start(name)
    await until(lambda: told.exists() and told.read_text() != "")
    life = life_of(int(told.read_text()))
    assert life is not None
    await bench.runtime.stop(name, 1000)
    assert not life.alive


async def test_a_double_forked_child_ends_with_its_workload(bench: ProcessBench) -> None:
    told = bench.folder / "pid"
    name = await made(bench, DOUBLE_FORK % (str(told), 0))
    await bench.runtime.start(name)
    await until(lambda: told.exists() and told.read_text() != "")
    life = life_of(int(told.read_text()))
    await until(lambda: life is None or not life.alive)


async def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    life = life_of(child.pid)
    assert life is not None
    assert life.alive
    assert not Life(child.pid, life.start_ticks + 1).alive, "another process under the same pid"
    child.kill()
    await until(lambda: not life.alive)
    os.kill(child.pid, 0)  # it still answers: a zombie
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


async def test_a_refused_start_leaves_no_marker(bench: ProcessBench) -> None:
    name = await made(bench)
    for interpreter in (str(bench.folder / "missing"), "/dev/null"):
        with pytest.raises(EngineError) as caught:
            await bench.open(interpreter=interpreter).start(name)
        assert caught.value.reason is Reason.START_REFUSED
    facts = await one(bench.runtime)
    assert (facts.state, facts.started_this_boot) == (ContainerState.CREATED, False)


async def test_a_workload_that_cannot_be_executed_is_refused(bench: ProcessBench) -> None:
    image = bench.image(build([{"app/main.py": SLEEPER}], env=["HUGE=" + "x" * 200_000]))
    await bench.runtime.pull(image, ignore)
    huge = await bench.runtime.create(ContainerSpec(3, image))
    with pytest.raises(EngineError) as caught:
        await bench.runtime.start(huge)
    assert caught.value.reason is Reason.START_REFUSED
    assert "too long" in str(caught.value)
    assert not (await one(bench.runtime)).started_this_boot


async def test_a_cancelled_start_is_continued(bench: ProcessBench) -> None:
    name = await made(bench)
    task = asyncio.create_task(bench.runtime.start(name))
    await until((bench.run_dir / "containers" / name / "launch.json").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bench.runtime.start(name)
    assert bench.workloads() == [state_of(bench, name)["pid"]]


async def test_what_a_dead_agent_had_only_just_spawned_is_stopped_too(bench: ProcessBench) -> None:
    name = await made(bench)
    task = asyncio.create_task(bench.runtime.start(name))
    await until((bench.run_dir / "containers" / name / "launch.json").exists)
    task.cancel()
    await asyncio.wait([task])
    await (await bench.again()).stop(name, 1000)
    assert bench.processes() == []


def _damage(bench: ProcessBench, name: str, how: str) -> None:
    folder = bench.state_dir / "containers" / name
    path = folder / "container.json"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        path.write_bytes(path.read_bytes().replace(b"generation", b"generatiom"))
    elif how == "absent":
        path.unlink()
    elif how == "folder":
        shutil.rmtree(folder)
    else:
        path.unlink()
        (bench.run_dir / "containers" / name / "state.json").write_bytes(b"")


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "absent", "folder", "state too"])
async def test_a_damaged_container_never_runs_beside_another(
    bench: ProcessBench, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    marker = bench.folder / "child"
    name = await made(bench, DOUBLE_FORK % (str(marker), 600))
    await bench.runtime.start(name)
    await until(lambda: marker.exists() and marker.read_text() != "")
    whole = await made(bench, SLEEPER, 2)
    await bench.runtime.start(whole)
    pid = state_of(bench, whole)["pid"]
    _damage(bench, name, how)
    facts = await one(await bench.again())
    assert (facts.id, facts.state) == (whole, ContainerState.RUNNING)
    assert bench.workloads() == [pid]
    assert name in [getattr(record, "container", None) for record in caplog.records]
    assert not (bench.state_dir / "containers" / name).exists()
    assert not (bench.run_dir / "containers" / name).exists()


async def test_a_container_that_cannot_be_read_for_a_moment_is_not_touched(
    bench: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await made(bench)
    await bench.runtime.start(name)

    def busy(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", busy)
        with pytest.raises(EngineError):
            await bench.runtime.observe()
    assert (await one(bench.runtime)).state is ContainerState.RUNNING


@pytest.mark.parametrize("policy", [None, b"", b"\xff\xfe", b"alw"])
async def test_a_damaged_policy_is_none(bench: ProcessBench, policy: bytes | None) -> None:
    name = await made(bench)
    await bench.runtime.set_restart_policy(name, "always")
    await bench.runtime.start(name)
    path = bench.state_dir / "containers" / name / "policy"
    path.unlink()
    if policy is not None:
        path.write_bytes(policy)
    facts = await one(bench.runtime)
    assert (facts.state, facts.restart_policy) == (ContainerState.RUNNING, "no")
    await bench.runtime.set_restart_policy(name, "always")
    assert (await one(bench.runtime)).restart_policy == "always"


async def test_stop_all_stops_also_what_cannot_be_read(bench: ProcessBench) -> None:
    names = [await made(bench, SLEEPER, generation) for generation in (1, 2, 3)]
    for name in names[:2]:
        await bench.runtime.start(name)
    _damage(bench, names[0], "truncated")
    await bench.runtime.stop_all(1000)
    assert bench.processes() == []
    await bench.runtime.stop_all(1000)
    assert {facts.id for facts in (await bench.runtime.observe()).containers} == set(names[1:])


async def test_another_kernel_boot_empties_the_run_folder(bench: ProcessBench) -> None:
    name = await made(bench, QUITS)
    await bench.runtime.start(name)
    await until_state(bench.runtime, ContainerState.EXITED)
    path = bench.run_dir / "boot-id"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kernel": "another"}))
    runtime = await bench.again()
    facts = await one(runtime)
    assert (facts.state, facts.started_this_boot, facts.exit_code) == (ContainerState.EXITED, False, None)


@pytest.mark.parametrize("damage", ["changed", "emptied", "gone", "described"])
async def test_a_damaged_image_is_broken_until_pulled_again(bench: ProcessBench, damage: str) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    folder = bench.state_dir / "images" / image.digest.partition(":")[2]
    path = folder / "rootfs/app/main.py"
    if damage == "changed":
        path.write_bytes(SLEEPER.replace(b"600", b"601"))
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    else:
        (folder / "image.json").write_bytes((folder / "image.json").read_bytes().replace(b"main", b"niam"))
    runtime = await bench.again()
    assert (await runtime.observe()).images == {image.digest: ImageState.BROKEN}
    await runtime.pull(image, ignore)
    assert (await (await bench.again()).observe()).images == {image.digest: ImageState.PRESENT}
    assert path.read_bytes() == SLEEPER


async def test_what_a_cut_left_half_done_is_no_image_and_no_container(bench: ProcessBench) -> None:
    image = bench.publish(SLEEPER)
    (bench.state_dir / "tmp/abc/rootfs").mkdir(parents=True)
    (bench.state_dir / "tmp/g1-00000000.new").mkdir()
    view = await bench.runtime.observe()
    assert (view.images, view.containers) == ({}, ())
    await bench.runtime.pull(image, ignore)
    assert list((bench.state_dir / "tmp").iterdir()) == []


async def test_only_python_programs_are_taken(bench: ProcessBench) -> None:
    image = bench.image(build([{"app/run": b"#!/bin/sh"}], argv=["/app/run"]))
    with pytest.raises(ImageError) as caught:
        await bench.runtime.pull(image, ignore)
    assert caught.value.reason is Reason.IMAGE_INVALID
    assert (await bench.runtime.observe()).images == {}


async def test_layers_that_another_image_stands_on_stay(bench: ProcessBench) -> None:
    base: LayerSource = {"app/base.py": b"base"}
    one_, two = (bench.image(build([base, {"app/main.py": text}])) for text in (b"1", b"2"))
    await bench.runtime.pull(one_, ignore)
    await bench.runtime.pull(two, ignore)
    blobs = bench.state_dir / "blobs/sha256"
    assert len(list(blobs.iterdir())) == 5
    await bench.runtime.remove_image(one_.digest)
    assert len(list(blobs.iterdir())) == 3
    assert (await (await bench.again()).observe()).images == {two.digest: ImageState.PRESENT}


async def test_the_log_of_the_last_two_runs_is_kept(bench: ProcessBench) -> None:
    name = await made(bench, b"import sys, os\nprint('pid', os.getpid())\n")
    for _ in range(3):
        await bench.runtime.start(name)
        await until_state(bench.runtime, ContainerState.EXITED)
    folder = bench.run_dir / "containers" / name
    logs = [(folder / "log.1").read_text(), (folder / "log").read_text()]
    assert all(log.startswith("pid ") and log.count("\n") == 1 for log in logs)


async def test_what_this_boot_knew_of_a_client_is_lost_and_still_nothing_runs_beside_it(
    bench: ProcessBench,
) -> None:
    lost = await made(bench, SLEEPER)
    await bench.runtime.start(lost)
    shutil.rmtree(bench.run_dir / "containers" / lost)
    other = await made(bench, SLEEPER, 2)
    await bench.runtime.start(other)
    assert bench.workloads() == [state_of(bench, other)["pid"]]


async def test_a_boot_removes_nothing_of_others_from_the_run_folder(bench: ProcessBench) -> None:
    (bench.run_dir / "somebody").mkdir()
    (bench.run_dir / "somebody" / "else").write_text("precious")
    (bench.run_dir / "lock").write_text("of the boot before")
    (bench.run_dir / "boot-id").write_bytes(b"\xff")
    await bench.again()
    assert (bench.run_dir / "somebody" / "else").read_text() == "precious"
    assert not (bench.run_dir / "lock").exists()
