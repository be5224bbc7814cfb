"""Pulls by a real engine from a registry that fails in declared ways: every line is read, and means what it should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from reference.core.errors import BlackstartError, DeviceError, ImageError, Reason
from reference.core.model import Image, ImageState
from reference.edge.runtimes.base import ContainerSpec, PullProgress
from reference.edge.runtimes.pull import PullLimits
from reference.oci.manifests import OCI_INDEX
from tests.edge.runtimes.contract import ignore
from tests.edge.runtimes.docker_bench import DockerBench, damage_layer
from tests.edge.runtimes.registry import Built, build

NOISE = bytes(range(256)) * 4096


@pytest.fixture
def bench(docker_bench: DockerBench) -> DockerBench:
    return docker_bench


def small(bench: DockerBench, text: bytes = b"", **options: object) -> tuple[Image, Built]:
    """An image of one layer that no other test has: an engine keeps what it has once fetched."""
    unique = bench.client.encode() + text
    built = build([{"app/main.py": unique, "noise": unique + NOISE}], **options)  # type: ignore[arg-type]
    return bench.image(built), built


async def refused(bench: DockerBench, image: Image) -> BlackstartError:
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    assert (await bench.runtime.observe()).images == {}
    return caught.value


@pytest.mark.parametrize(
    ("what", "fault", "reason"),
    [
        ("manifest", "503", Reason.REGISTRY_ERROR),
        ("manifest", "429", Reason.REGISTRY_THROTTLED),
        ("manifest", "403", Reason.REGISTRY_DENIED),
        ("manifest", "cut", Reason.REGISTRY_UNREACHABLE),
        ("manifest", "corrupt", Reason.PULL_CORRUPT),
        ("layer", "500", Reason.REGISTRY_ERROR),
        ("layer", "404", Reason.IMAGE_UNKNOWN),
        ("layer", "corrupt", Reason.PULL_CORRUPT),
        ("layer", "stall", Reason.PULL_STALLED),
        ("layer", "cut", Reason.REGISTRY_ERROR),
    ],
)
async def test_what_a_registry_does_has_its_name(
    bench: DockerBench, what: str, fault: str, reason: Reason
) -> None:
    image, built = small(bench)
    bench.registry.faults[built.digest if what == "manifest" else built.layers[0]] = fault
    bench.open(PullLimits(stall_ms=1500 if fault in ("stall", "500", "cut") else 30_000))
    error = await refused(bench, image)
    assert error.reason is reason, str(error)
    bench.registry.faults.clear()
    await bench.runtime.pull(image, ignore)
    assert (await bench.runtime.observe()).images == {image.digest: ImageState.PRESENT}


async def test_without_credentials_it_says_what_to_give(bench: DockerBench) -> None:
    image, _ = small(bench)
    bench.registry.login = ("device", "right")
    error = await refused(bench, image)
    assert error.reason is Reason.REGISTRY_UNAUTHORIZED
    assert "credentials" in str(error)
    bench.login[bench.registry.address] = ("device", "wrong")
    assert (await refused(bench, image)).reason is Reason.REGISTRY_UNAUTHORIZED
    bench.login[bench.registry.address] = ("device", "right")
    await bench.runtime.pull(image, ignore)


async def test_a_registry_that_is_down_is_unreachable(bench: DockerBench) -> None:
    image, _ = small(bench)
    gone = Image("127.0.0.1:9/opc", image.digest, "1")
    assert (await refused(bench, gone)).reason is Reason.REGISTRY_UNREACHABLE


async def test_a_cancelled_pull_is_ended_in_the_engine_too(bench: DockerBench) -> None:
    image, built = small(bench)
    bench.registry.faults[built.layers[0]] = "stall"
    pull = asyncio.create_task(bench.runtime.pull(image, ignore))
    await bench.registry.stalled.wait()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    bench.registry.faults.clear()
    asked = len(bench.registry.asked)
    async with asyncio.timeout(20):  # The engine would go on waiting for the old one's layer.
        await bench.runtime.pull(image, ignore)
    assert built.layers[0] in bench.registry.asked[asked:]


async def test_progress_is_told_in_bytes(bench: DockerBench) -> None:
    image, built = small(bench)
    seen: list[PullProgress] = []
    before = bench.runtime.received_bytes
    await bench.runtime.pull(image, seen.append)
    total = seen[-1].total_bytes
    assert total is not None
    assert total > sum(len(built.content[layer]) for layer in built.layers)
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)
    received = bench.runtime.received_bytes - before
    assert received == sum(len(built.content[layer]) for layer in built.layers)


@pytest.mark.parametrize("alone", [False, True], ids=["told by the manifest", "the engine alone"])
async def test_the_wrong_architecture_is_refused_before_it_can_be_created(
    bench: DockerBench, alone: bool
) -> None:
    image, built = small(bench, architecture="s390x")
    if alone:  # The engine has a way to the registry that we do not have.
        bench.plain_http = frozenset()
        bench.open()
    error = await refused(bench, image)
    assert error.reason is Reason.WRONG_ARCHITECTURE
    assert "s390x" in str(error)
    assert (built.layers[0] in bench.registry.asked) is alone


async def test_an_index_without_this_architecture_is_refused(bench: DockerBench) -> None:
    image, built = small(bench, architecture="s390x", index=True)
    bench.registry.content_types[built.digest] = OCI_INDEX
    error = await refused(bench, image)
    assert error.reason is Reason.WRONG_ARCHITECTURE


async def test_an_image_that_does_not_fit_is_refused_before_it_comes(bench: DockerBench) -> None:
    image, built = small(bench)
    bench.open(PullLimits(margin_bytes=1 << 60))
    error = await refused(bench, image)
    assert isinstance(error, DeviceError)
    assert error.reason is Reason.DISK_FULL
    assert built.layers[0] not in bench.registry.asked


async def test_a_download_over_the_limit_is_refused(bench: DockerBench) -> None:
    image, built = small(bench)
    bench.open(PullLimits(download_bytes=1000))
    error = await refused(bench, image)
    assert error.reason is Reason.IMAGE_TOO_LARGE
    assert built.layers[0] not in bench.registry.asked


def damage_configuration(bench: DockerBench, image: Image) -> None:
    """A name without content: the engine does not even list it."""
    content = bench.engine.data_root / "image/overlay2/imagedb/content/sha256"
    (content / str(bench.inspected(image)["Id"]).partition(":")[2]).write_bytes(b"")


def two_layers(bench: DockerBench, text: bytes) -> Image:
    unique = bench.client.encode() + text
    return bench.image(build([{"one": unique + b"1"}, {"app/main.py": unique}]))


@pytest.mark.parametrize("how", [damage_layer, damage_configuration])
async def test_a_broken_image_is_shown_and_repaired(
    bench: DockerBench, how: Callable[[DockerBench, Image], None]
) -> None:
    whole, broken = two_layers(bench, b"whole"), two_layers(bench, b"broken")
    for image in (whole, broken):
        await bench.runtime.pull(image, ignore)
    how(bench, broken)
    images = dict((await bench.runtime.observe()).images)
    assert images.pop(whole.digest) is ImageState.PRESENT
    assert list(images.values()) == ([ImageState.BROKEN] if how is damage_layer else [])
    with pytest.raises(BlackstartError):
        await bench.runtime.create(ContainerSpec(1, broken))
    await bench.runtime.pull(broken, ignore)
    assert (await bench.runtime.observe()).images == dict.fromkeys(
        (whole.digest, broken.digest), ImageState.PRESENT
    )
    await bench.runtime.create(ContainerSpec(1, broken))


@pytest.mark.parametrize("how", [damage_layer, damage_configuration])
async def test_a_broken_image_can_be_removed(
    bench: DockerBench, how: Callable[[DockerBench, Image], None]
) -> None:
    broken = two_layers(bench, b"")
    await bench.runtime.pull(broken, ignore)
    how(bench, broken)
    await bench.runtime.remove_image(broken.digest)
    assert (await bench.runtime.observe()).images == {}
    await bench.runtime.pull(broken, ignore)


@pytest.mark.parametrize("name", ["no-host/opc", "127.0.0.1:1/UPPER", ""])
async def test_what_is_no_repository_is_the_images_fault(bench: DockerBench, name: str) -> None:
    error = await refused(bench, Image(name, "sha256:" + "0" * 64, "1"))
    assert isinstance(error, ImageError)
