"""The front of the registry: what passes, what it tells, and where it stands still."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from chaos.proxies.registry import (
    Answered,
    RegistryFront,
    Request,
    Rule,
    Truncated,
)
from chaos.proxies.registry.pulls import Pulls
from reference.core.errors import Reason, RegistryError
from reference.engine import Engine
from reference.oci.digests import sha256_of
from reference.oci.manifests import OCI_MANIFEST
from reference.stack import free_port
from tests.chaos.proxies.registry_bench import (
    NAME,
    SOON_S,
    RegistryBench,
    Shelf,
    client_of,
    push_by_hand,
    registry_bench,
    shelf,
    until,
)

pytest_plugins = ["tests.engine"]


@pytest.fixture(scope="module")
def on_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with shelf(tmp_path_factory.mktemp("shelf")) as found:
        yield found


@pytest.fixture
async def bench(tmp_path: Path, on_shelf: Shelf) -> AsyncIterator[RegistryBench]:
    async with registry_bench(tmp_path, on_shelf) as found:
        yield found


def seen_by(front: RegistryFront) -> list[Request]:
    found: list[Request] = []
    front.listen(found.append)
    return found


# ---- what passes


async def test_a_pull_passes_whole_and_is_told(bench: RegistryBench) -> None:
    seen = seen_by(bench.front)
    root = await bench.pull()
    assert (root / "app" / "noise").stat().st_size == 300_000
    layers = [r for r in seen if r.path.endswith(bench.layer)]
    assert [(r.kind, r.status, r.bytes, r.repository) for r in layers] == [
        ("blob", 200, bench.layer_size, NAME)
    ]
    assert [r.status for r in seen if r.kind == "manifest"] == [200]
    assert bench.front.pulls.progress(NAME) == (bench.layer_size, bench.layer_size)


async def test_answers_are_those_of_the_registry(bench: RegistryBench) -> None:
    paths = [
        "/v2/", f"/v2/{NAME}/manifests/2.0.0", f"/v2/{NAME}/blobs/{bench.layer}", f"/v2/{NAME}/tags/list",
        f"/v2/{NAME}/manifests/none", f"/v2/{NAME}/blobs/sha256:x", "/nowhere?a=b",
    ]  # fmt: skip
    async with client_of(bench) as here, client_of(bench, bench.front.upstream) as there:
        for path in paths:
            for method in ("GET", "HEAD"):
                for more in ({}, {"Range": "bytes=5-9"}):
                    a, b = [await c.request(method, path, headers=more) for c in (here, there)]
                    assert (a.status_code, a.content) == (b.status_code, b.content), (method, path, more)
                    for name in ("content-length", "content-type", "docker-content-digest", "content-range"):
                        assert a.headers.get(name) == b.headers.get(name), (method, path, name)


async def test_a_stranger_is_asked_for_credentials(bench: RegistryBench) -> None:
    async with httpx.AsyncClient(base_url=f"http://{bench.front.host}", trust_env=False) as stranger:
        answer = await stranger.get("/v2/")
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (401, True)


@pytest.fixture
async def distribution(tmp_path: Path) -> AsyncIterator[str]:
    """Debian's docker-registry, open to all: `host:port`."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("distribution: docker-registry is not installed")
    port = free_port()
    (tmp_path / "registry.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {tmp_path / 'blobs'}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n"
    )
    process = await asyncio.create_subprocess_exec(
        program, "serve", str(tmp_path / "registry.yml"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/v2/")
                    break
                await asyncio.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def test_distribution_is_pushed_to_and_pulled_from(distribution: str) -> None:
    data, front = random.Random(7).randbytes(250_000), RegistryFront()
    await front.start(distribution)
    try:
        async with httpx.AsyncClient(base_url=f"http://{front.host}", trust_env=False) as client:
            await push_by_hand(client, data, in_pieces=True)
            await client.get("/v2/a/b/manifests/t", headers={"Accept": OCI_MANIFEST})
            blob = f"/v2/a/b/blobs/{sha256_of(data)}"
            assert (await client.get(blob)).content == data
            part = await client.get(blob, headers={"Range": "bytes=200000-"})
            assert (part.status_code, part.content) == (206, data[200_000:])
            assert front.pulls.progress("a/b") == (len(data), len(data))
    finally:
        await front.stop()


async def test_pushes_pass_whatever_fails(bench: RegistryBench) -> None:
    handle = bench.front.add(Rule(Answered(503, "UNAVAILABLE", "down")))
    publisher = ("publisher", bench.stack.registry().push_password)
    async with httpx.AsyncClient(
        base_url=f"http://{bench.front.host}", auth=publisher, trust_env=False
    ) as client:
        await push_by_hand(client, random.Random(8).randbytes(90_000), in_pieces=False)
    assert handle.hits == 0


async def test_an_engine_pulls_through_it(bench: RegistryBench, engine: Engine) -> None:
    """It tries TLS first, then plain HTTP; and it goes on after a 503 on a layer by itself."""
    handle = bench.front.add(Rule(Answered(503, "UNAVAILABLE", "down"), "layer", count=1))
    client = engine.client()
    name, digest = f"{bench.front.host}/{NAME}", bench.layout.descriptor.digest
    user, password = bench.login
    try:
        login = {"username": user, "password": password}
        lines = await asyncio.to_thread(
            lambda: list(client.api.pull(name, digest, auth_config=login, stream=True, decode=True))
        )
        assert not [line for line in lines if "error" in line], lines
        assert client.images.get(f"{name}@{digest}").attrs["RepoDigests"] == [f"{name}@{digest}"]
        assert handle.hits == 1
    finally:
        with contextlib.suppress(Exception):
            client.api.remove_image(f"{name}@{digest}")
        client.close()


async def test_a_registry_that_is_down_is_not_hidden(bench: RegistryBench) -> None:
    await bench.front.stop()
    await bench.front.start(f"127.0.0.1:{free_port()}")
    seen = seen_by(bench.front)
    with pytest.raises(RegistryError) as caught:
        await bench.pull()
    assert caught.value.reason is Reason.REGISTRY_UNREACHABLE
    assert [r.status for r in seen] == [0]


# ---- standing still


async def test_a_pull_stands_still_at_a_fraction(bench: RegistryBench) -> None:
    gate = await bench.front.hold_at(0.25, NAME)
    pull = asyncio.ensure_future(bench.pull())
    async with asyncio.timeout(SOON_S):
        await gate.reached.wait()
    assert not pull.done()
    done, total = bench.front.pulls.progress(NAME)
    assert (gate.done_bytes, gate.total_bytes) == (done, total) == (-(-total // 4), bench.layer_size)
    gate.release()
    await pull


async def test_a_gate_at_the_end_is_reached_too(bench: RegistryBench) -> None:
    gate = await bench.front.hold_at(1.0)
    pull = asyncio.ensure_future(bench.pull())
    async with asyncio.timeout(SOON_S):
        await gate.reached.wait()
    assert not pull.done()
    gate.release()
    await pull


async def test_a_pull_that_continues_counts_on(bench: RegistryBench) -> None:
    cut = bench.front.add(Rule(Truncated(0.5), "layer", count=1))
    store = bench.folder / "store"
    with pytest.raises(RegistryError):
        await bench.pull(store=store)
    assert cut.hits == 1
    seen, gate = seen_by(bench.front), await bench.front.hold_at(0.75)
    pull = asyncio.ensure_future(bench.pull(store=store))
    async with asyncio.timeout(SOON_S):
        await gate.reached.wait()
    gate.release()
    await pull
    assert [r.range for r in seen if r.path.endswith(bench.layer)] == [f"bytes={bench.layer_size // 2}-"]
    assert gate.done_bytes == -(-bench.layer_size * 3 // 4)


async def test_the_next_device_begins_at_nothing(bench: RegistryBench) -> None:
    await bench.pull()
    gate = await bench.front.hold_at(0.5)
    pull = asyncio.ensure_future(bench.pull())
    async with asyncio.timeout(SOON_S):
        await gate.reached.wait()
    assert gate.done_bytes == -(-bench.layer_size // 2)
    gate.release()
    await pull


async def test_a_manifest_can_stand_still_too(bench: RegistryBench) -> None:
    gate, seen = await bench.front.hold_manifest(), seen_by(bench.front)
    pull = asyncio.ensure_future(bench.pull())
    async with asyncio.timeout(SOON_S):
        await gate.reached.wait()
    assert seen == []
    gate.release()
    await pull


async def test_a_client_that_hangs_up_at_a_gate_is_let_go(bench: RegistryBench) -> None:
    gate, seen = await bench.front.hold_at(0.5), seen_by(bench.front)
    pull = asyncio.ensure_future(bench.pull())
    async with asyncio.timeout(SOON_S):
        await gate.reached.wait()
        pull.cancel()
        await until(lambda: any(r.path.endswith(bench.layer) for r in seen))
    assert seen[-1].bytes == bench.layer_size // 2 + bench.layer_size % 2


async def test_layers_that_images_share_count_once_asked_for() -> None:
    async def stream(pulls: Pulls, digest: str, size: int) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield bytes(size)

        async for _ in pulls.through("r", digest, 0, chunks()):
            pass

    pulls = Pulls()
    pulls.begin("r", "one", {"base": 100, "a": 10})
    await stream(pulls, "base", 100)
    await stream(pulls, "a", 10)
    pulls.begin("r", "two", {"base": 100, "b": 10})
    assert pulls.progress("r") == (0, 10)
    await stream(pulls, "b", 5)
    assert pulls.progress("r") == (5, 10)
    await stream(pulls, "base", 50)
    assert pulls.progress("r") == (55, 110)
