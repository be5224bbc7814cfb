"""The front of the registry: what passes, what it tells, where it stands still, and what it does to requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from chaos.proxies.registry import (
    Answered,
    Corrupted,
    Handle,
    RegistryFront,
    Request,
    Rule,
    Slowed,
    Stalled,
    Truncated,
    WrongLength,
    expired_certificate,
)
from chaos.proxies.registry.heads import about
from chaos.proxies.registry.pulls import Pulls
from reference.core.errors import Reason, RegistryError
from reference.engine import Engine
from reference.oci.digests import sha256_of
from reference.oci.manifests import OCI_MANIFEST
from reference.pki.authority import DevelopmentCA
from reference.stack import free_port
from tests.chaos.proxies.registry_bench import (
    NAME,
    SOON_S,
    RegistryBench,
    Shelf,
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


def client_of(bench: RegistryBench, host: str | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://{host or bench.front.host}", auth=bench.login, trust_env=False, timeout=SOON_S
    )


def seen_by(front: RegistryFront) -> list[Request]:
    found: list[Request] = []
    front.listen(found.append)
    return found


def hit(handle: Handle) -> bool:
    return handle.hits > 0


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


async def push_by_hand(client: httpx.AsyncClient, data: bytes, *, in_pieces: bool) -> None:
    """A manifest with `data` as its layer, tagged `t`; the registry's own Locations are followed as they are."""
    config = b"{}"
    for blob in (data, config):
        begun = await client.post("/v2/a/b/blobs/uploads/")
        where = client.base_url.join(begun.headers["Location"])
        assert where.netloc == client.base_url.netloc, "it leads back to the front"
        if in_pieces:

            async def pieces(of: bytes) -> AsyncIterator[bytes]:
                for start in range(0, len(of), 70_000):
                    yield of[start : start + 70_000]

            sent = await client.patch(where, content=pieces(blob))  # chunked, as an engine pushes
            assert sent.status_code == 202, sent.text
            where = client.base_url.join(sent.headers["Location"])
            done = await client.put(where.copy_merge_params({"digest": sha256_of(blob)}))
        else:
            done = await client.put(where.copy_merge_params({"digest": sha256_of(blob)}), content=blob)
        assert done.status_code == 201, done.text
    described = [
        {"mediaType": kind, "digest": sha256_of(blob), "size": len(blob)}
        for kind, blob in (
            ("application/vnd.oci.image.config.v1+json", config),
            ("application/vnd.oci.image.layer.v1.tar", data),
        )
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described[0],
        "layers": described[1:],
    }
    done = await client.put(
        "/v2/a/b/manifests/t", content=json.dumps(manifest), headers={"Content-Type": OCI_MANIFEST}
    )
    assert done.status_code == 201, done.text


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


# ---- rules


async def test_a_rule_counts_and_ends(bench: RegistryBench) -> None:
    handle = bench.front.add(
        Rule(Answered(429, "TOOMANYREQUESTS", "no", (("Retry-After", "3"),)), "manifest", count=2)
    )
    path = f"/v2/{NAME}/manifests/2.0.0"
    async with client_of(bench) as client:
        answers = [await client.get(path) for _ in range(3)]
        assert [a.status_code for a in answers] == [429, 429, 200]
        assert (handle.hits, dict(handle.kinds)) == (2, {"manifest": 2})
        assert answers[0].headers["Retry-After"] == "3"
        assert answers[0].json()["errors"][0]["code"] == "TOOMANYREQUESTS"
        endless = bench.front.add(Rule(Answered(500, "UNKNOWN", "no"), "manifest"))
        head = await client.head(path)
        assert (head.status_code, head.content) == (500, b"")
        bench.front.remove(endless)
        bench.front.remove(endless)
        assert (await client.get(path)).status_code == 200


async def test_a_rule_is_for_what_it_names(bench: RegistryBench) -> None:
    no = Answered(500, "UNKNOWN", "no")
    others = [
        Rule(no, repository="elsewhere"), Rule(no, "manifest", reference="1.0.0"), Rule(no, "layer", "elsewhere"),
        Rule(no, "blob", reference="sha256:" + "0" * 64), Rule(no, share=0.0),
    ]  # fmt: skip
    handles = [bench.front.add(rule) for rule in others]
    await bench.pull()
    assert [handle.hits for handle in handles] == [0] * len(handles)


async def test_a_share_is_drawn_from_the_seed(bench: RegistryBench) -> None:
    async def drawn(seed: int) -> list[int]:
        rule = Rule(Answered(500, "UNKNOWN", "no"), share=0.5, chance=random.Random(seed))
        handle = bench.front.add(rule)
        async with client_of(bench) as client:
            found = [(await client.get(f"/v2/{NAME}/manifests/2.0.0")).status_code for _ in range(12)]
        bench.front.remove(handle)
        assert handle.hits == found.count(500)
        return found

    first = await drawn(3)
    assert first == await drawn(3)
    assert set(first) == {200, 500}


