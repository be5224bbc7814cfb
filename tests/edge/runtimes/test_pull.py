"""Pulls: every fault by its reason, nothing believed, nothing left half."""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path

import pytest

from reference.core.errors import BlackstartError, DeviceError, ImageError, Reason
from reference.core.model import Image, ImageState
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.pull import Access, PullLimits
from reference.edge.runtimes.unpack import UnpackLimits
from tests.edge.runtimes.conftest import ProcessBench
from tests.edge.runtimes.contract import SLEEPER, ignore
from tests.edge.runtimes.registry import build, running_registry

NOISE = b"".join(i.to_bytes(4, "big") for i in range(50_000))


async def refused(bench: ProcessBench, image: Image) -> BlackstartError:
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    assert (await bench.runtime.observe()).images == {}
    return caught.value


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("401", Reason.REGISTRY_UNAUTHORIZED),
        ("403", Reason.REGISTRY_DENIED),
        ("404", Reason.IMAGE_UNKNOWN),
        ("429", Reason.REGISTRY_THROTTLED),
        ("500", Reason.REGISTRY_ERROR),
        ("503", Reason.REGISTRY_ERROR),
        ("418", Reason.REGISTRY_ERROR),
        ("corrupt", Reason.PULL_CORRUPT),
        ("short", Reason.PULL_CORRUPT),
        ("cut", Reason.REGISTRY_UNREACHABLE),
        ("stall", Reason.PULL_STALLED),
    ],
)
@pytest.mark.parametrize("where", ["manifest", "layer"])
async def test_a_fault_has_its_reason_and_the_next_pull_succeeds(
    bench: ProcessBench, fault: str, reason: Reason, where: str
) -> None:
    bench.open(PullLimits(stall_ms=150 if fault == "stall" else 5_000))
    built = build([{"app/main.py": SLEEPER, "app/noise": NOISE}], index=True)
    image = bench.image(built)
    bench.registry.faults[image.digest if where == "manifest" else built.layers[0]] = fault
    assert (await refused(bench, image)).reason is reason
    bench.registry.faults.clear()
    bench.open(
        PullLimits(stall_ms=5_000)
    )  # A busy machine must not look like a registry that has fallen silent.
    await bench.runtime.pull(image, ignore)
    assert (await bench.runtime.observe()).images == {image.digest: ImageState.PRESENT}


async def test_a_byte_now_and_then_is_no_progress(bench: ProcessBench) -> None:
    """It would feed the watchdog for ever."""
    bench.open(PullLimits(stall_ms=5_000, slow_bytes=1 << 20, slow_ms=100))
    built = build([{"app/main.py": SLEEPER, "app/noise": NOISE}])
    image = bench.image(built)
    bench.registry.faults[built.layers[0]] = "drip"
    begun = time.monotonic()
    assert (await refused(bench, image)).reason is Reason.PULL_STALLED
    assert time.monotonic() - begun < 3


async def test_a_registry_that_is_not_there(bench: ProcessBench) -> None:
    async with running_registry() as other:
        address = other.address
    bench.registry.address = address
    bench.open()
    assert (await refused(bench, bench.publish(SLEEPER))).reason is Reason.REGISTRY_UNREACHABLE


async def test_without_tls_only_where_it_is_allowed(bench: ProcessBench) -> None:
    image = bench.publish(SLEEPER)
    bench.runtime = ProcessRuntime(bench.state_dir, bench.run_dir, limits=PullLimits(connect_ms=300))
    assert (await refused(bench, image)).reason is Reason.REGISTRY_UNREACHABLE
    assert bench.registry.asked == []


async def test_basic_authentication(bench: ProcessBench) -> None:
    image = bench.publish(SLEEPER)
    bench.registry.login = ("device", "secret")
    assert (await refused(bench, image)).reason is Reason.REGISTRY_UNAUTHORIZED
    bench.login[bench.registry.address] = ("device", "wrong")
    assert (await refused(bench, image)).reason is Reason.REGISTRY_UNAUTHORIZED
    bench.login[bench.registry.address] = ("device", "secret")
    await bench.runtime.pull(image, ignore)


async def test_credentials_do_not_follow_a_redirect_to_another_host(bench: ProcessBench) -> None:
    built = build([{"app/main.py": SLEEPER}])
    image = bench.image(built)
    bench.login[bench.registry.address] = ("device", "secret")
    async with running_registry() as other:
        other.publish(built)
        bench.registry.faults[built.layers[0]] = f"to:http://{other.address}/v2/opc/blobs/"
        assert (await refused(bench, image)).reason is Reason.REGISTRY_ERROR, "no TLS there"
        assert other.asked == []
        access = Access(bench.login, frozenset({bench.registry.address, other.address}))
        bench.runtime = ProcessRuntime(bench.state_dir, bench.run_dir, access)
        await bench.runtime.pull(image, ignore)
        assert other.authorizations == [""]
        assert all(bench.registry.authorizations)


