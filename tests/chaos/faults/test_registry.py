"""Each fault of the registry: it is done to a real pull, says so, and is gone when it is healed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import httpx
import pytest
import pytest_asyncio

from chaos.faults import all_faults, fault_named
from chaos.faults._registry import RuleFault
from chaos.faults._registry_images import bomb
from chaos.faults.base import Family, Fault, FaultError, Ground, Wants, checked
from chaos.guard import Guard
from chaos.history import Recorder
from chaos.proxies.registry import RegistryFront
from chaos.scenario.model import FaultUse
from reference.core.errors import ImageError, InputError, Reason, RegistryError
from reference.edge.runtimes.unpack import Layer, UnpackLimits, unpack
from reference.oci.digests import sha256_of
from reference.pki.authority import DevelopmentCA
from reference.stack import Stack
from tests.chaos.proxies.registry_bench import (
    RegistryBench,
    Shelf,
    pull_through,
    registry_bench,
    shelf,
    until,
)

ALL = [name for name, fault in all_faults().items() if fault.family is Family.REGISTRY]


@dataclass
class Small:
    """As much of a `Ground` as these faults touch."""

    folder: Path
    stack: Stack
    front: RegistryFront
    guard: Guard
    api: httpx.AsyncClient | None = None
    recorder: Recorder = field(default_factory=Recorder)


def small(bench: RegistryBench) -> Ground:
    return cast(Ground, Small(bench.folder, bench.stack, bench.front, Guard(bench.folder)))


def made(ground: Ground, name: str, **with_: object) -> Fault:
    kind, use = fault_named(name), FaultUse.model_validate({"fault": name, "with": with_})
    return kind(ground, use, checked(kind, use), random.Random(1))


@pytest.fixture(scope="module")
def on_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with shelf(tmp_path_factory.mktemp("shelf")) as found:
        yield found


@pytest.fixture
async def bench(tmp_path: Path, on_shelf: Shelf) -> AsyncIterator[RegistryBench]:
    async with registry_bench(tmp_path, on_shelf) as found:
        yield found


def test_all_are_there() -> None:
    assert [name.removeprefix("registry-") for name in ALL] == [
        "certificate-expired", "corrupted", "error", "forbidden", "layer-bomb", "not-found", "path-escape",
        "slow-layer", "stalled", "tag-moved", "throttled", "truncated", "unauthorized", "unavailable", "wrong-length",
    ]  # fmt: skip


# ---- answers


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("registry-unauthorized", 401, Reason.REGISTRY_UNAUTHORIZED),
        ("registry-forbidden", 403, Reason.REGISTRY_DENIED),
        ("registry-not-found", 404, Reason.IMAGE_UNKNOWN),
        ("registry-throttled", 429, Reason.REGISTRY_THROTTLED),
        ("registry-error", 500, Reason.REGISTRY_ERROR),
        ("registry-unavailable", 503, Reason.REGISTRY_ERROR),
    ],
)
@pytest.mark.parametrize("kind", ["manifest", "layer"])
async def test_an_answer(bench: RegistryBench, name: str, status: int, reason: Reason, kind: str) -> None:
    fault = made(small(bench), name, kind=kind)
    await fault.begin()
    assert await fault.fired() == ""
    with pytest.raises(RegistryError) as caught:
        await bench.pull()
    assert caught.value.reason is reason
    assert await fault.fired() == f"1 request was answered with {status} (1 for {kind}s)"
    await fault.heal()
    await fault.heal()
    await bench.pull()
    assert str(status) in await fault.fired()


async def test_only_so_many(bench: RegistryBench) -> None:
    fault = made(small(bench), "registry-unavailable", count=2)
    await fault.begin()
    for _ in range(2):
        with pytest.raises(RegistryError):
            await bench.pull()
    await bench.pull()
    assert await fault.fired() == "2 requests were answered with 503 (2 for manifests)"
    await fault.heal()


async def test_when_to_come_again(bench: RegistryBench) -> None:
    fault = made(small(bench), "registry-throttled", **{"retry-after": "1500ms"})
    await fault.begin()
    async with httpx.AsyncClient(base_url=f"http://{bench.front.host}", trust_env=False) as client:
        answer = await client.get("/v2/opc-client/manifests/2.0.0")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")


# ---- layers on their way


@pytest.mark.parametrize(
    ("name", "with_", "reason"),
    [
        ("registry-truncated", {}, Reason.REGISTRY_UNREACHABLE),
        ("registry-truncated", {"at": "0%"}, Reason.REGISTRY_UNREACHABLE),
        ("registry-corrupted", {}, Reason.PULL_CORRUPT),
        ("registry-wrong-length", {}, Reason.PULL_CORRUPT),
        ("registry-wrong-length", {"factor": 1.5}, Reason.REGISTRY_UNREACHABLE),
        ("registry-stalled", {}, Reason.PULL_STALLED),
    ],
)
async def test_a_layer_on_its_way(
    bench: RegistryBench, name: str, with_: dict[str, object], reason: Reason
) -> None:
    fault = made(small(bench), name, **with_)
    await fault.begin()
    assert await fault.fired() == ""
    with pytest.raises(RegistryError) as caught:
        await bench.pull(stall_ms=500)
    assert caught.value.reason is reason
    said = await fault.fired()
    assert said.startswith("1 layer "), said
    await fault.heal()
    await fault.heal()
    await bench.pull()
    assert await fault.fired() == said


async def test_a_stall_that_is_healed_goes_on(bench: RegistryBench) -> None:
    fault = made(small(bench), "registry-stalled")
    await fault.begin()
    pull = asyncio.ensure_future(bench.pull())
    await until(partial(_some_passed, bench))
    await until(lambda: bool(fault.handle.hits))  # type: ignore[attr-defined]
    assert not pull.done()
    await fault.heal()
    await pull
    assert f"{bench.layer_size - bench.layer_size // 2} bytes were kept back" in await fault.fired()


async def test_a_slow_layer(bench: RegistryBench) -> None:
    fault = made(small(bench), "registry-slow-layer", rate="4KiB")
    await fault.begin()
    pull = asyncio.ensure_future(bench.pull())
    await until(partial(_some_passed, bench))
    assert not pull.done()
    await fault.heal()
    await pull
    assert "bytes of 1 layer slowed down, by " in await fault.fired()
    assert ", by 0 ms" not in await fault.fired()


async def test_a_layer_that_is_slow_for_a_moment_is_not(bench: RegistryBench) -> None:
    """At a rate above what a layer has, it is the machine that takes its time."""
    fault = made(small(bench), "registry-slow-layer", rate="50MiB")
    await fault.begin()
    await bench.pull()
    assert isinstance(fault, RuleFault)
    assert fault.handle is not None
    assert fault.handle.hits
    fault.handle.waited_s = 1.0
    assert await fault.fired() == ""


def _some_passed(bench: RegistryBench) -> bool:
    return bench.front.pulls.progress("opc-client")[0] > 500


@pytest.mark.parametrize(
    ("name", "with_"),
    [
        ("registry-error", {"kind": "ping"}),
        ("registry-truncated", {"at": 2}),
        ("registry-slow-layer", {"rate": "0B"}),
        ("registry-slow-layer", {"rate": "51MiB"}),
        ("registry-corrupted", {"rate": "1KiB"}),
        ("registry-path-escape", {"way": "down"}),
    ],
)
def test_what_they_do_not_take(name: str, with_: dict[str, object]) -> None:
    with pytest.raises(InputError):
        checked(fault_named(name), FaultUse.model_validate({"fault": name, "with": with_}))


# ---- TLS


async def test_an_expired_certificate(tmp_path: Path, on_shelf: Shelf) -> None:
    use, wants = FaultUse.model_validate({"fault": "registry-certificate-expired"}), Wants()
    fault_named(use.fault).wants(use, wants)
    assert wants.registry_tls
    files = DevelopmentCA.open_or_create(tmp_path / "stack" / "ca").issue_server("registry")
    async with registry_bench(tmp_path, on_shelf, files) as bench:
        fault = made(small(bench), use.fault)
        await bench.pull(ca=files.ca)
        await fault.begin()
        assert await fault.fired() == ""
        with pytest.raises(RegistryError, match="expired"):
            await bench.pull(ca=files.ca)
        await until(lambda: bool(bench.front.handshakes_broken))
        await fault.heal()
        await fault.heal()
        await bench.pull(ca=files.ca)
        assert (await fault.fired()).startswith("1 TLS handshake was broken off: ")


async def test_a_certificate_needs_tls(bench: RegistryBench) -> None:
    fault = made(small(bench), "registry-certificate-expired")
    with pytest.raises(FaultError):
        await fault.begin()
    await fault.heal()
    assert await fault.fired() == ""


# ---- what the service has to know of


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """A stack with its service, and the front before its registry; versions 1.0.0 and 2.0.0 are published."""
    folder, front = tmp_path_factory.mktemp("whole"), RegistryFront()
    try:
        async with Stack(folder / "stack") as stack, stack.api() as api:
            await front.start(stack.registry().host)
            stack.add_front("registry", front.host)
            for version in ("1.0.0", "2.0.0"):
                await stack.publish(version)
            yield cast(Ground, Small(folder, stack, front, Guard(folder), api))
            await front.stop()
    finally:
        await front.stop()


async def tagged(ground: Ground, tag: str) -> str:
    """The digest that the registry answers for a tag."""
    login = ("device", ground.stack.registry().pull_password)
    async with httpx.AsyncClient(
        base_url=f"http://{ground.front.host}", auth=login, trust_env=False
    ) as client:
        answer = await client.get(
            f"/v2/opc-client/manifests/{tag}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        )
    assert answer.status_code == 200, answer.text
    return sha256_of(answer.content)


async def pulled(ground: Ground, version: str, store: Path) -> Path:
    """The root of the version's image, pulled through the front by the digest that the service knows."""
    answer = await ground.api.get(f"/api/v1/versions/{version}")
    found = answer.json()
    assert found["repository"] == f"{ground.front.host}/opc-client"
    login = ("device", ground.stack.registry().pull_password)
    return await pull_through(ground.front, login, found["digest"], store)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_tag_is_moved_and_moved_back(whole: Ground, tmp_path: Path) -> None:
    digests = whole.stack.digests
    fault = made(whole, "registry-tag-moved")
    assert await fault.fired() == ""
    await fault.begin()
    assert await tagged(whole, "2.0.0") not in (digests["2.0.0"], "")
    assert digests["2.0.0"] in await fault.fired()
    await pulled(whole, "2.0.0", tmp_path / "store")
    await fault.heal()
    await fault.heal()
    assert await tagged(whole, "2.0.0") == digests["2.0.0"]


