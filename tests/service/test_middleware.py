"""Around every request: its id, its bounds, and the methods that every address knows."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from uvicorn.lifespan.off import LifespanOff

from reference.service import middleware
from reference.service import server as servers
from reference.service.server import listen, make_server
from reference.support.logging import JsonFormatter
from tests.service.answers import problem
from tests.service.harness import Service

ONE_DATABASE = True
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def _id(service: Service, **headers: str) -> str:
    answer = await service.http.get("/healthz", headers={k.replace("_", "-"): v for k, v in headers.items()})
    return answer.headers["x-correlation-id"]


# ---- the id


async def test_the_callers_id_is_kept_where_it_is_good(service: Service) -> None:
    for good in ("a", "order-4711", "A.b_c-9", "x" * 64):
        assert await _id(service, X_Correlation_ID=good) == good
    made = set()
    for bad in ("", " ", "a b", "x" * 65, "é".encode("latin-1").decode("latin-1"), "a/b", '"', "a,b", "a\tb"):
        answer = await service.http.get("/healthz", headers=[(b"X-Correlation-ID", bad.encode("latin-1"))])
        made.add(answer.headers["x-correlation-id"])
    assert len(made) == 9
    assert all(len(one) == 32 and one.isalnum() for one in made)


async def test_a_trace_is_followed_where_there_is_no_other_id(service: Service) -> None:
    good = f"00-{TRACE}-00f067aa0ba902b7-01"
    assert await _id(service, traceparent=good) == TRACE
    assert await _id(service, traceparent=good, X_Correlation_ID="mine") == "mine"
    assert await _id(service, traceparent=good, X_Correlation_ID="not mine") == TRACE
    for bad in (
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        TRACE,
        f"00-{TRACE}",
    ):
        assert await _id(service, traceparent=bad) not in (TRACE, "0" * 32)


async def test_it_is_in_the_log_and_in_the_problem(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[dict[str, Any]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter("service").format(record)))

    handler, ours = Lines(), logging.getLogger("reference.service")
    ours.addHandler(handler)
    caplog.set_level(logging.INFO, "reference.service")
    try:
        ids = [f"id-{number}" for number in range(5)]
        answers = await asyncio.gather(
            *(service.http.get(f"/api/v1/{one}", headers={"X-Correlation-ID": one}) for one in ids)
        )
    finally:
        ours.removeHandler(handler)
    assert [problem(answer, 404, "not_found")["correlationId"] for answer in answers] == ids
    requests = [line for line in lines if line["message"] == "request"]
    assert sorted(line["correlation"] for line in requests) == ids
    assert {line["status"] for line in requests} == {404}
    assert all("Bearer" not in json.dumps(line) for line in lines)


# ---- methods


async def test_head_is_get_without_a_body(service: Service) -> None:
    for path in ("/healthz", "/metrics", "/api/v1/clients", "/api/v1/openapi.json"):
        got = await service.get(path)
        head = await service.http.head(path, headers=service.headers())
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
    assert (await service.http.head("/api/v1/clients")).status_code == 401
    assert (await service.http.head("/api/v1/jobs/x/cancel", headers=service.headers())).status_code == 405


async def test_options_and_what_is_not_possible_name_what_is(service: Service) -> None:
    for path, expected in (("/healthz", "GET, HEAD, OPTIONS"), ("/api/v1/versions", "GET, HEAD, OPTIONS, POST"),
                           ("/api/v1/jobs/x/cancel", "OPTIONS, POST")):  # fmt: skip
        answer = await service.http.options(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, expected, b"")
        for method in ("PUT", "TRACE", "BREW"):
            wrong = await service.http.request(method, path)
            problem(wrong, 405, "invalid_input")
            assert wrong.headers["allow"] == expected, "all of them, not one route's"
    problem(await service.http.options("/api/v1/nothing"), 404, "not_found")
    unknown = 'blackstart_http_requests_total{method="other",route='
    assert unknown in (await service.http.get("/metrics")).text
    assert "BREW" not in (await service.http.get("/metrics")).text


# ---- bounds


async def test_an_address_and_headers_that_are_too_long(service: Service) -> None:
    problem(await service.http.get("/healthz?x=" + "x" * 8200), 414, "invalid_input")
    problem(await service.http.get("/healthz?x=" + "x" * 8000), 422, "invalid_input")  # unknown, not too long
    many = {f"X-{number}": "x" for number in range(100)}
    problem(await service.http.get("/healthz", headers=many), 431, "invalid_input")
    problem(await service.http.get("/healthz", headers={"X": "x" * 17_000}), 431, "invalid_input")
    assert (await service.http.get("/healthz", headers={"X": "x" * 15_000})).status_code == 200


async def test_a_body_that_does_not_come(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_S", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(3600)

    answer = await service.http.post("/api/v1/clients", content=slow(), headers=service.headers())
    problem(answer, 408, "invalid_input")
    assert answer.headers["connection"] == "close"


@pytest.fixture
async def port(service: Service) -> AsyncIterator[int]:
    """The service behind a socket."""
    server = make_server(service.http._transport.app, None)  # type: ignore[attr-defined]
    server.config.lifespan_class = LifespanOff  # the application runs already
    with listen("127.0.0.1", 0) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with asyncio.timeout(5):
                while not server.started:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def test_a_body_of_any_size_is_answered_in_words(service: Service, port: int) -> None:
    """Far more than is kept, or was ever drained; the sender reads only once it has sent everything."""
    piece = b"x" * 1_000_000

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield piece

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for _ in range(3):
            answer = await http.post("/api/v1/clients", content=stream(), headers=service.headers())
            problem(answer, 413, "invalid_input")
        assert (await http.get("/healthz")).status_code == 200


async def test_the_answer_comes_before_the_body_has_ended(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        writer.write(b"POST /api/v1/clients HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nxxxx")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        assert b'"status":413' in await reader.readuntil(b"}")
    writer.close()


async def test_headers_that_do_not_come(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "HEADERS_S", 0.2)
    for start in (b"", b"GET /healthz HT"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            writer.write(start)
            for _ in range(3):  # drop by drop does not help
                await asyncio.sleep(0.02)
                writer.write(b"T" if start else b"")
            assert await reader.read() == b""
        writer.close()


async def test_a_connection_is_used_again_and_its_second_request_may_not_hang_either(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        for _ in range(3):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"}}")
        monkeypatch.setattr(servers, "HEADERS_S", 0.1)
        writer.write(b"GET /hea")
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"\r\n" * 10 + b"x y\r\n\r\n",
    ],
)
async def test_what_is_not_http(port: int, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        writer.write(garbage + b"\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["reason"] == "invalid_input"


async def test_a_request_that_could_hide_another_is_refused_and_the_connection_closed(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    hidden = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    async with asyncio.timeout(5):
        writer.write(
            b"POST /api/v1/clients HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(hidden)
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + hidden
        )
        said = await reader.read()
    writer.close()
    assert said.startswith(b"HTTP/1.1 400 ") and said.count(b"HTTP/1.1") == 1