@pytest.mark.parametrize("status", ["403", "404", "500"])
async def test_the_signature_of_a_blob_store_is_not_repeated(bench: ProcessBench, status: str) -> None:
    built = build([{"app/main.py": SLEEPER}])
    image = bench.image(built)
    async with running_registry() as other:
        other.faults["*"] = status
        bench.registry.faults[built.layers[0]] = f"to:http://{other.address}/b?X-Amz-Signature=s3cret&d="
        access = Access(bench.login, frozenset({bench.registry.address, other.address}))
        bench.runtime = ProcessRuntime(bench.state_dir, bench.run_dir, access)
        error = await refused(bench, image)
    assert other.address in str(error)
    assert "s3cret" not in str(error)


async def test_a_redirect_with_credentials_or_to_nowhere_is_not_followed(bench: ProcessBench) -> None:
    image = bench.publish(SLEEPER)
    for target in ("http://u:s3cret@127.0.0.1:1/", "ftp://127.0.0.1/", "//[", "http://"):
        bench.registry.faults["*"] = f"to:{target}"
        error = await refused(bench, image)
        assert error.reason in (Reason.REGISTRY_ERROR, Reason.REGISTRY_UNREACHABLE)
        assert "s3cret" not in str(error)


async def test_endless_redirects_end(bench: ProcessBench) -> None:
    image = bench.publish(SLEEPER)
    bench.registry.faults["*"] = f"to:http://{bench.registry.address}/v2/opc/blobs/"
    assert (await refused(bench, image)).reason is Reason.REGISTRY_ERROR


async def test_cancelled_in_mid_pull_then_pulled_again_without_fetching_twice(bench: ProcessBench) -> None:
    built = build([{"app/main.py": SLEEPER}, {"app/noise": NOISE}])
    image = bench.image(built)
    bench.registry.faults[built.layers[1]] = "stall"
    task = asyncio.create_task(bench.runtime.pull(image, ignore))
    await asyncio.wait_for(bench.registry.stalled.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await bench.runtime.observe()).images == {}
    bench.registry.faults.clear()
    bench.registry.asked.clear()
    await bench.runtime.pull(image, ignore)
    assert bench.registry.asked == [image.digest, built.layers[1]]
    assert list((bench.state_dir / "tmp").iterdir()) == []


async def test_a_damaged_blob_on_the_disk_is_fetched_again(bench: ProcessBench) -> None:
    built = build([{"app/main.py": SLEEPER}])
    image = bench.image(built)
    (bench.state_dir / "blobs/sha256" / built.layers[0].partition(":")[2]).write_bytes(b"")
    await bench.runtime.pull(image, ignore)
    assert built.layers[0] in bench.registry.asked


async def test_another_architecture_is_refused_before_its_layers_are_fetched(bench: ProcessBench) -> None:
    for index in (False, True):
        built = build([{"app/main.py": SLEEPER}], architecture="s390x", index=index)
        error = await refused(bench, bench.image(built))
        assert (type(error), error.reason) == (ImageError, Reason.WRONG_ARCHITECTURE)
        assert built.layers[0] not in bench.registry.asked


async def test_what_does_not_unpack_to_its_configuration_is_refused(bench: ProcessBench) -> None:
    built = build([{"app/main.py": SLEEPER}], diff_ids=["sha256:" + "0" * 64])
    assert (await refused(bench, bench.image(built))).reason is Reason.IMAGE_INVALID
    built = build([{"app/main.py": SLEEPER}], diff_ids=["sha256:" + "0" * 64] * 2)
    assert (await refused(bench, bench.image(built))).reason is Reason.IMAGE_INVALID


@pytest.mark.parametrize(
    "repository", ["nohost", "127.0.0.1:5000", "127.0.0.1:5000/../x", "127.0.0.1:99999/x", ""]
)
async def test_a_repository_that_is_none(bench: ProcessBench, repository: str) -> None:
    assert (await refused(bench, Image(repository, "sha256:" + "0" * 64, "1"))).reason is Reason.IMAGE_INVALID


async def test_a_digest_that_is_none(bench: ProcessBench) -> None:
    image = Image(f"{bench.registry.address}/opc", "sha256:../../x", "1")
    assert (await refused(bench, image)).reason is Reason.IMAGE_INVALID


async def test_too_large(bench: ProcessBench) -> None:
    image = bench.image(build([{"app/main.py": SLEEPER, "app/noise": NOISE}]))
    for limits in (PullLimits(download_bytes=1000), PullLimits(unpack=UnpackLimits(total_bytes=50_000))):
        bench.open(limits)
        assert (await refused(bench, image)).reason is Reason.IMAGE_TOO_LARGE


async def test_a_full_disk(bench: ProcessBench, monkeypatch: pytest.MonkeyPatch) -> None:
    image = bench.publish(SLEEPER)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    error = await refused(bench, image)
    assert (type(error), error.reason) == (DeviceError, Reason.DISK_FULL)
    monkeypatch.undo()
    await bench.runtime.pull(image, ignore)