@pytest.mark.asyncio(loop_scope="module")
async def test_another_image_is_made_where_there_is_none(
    whole: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"2.0.0": whole.stack.digests["2.0.0"], "lost": "sha256:" + "0" * 64}
    monkeypatch.setattr(whole.stack, "digests", known)
    fault = made(whole, "registry-tag-moved")
    await fault.begin()
    assert await tagged(whole, "2.0.0") == await tagged(whole, "0.0.0-other") != known["2.0.0"]
    await fault.heal()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_tag_that_is_not_there(whole: Ground) -> None:
    fault = made(whole, "registry-tag-moved", version="9.9.9")
    with pytest.raises(FaultError, match=r"404 for 9\.9\.9"):
        await fault.begin()
    await fault.heal()
    assert await fault.fired() == ""


def test_their_version_is_not_the_benchs_to_publish() -> None:
    for name, version in (("registry-layer-bomb", "2.0.0-bomb"), ("registry-path-escape", "2.0.0-escape")):
        wants = Wants()
        for given in ({}, {"version": "3"}):
            use = FaultUse.model_validate({"fault": name, "with": given})
            fault_named(name).wants(use, wants)
        assert wants.published == {version, "3"}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bomb(whole: Ground, tmp_path: Path) -> None:
    fault = made(whole, "registry-layer-bomb", unpacked="256MiB")
    await fault.begin()
    assert await fault.fired() == ""
    with pytest.raises(ImageError) as caught:
        await pulled(whole, "2.0.0-bomb", tmp_path / "store")
    assert caught.value.reason is Reason.IMAGE_UNSAFE
    said = await fault.fired()
    assert said.endswith(f"of a layer that unpacks to {256 << 20} were sent, in 1 answers")
    assert int(said.split(" ")[0]) < 1 << 20
    await fault.heal()
    assert await fault.fired() == said


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", ["up", "absolute", "link"])
async def test_an_escape(whole: Ground, tmp_path: Path, way: str) -> None:
    version = f"2.0.0-{way}"
    fault = made(whole, "registry-path-escape", way=way, version=version)
    await fault.begin()
    assert await fault.fired() == ""
    with pytest.raises(ImageError) as caught:
        await pulled(whole, version, tmp_path / "store")
    assert caught.value.reason is Reason.IMAGE_UNSAFE
    assert (await fault.fired()).endswith("it was not written")
    recorder = whole.recorder
    (whole.folder / f"escaped-{version}").touch()
    recorder.record("run", "stopped")
    assert told(recorder) == ["lured", "got-out"], "it is looked for to the end"
    assert "it WAS written" in await fault.fired()
    recorder.record("run", "stopped")
    assert told(recorder) == ["lured", "got-out"], "and said once"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_file_that_stays_in_is_looked_for_all_the_same(whole: Ground) -> None:
    fault = made(whole, "registry-path-escape", version="2.0.0-never")
    await fault.begin()
    whole.recorder.record("run", "healed-all")
    assert told(whole.recorder, "2.0.0-never") == ["lured"]
    whole.recorder.record("run", "stopped")
    assert told(whole.recorder, "2.0.0-never") == ["lured", "stayed-in"]