async def test_what_is_done_to_a_body(bench: RegistryBench) -> None:
    path, size = f"/v2/{NAME}/blobs/{bench.layer}", bench.layer_size
    good = bench.layout.blob(bench.layer).read_bytes()
    async with client_of(bench) as client:
        corrupted = bench.front.add(Rule(Corrupted(), "blob"))
        bad = (await client.get(path)).content
        assert next(a ^ b for a, b in zip(good, bad, strict=True) if a != b).bit_count() == 1
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == corrupted.bytes == 1
        bench.front.remove(corrupted)
        short = bench.front.add(Rule(WrongLength(0.5), "blob"))
        said = await client.get(path)
        assert said.content == good[: round(size / 2)]
        assert short.bytes == size - round(size / 2)
        bench.front.remove(short)
        for act in (WrongLength(2.0), Truncated(0.5)):
            handle = bench.front.add(Rule(act, "blob"))
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(path)
            assert handle.hits == 1
            bench.front.remove(handle)
        assert (await client.get(path)).content == good


async def test_a_stall_and_slowness_end_with_their_rule(bench: RegistryBench) -> None:
    path = f"/v2/{NAME}/blobs/{bench.layer}"
    good = bench.layout.blob(bench.layer).read_bytes()
    async with client_of(bench) as client, asyncio.timeout(3 * SOON_S):
        for act in (Stalled(0.5), Slowed(1_000)):
            handle = bench.front.add(Rule(act, "blob"))
            asked = asyncio.ensure_future(client.get(path))
            await until(partial(hit, handle))
            assert not asked.done()
            bench.front.remove(handle)
            assert (await asked).content == good
            assert 0 < handle.bytes < len(good)
            assert handle.waited_s > 0


async def test_stopping_ends_what_stands_still(bench: RegistryBench) -> None:
    handle = bench.front.add(Rule(Stalled(), "layer"))
    pull = asyncio.ensure_future(bench.pull())
    async with asyncio.timeout(SOON_S):
        await until(partial(hit, handle))
        await bench.front.stop()
        await bench.front.stop()
        with pytest.raises(RegistryError):
            await pull


# ---- TLS


async def test_the_certificate_is_exchanged_for_new_connections(tmp_path: Path, on_shelf: Shelf) -> None:
    authority = DevelopmentCA.open_or_create(tmp_path / "ca")
    files = authority.issue_server("registry")
    async with registry_bench(tmp_path, on_shelf, files) as bench:
        await bench.pull(ca=files.ca)
        bench.front.present(expired_certificate(tmp_path / "ca", tmp_path / "expired"))
        with pytest.raises(RegistryError) as caught:
            await bench.pull(ca=files.ca)
        assert caught.value.reason is Reason.REGISTRY_UNREACHABLE
        assert "expired" in str(caught.value)
        await until(lambda: len(bench.front.handshakes_broken) == 1)
        bench.front.present(files)
        await bench.pull(ca=files.ca)
        context = ssl.create_default_context(cafile=str(files.ca))
        async with httpx.AsyncClient(
            base_url=f"https://{bench.front.host}", verify=context, trust_env=False,
            auth=("publisher", bench.stack.registry().push_password),
        ) as client:  # fmt: skip
            await push_by_hand(client, random.Random(9).randbytes(90_000), in_pieces=True)


# ---- HTTP


def test_what_a_request_is_about() -> None:
    digest = "sha256:" + "a" * 64
    assert about("/v2/") == about("/v2") == ("ping", "", "")
    assert about("/v2/a/b/manifests/1.0") == ("manifest", "a/b", "1.0")
    assert about(f"/v2/a/blobs/{digest}") == ("blob", "a", digest)
    assert about("/v2/a/blobs/uploads/") == about("/v2/a/blobs/uploads/1-2") == ("other", "", "")
    assert about("/token") == ("token", "", "")


async def test_what_is_no_http_is_let_go(bench: RegistryBench) -> None:
    for said in (b"\x16\x03\x01", b"what?\r\n\r\n", b"GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n", b"x" * 100_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.front.port)
        with contextlib.suppress(OSError):
            writer.write(said)
            writer.write_eof()
            async with asyncio.timeout(SOON_S):
                await reader.read()
        writer.close()
    await bench.pull()


async def test_an_answer_in_chunks_keeps_its_content() -> None:
    """From a registry that does not say how long a manifest is; one that breaks off is not made to look whole."""
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\na: b\r\n\r\n"
    answers = iter([whole, whole[:-18]])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        await writer.drain()
        writer.close()

    server, front = await asyncio.start_server(answer, "127.0.0.1", 0), RegistryFront()
    await front.start(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with httpx.AsyncClient(base_url=f"http://{front.host}", trust_env=False) as client:
            assert (await client.get("/v2/a/manifests/b")).content == b"hello world"
            with pytest.raises(httpx.TransportError):
                await client.get("/v2/a/manifests/b")
    finally:
        await front.stop()
        server.close()
