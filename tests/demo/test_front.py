"""The proxy that fails on purpose: it fails where it says, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from reference.demo.front import CORRUPTED, DENIED, HELD, STALLED, Front

BODY = bytes(range(256)) * 2000


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.lower().count(b"connection:") == 1, "the upstream connection ends with its answer"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        await writer.drain()
        writer.close()

    upstream = await asyncio.start_server(answer, "127.0.0.1", 0)
    front = Front()
    await front.start(f"127.0.0.1:{upstream.sockets[0].getsockname()[1]}")
    yield front
    async with asyncio.timeout(5):
        await front.stop()
    upstream.close()


async def _get(front: Front, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        return await client.get(f"http://{front.host}{path}")


@pytest.mark.parametrize(
    "path", ["/v2/opc-client/blobs/sha256:1", f"/v2/{CORRUPTED}/manifests/1", f"/v2/{STALLED}/manifests/1"]
)
async def test_what_is_not_to_fail_passes_unchanged(front: Front, path: str) -> None:
    answer = await _get(front, path)
    assert (answer.status_code, answer.content) == (200, BODY)


async def test_denied(front: Front) -> None:
    answer = await _get(front, f"/v2/{DENIED}/manifests/1")
    assert answer.status_code == 403
    assert answer.json()["errors"][0]["code"] == "DENIED"


async def test_corrupted_is_one_byte_and_the_same_length(front: Front) -> None:
    answer = await _get(front, f"/v2/{CORRUPTED}/blobs/sha256:1")
    assert len(answer.content) == len(BODY)
    assert sum(a != b for a, b in zip(answer.content, BODY, strict=True)) == 1


async def test_stalled_begins_and_never_ends(front: Front) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await _get(front, f"/v2/{STALLED}/blobs/sha256:1")
    await front.stalled_once()


async def test_held_stands_still_until_it_is_let_go_and_then_comes_whole(front: Front) -> None:
    repository = f"{HELD}one"
    getting = asyncio.create_task(_get(front, f"/v2/{repository}/blobs/sha256:1"))
    await front.held_once(repository)
    assert not getting.done()
    front.let_go(repository)
    assert (await getting).content == BODY
    assert (await _get(front, f"/v2/{repository}/blobs/sha256:2")).content == BODY, "it is not held again"