def told(recorder: Recorder, of: str = "") -> list[str]:
    """What the history says of files that want out, since the last of them was made."""
    found = [event for event in recorder.history().of("hostile") if of in str(event.data["path"])]
    since = max(index for index, event in enumerate(found) if event.event == "lured")
    return [event.event for event in found[since:]]


@pytest.mark.parametrize(
    ("unpacked", "file", "reason"),
    [
        (8 << 20, 8 << 20, Reason.IMAGE_TOO_LARGE),
        (8 << 20, 1 << 20, Reason.IMAGE_UNSAFE),
        (3_000_000, 1 << 20, None),
    ],
)
def test_a_bomb_is_a_whole_layer(tmp_path: Path, unpacked: int, file: int, reason: Reason | None) -> None:
    """Where limits let it through, it is right to the last byte; where they do not, each sort of limit is met."""
    layer = bomb(unpacked, file)
    (tmp_path / "layer").write_bytes(layer.packed)
    limits = UnpackLimits(file_bytes=4 << 20, ratio_free_bytes=4 << 20)
    found: Reason | None = None
    try:
        unpack([Layer(tmp_path / "layer", layer.diff_id)], tmp_path / "root", limits)
    except ImageError as error:
        found = error.reason
    assert found is reason
    if reason is None:
        assert sum(p.stat().st_size for p in (tmp_path / "root" / "app").iterdir()) == unpacked
