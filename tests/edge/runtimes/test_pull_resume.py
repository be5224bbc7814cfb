"""An interrupted download goes on where it ended, whatever the registry makes of that."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reference.core.errors import BlackstartError, Reason
from reference.core.model import Image, ImageState
from reference.edge.runtimes import images
from reference.edge.runtimes.images import ImageStore
from reference.edge.runtimes.pull import PullLimits
from tests.edge.runtimes.conftest import ProcessBench
from tests.edge.runtimes.contract import SLEEPER, ignore
from tests.edge.runtimes.registry import Built, build

ROOT = Path(__file__).parents[3]
NOISE = os.urandom(400_000)


def published(bench: ProcessBench) -> tuple[Image, Built]:
    built = build([{"app/main.py": SLEEPER, "app/noise": NOISE}])
    return bench.image(built), built


def partial_of(bench: ProcessBench, built: Built) -> Path:
    return bench.state_dir / "partial" / built.layers[0].partition(":")[2]


async def begun(bench: ProcessBench) -> tuple[Image, Built, int]:
    """An image of which half a layer is on the disk."""
    image, built = published(bench)
    bench.registry.faults[built.layers[0]] = "cut"
    with pytest.raises(BlackstartError):
        await bench.runtime.pull(image, ignore)
    bench.registry.faults.clear()
    bench.registry.asked.clear()
    size = partial_of(bench, built).stat().st_size
    assert 0 < size < len(built.content[built.layers[0]])
    return image, built, size


async def complete(bench: ProcessBench, image: Image, built: Built) -> None:
    await bench.runtime.pull(image, ignore)
    assert (await bench.runtime.observe()).images == {image.digest: ImageState.PRESENT}
    assert not partial_of(bench, built).exists()


async def test_it_goes_on_from_the_bytes_on_the_disk(bench: ProcessBench) -> None:
    image, built, size = await begun(bench)
    before = bench.runtime.received_bytes
    await complete(bench, image, built)
    assert bench.registry.ranges == [(built.layers[0], f"bytes={size}-")]
    assert bench.runtime.received_bytes - before == len(built.content[built.layers[0]]) - size


async def test_so_it_does_in_another_life_of_the_agent(bench: ProcessBench) -> None:
    image, built, size = await begun(bench)
    await bench.again()
    await complete(bench, image, built)
    assert bench.registry.ranges == [(built.layers[0], f"bytes={size}-")]


@pytest.mark.parametrize("fault", ["cut", "short"])
async def test_interrupted_again_and_again_each_try_brings_it_further(
    bench: ProcessBench, fault: str
) -> None:
    image, built, size = await begun(bench)
    bench.registry.faults[built.layers[0]] = fault
    for _ in range(3):
        with pytest.raises(BlackstartError) as caught:
            await bench.runtime.pull(image, ignore)
        assert caught.value.reason in (Reason.REGISTRY_UNREACHABLE, Reason.PULL_CORRUPT)
        assert size < (size := partial_of(bench, built).stat().st_size)
    bench.registry.faults.clear()
    await complete(bench, image, built)


@pytest.mark.parametrize("fault", ["no-range", "not-satisfiable", "other-range"])
async def test_a_registry_that_cannot_go_on_is_asked_for_the_whole(bench: ProcessBench, fault: str) -> None:
    image, built, size = await begun(bench)
    bench.registry.faults[built.layers[0]] = fault
    before = bench.runtime.received_bytes
    await complete(bench, image, built)
    assert bench.registry.ranges == [(built.layers[0], f"bytes={size}-")]
    assert bench.runtime.received_bytes - before == len(built.content[built.layers[0]]), (
        "no part is read in vain"
    )


async def test_holes_that_a_cut_left_cost_one_more_download_not_the_update(bench: ProcessBench) -> None:
    image, built, size = await begun(bench)
    partial_of(bench, built).write_bytes(bytes(size))
    await complete(bench, image, built)
    assert bench.registry.asked.count(built.layers[0]) == 2


async def test_a_whole_that_was_not_renamed_is_not_fetched_again(bench: ProcessBench) -> None:
    image, built, _ = await begun(bench)
    partial_of(bench, built).write_bytes(built.content[built.layers[0]])
    await complete(bench, image, built)
    assert built.layers[0] not in bench.registry.asked


async def test_more_than_there_can_be_is_no_beginning(bench: ProcessBench) -> None:
    image, built, _ = await begun(bench)
    partial_of(bench, built).write_bytes(built.content[built.layers[0]] + b"x")
    await complete(bench, image, built)
    assert bench.registry.ranges == []


async def test_longer_than_said_is_refused_and_nothing_of_it_kept(bench: ProcessBench) -> None:
    image, built = published(bench)
    bench.registry.faults[built.layers[0]] = "long"
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    assert caught.value.reason is Reason.PULL_CORRUPT
    assert not partial_of(bench, built).exists()


async def test_a_rest_that_is_damaged_is_refused_after_one_whole_try(bench: ProcessBench) -> None:
    image, built, _ = await begun(bench)
    bench.registry.faults[built.layers[0]] = "corrupt"
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    assert caught.value.reason is Reason.PULL_CORRUPT
    assert bench.registry.asked.count(built.layers[0]) == 2
    assert not partial_of(bench, built).exists()


async def test_a_full_disk_gets_back_what_the_download_took(
    bench: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, built, _ = await begun(bench)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(BlackstartError) as caught:
            await bench.runtime.pull(image, ignore)
    assert caught.value.reason is Reason.DISK_FULL
    assert not partial_of(bench, built).exists()
    await complete(bench, image, built)


def test_beginnings_are_few_and_not_for_ever(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    now = time.time()
    for number in range(images.PARTIALS_KEPT + 5):
        path = store.partial(f"sha256:{number:064x}")
        path.write_bytes(b"x")
        os.utime(path, (now - number, now - number))
    os.utime(store.partial(f"sha256:{1:064x}"), (0, 0))
    wanted = f"sha256:{12:064x}"
    store.prune_partials([wanted])
    left = {int(path.name, 16) for path in store.partials.iterdir()}
    assert left == {0, *range(2, images.PARTIALS_KEPT + 1), 12}
    assert len(list(ImageStore(tmp_path).partials.iterdir())) == images.PARTIALS_KEPT
    store.reclaim([])
    assert list(store.partials.iterdir()) == []


KILLED = """
import asyncio, sys
from pathlib import Path
from reference.core.model import Image
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.pull import Access
state, run, host, digest = sys.argv[1:]
runtime = ProcessRuntime(Path(state), Path(run), Access({}, frozenset({host})))
asyncio.run(runtime.pull(Image(host + "/opc", digest, "1"), lambda progress: None))
"""


async def test_a_killed_agent_goes_on_where_it_was(bench: ProcessBench) -> None:
    image, built = published(bench)
    bench.registry.faults[built.layers[0]] = "stall"
    host, folders = bench.registry.address, (str(bench.state_dir), str(bench.run_dir))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, *folders, host, image.digest, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    half = len(built.content[built.layers[0]]) // 2
    try:
        async with asyncio.timeout(20):
            await bench.registry.stalled.wait()
            while not (partial_of(bench, built).exists() and partial_of(bench, built).stat().st_size == half):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    bench.registry.faults.clear()
    await bench.again()
    await complete(bench, image, built)
    assert bench.registry.ranges == [(built.layers[0], f"bytes={half}-")]


async def test_the_disk_is_asked_before_anything_comes(
    bench: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, built = published(bench)
    bench.open(PullLimits(margin_bytes=1000))
    size = len(built.content[built.layers[0]])
    monkeypatch.setattr(bench.runtime._puller, "_free", lambda _: size)
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    assert caught.value.reason is Reason.DISK_FULL
    assert f"{size} are free" in str(caught.value)
    assert "are missing" in str(caught.value)
    assert bench.registry.asked == [image.digest]
    monkeypatch.undo()
    bench.open()
    await complete(bench, image, built)


async def test_what_other_pulls_left_makes_room_first(
    bench: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, built = published(bench)
    other = ImageStore(bench.state_dir).partial("sha256:" + "a" * 64)
    other.write_bytes(b"x" * 1000)
    blob = ImageStore(bench.state_dir).blob("sha256:" + "b" * 64)
    blob.write_bytes(b"x" * 1000)

    def free(_: Path) -> int:
        return 0 if other.exists() or blob.exists() else 1 << 30

    monkeypatch.setattr(bench.runtime._puller, "_free", free)
    await complete(bench, image, built)


async def test_unpacking_stops_at_the_margin(bench: ProcessBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that understates: what was estimated fits, what comes out of it does not."""
    built = build([{"app/main.py": SLEEPER, "app/zeros": bytes(8 << 20)}])
    image = bench.image(built)
    bench.open(PullLimits(margin_bytes=1 << 20))
    monkeypatch.setattr(bench.runtime._puller, "_free", lambda _: 2 << 20)
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    assert caught.value.reason is Reason.DISK_FULL
    assert (await bench.runtime.observe()).images == {}
    assert list((bench.state_dir / "tmp").iterdir()) == []
