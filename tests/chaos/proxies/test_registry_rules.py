"""What the front of the registry does to requests, its certificates, and what it makes of strange HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from chaos.proxies.registry import (
    Answered,
    Corrupted,
    RegistryFront,
    Rule,
    Slowed,
    Stalled,
    Truncated,
    WrongLength,
    expired_certificate,
)
from chaos.proxies.registry.heads import about
from reference.core.errors import Reason, RegistryError
from reference.pki.authority import DevelopmentCA
from tests.chaos.proxies.registry_bench import (
    NAME,
    SOON_S,
    RegistryBench,
    Shelf,
    client_of,
    hit,
    push_by_hand,
    registry_bench,
    shelf,
    until,
)


@pytest.fixture(scope="module")
def on_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with shelf(tmp_path_factory.mktemp("shelf")) as found:
        yield found


@pytest.fixture
async def bench(tmp_path: Path, on_shelf: Shelf) -> AsyncIterator[RegistryBench]:
    async with registry_bench(tmp_path, on_shelf) as found:
        yield found


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


async def test_each_digest_has_its_own_bit_whichever_comes_first(bench: RegistryBench) -> None:
    digests = [bench.layer, bench.layout.manifest.config.digest]
    found: list[dict[str, bytes]] = []
    async with client_of(bench) as client:
        for order, seed in ((digests, 1), (digests[::-1], 1), (digests, 2)):
            handle = bench.front.add(Rule(Corrupted(seed), "blob"))
            found.append({d: (await client.get(f"/v2/{NAME}/blobs/{d}")).content for d in order})
            bench.front.remove(handle)
    assert found[0] == found[1]
    assert found[0] != found[2]


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
