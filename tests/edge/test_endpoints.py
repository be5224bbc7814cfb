"""What a running agent shows on loopback: nothing can be changed or held up, and the numbers are what happened."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest

from reference.core import delivery
from reference.core.errors import DeviceError, Reason, RegistryError
from reference.core.update import UpdateRecord
from reference.edge import http
from reference.edge.conversation import Conversation
from reference.edge.http import Response, Server
from reference.edge.main import shown
from tests.edge.bench import Bench, benched, command, installed


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        bench.settings.run_dir.mkdir()
        bench.settings.state_dir.mkdir()
        bench.settings = bench.settings.model_copy(update={"status_port": 0})
        yield bench


def talk(*, connected: bool = True) -> Conversation:
    return cast(Conversation, SimpleNamespace(connected=connected))


def done(bench: Bench, generation: int) -> bool:
    """Whether that command has come to its end."""
    record = bench.record
    return record.floor == generation and record.job is None and record.queued is None


class Onlooker:
    """Of a bench's agent."""

    def __init__(self, port: int | None) -> None:
        assert port is not None
        self.port = port

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.port}{path}")

    async def number(self, name: str) -> float:
        """One sample of the metrics; 0 when it is not there."""
        for line in (await self.get("/metrics")).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0


async def test_a_whole_update_is_counted(bench: Bench) -> None:
    agent = bench.open(UpdateRecord(epoch="e", floor=0))
    received = 0
    async with shown(bench.settings, agent, bench.journal, talk(), lambda: received) as port:
        onlooker = Onlooker(port)
        answer = await onlooker.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]["engine"]) == (503, False)
        running = asyncio.create_task(agent.run())
        try:
            await bench.until(lambda: agent.has_looked)
            assert (await onlooker.get("/healthz")).text == "ok\n"
            assert (await onlooker.get("/readyz")).json() == {
                "ready": True,
                "checks": {"engine": True, "broker": True, "floor": True},
            }
            bench.order(command(1))
            await bench.until(lambda: done(bench, 1))
            received = 1234
            assert await onlooker.number('blackstart_edge_jobs_total{outcome="succeeded",reason=""}') == 1
            assert await onlooker.number('blackstart_edge_phase{phase="idle"}') == 1
            assert await onlooker.number("blackstart_edge_journal_writes_total") > 5
            assert await onlooker.number("blackstart_edge_pull_bytes_total") == 1234
            assert await onlooker.number("blackstart_edge_pull_bytes_total") == 1234
            assert await onlooker.number("blackstart_edge_broker_connected") == 1
            bench.order(command(2))
            await bench.until(lambda: done(bench, 2))
            assert await onlooker.number("blackstart_edge_downtime_seconds_count") >= 1
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_current_that_was_given_up_is_counted_once(bench: Bench) -> None:
    agent = bench.open(UpdateRecord(epoch="e", floor=1, current=installed(1)))
    async with shown(bench.settings, agent, bench.journal, talk(), int) as port:
        failed = replace(bench.record, reason=Reason.CURRENT_FAILED, duty=True)
        await agent.take_record(failed)
        await agent.take_record(replace(failed, attempts=1))
        assert await Onlooker(port).number("blackstart_edge_current_failed_total") == 1


async def test_the_last_error_is_named(bench: Bench) -> None:
    agent = bench.open(UpdateRecord(epoch="e", floor=0))
    async with shown(bench.settings, agent, bench.journal, talk(), int) as port:
        onlooker = Onlooker(port)
        for reason in (Reason.PULL_STALLED, Reason.PULL_CORRUPT):
            for watching in agent.onlookers:
                watching.failed(RegistryError("x", reason=reason))
        text = (await onlooker.get("/metrics")).text
        assert 'last_error_timestamp_seconds{reason="pull_corrupt"}' in text
        assert 'last_error_timestamp_seconds{reason="pull_stalled"}' not in text
        assert await onlooker.number('blackstart_edge_errors_total{reason="pull_stalled"}') == 1


async def test_not_ready_says_why(bench: Bench) -> None:
    agent = bench.open(UpdateRecord(epoch="e"))
    async with shown(bench.settings, agent, bench.journal, talk(connected=False), int) as port:
        answer = await Onlooker(port).get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"engine": False, "broker": False, "floor": False}


async def test_what_is_for_the_owner_alone_is_not_on_loopback(bench: Bench) -> None:
    agent = bench.open(UpdateRecord(epoch="e", floor=0))
    async with shown(bench.settings, agent, bench.journal, talk(), int) as port:
        for path in ("/status", "/journal", "/", "/healthz/", "/../status"):
            assert (await Onlooker(port).get(path)).status_code == 404


async def test_a_port_that_is_taken_does_not_stop_the_updater(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    agent = bench.open(UpdateRecord(epoch="e", floor=0))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = bench.settings.model_copy(update={"status_port": other.getsockname()[1]})
        async with shown(settings, agent, bench.journal, talk(), int) as port:
            assert port is None
    assert "nobody can look on" in caplog.text


async def test_the_ballast_is_made_and_kept(bench: Bench) -> None:
    agent = bench.open(UpdateRecord(epoch="e", floor=0))
    settings = bench.settings.model_copy(update={"ballast_bytes": 4096})
    async with shown(settings, agent, bench.journal, talk(), int) as port:
        await bench.until(lambda: (settings.state_dir / "ballast").exists())
        assert await Onlooker(port).number("blackstart_edge_ballast_held") == 1
    assert (settings.state_dir / "ballast").stat().st_size == 4096


async def test_an_order_that_is_adopted_twice_is_one_job(bench: Bench) -> None:
    """A replay or a reminder writes the journal, and ends no second job."""
    agent = bench.start(UpdateRecord(epoch="e", floor=1, current=installed(1)))
    async with shown(bench.settings, agent, bench.journal, talk(), int) as port:
        bench.order(command(2))
        await bench.until(lambda: done(bench, 2))
        agent.change(delivery.remind(agent.memory))
        text = (await Onlooker(port).get("/metrics")).text
        ended = [line for line in text.splitlines() if line.startswith("blackstart_edge_jobs_total{")]
        assert sum(float(line.split()[-1]) for line in ended) == 1


# ---- the server itself


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    def broken() -> Response:
        raise ZeroDivisionError

    def named() -> Response:
        raise DeviceError("it is so", reason=Reason.DISK_FULL)

    routes = {"/": lambda: Response(b"here\n"), "/broken": broken, "/named": named}
    server = Server(routes)
    try:
        yield server
    finally:
        await server.close()


async def said(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /?a=b HTTP/1.0\r\n\r\n", 200),
        (b"HEAD / HTTP/1.1\r\n\r\n", 200),
        (b"GET /absent HTTP/1.1\r\n\r\n", 404),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 405),
        (b"DELETE / HTTP/1.1\r\n\r\n", 405),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500),
        (b"GET /named HTTP/1.1\r\n\r\n", 503),
        (b"GET //[ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_requests(server: Server, request_: bytes, status: int) -> None:
    answer = await said(await server.listen(0), request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"Traceback" not in answer
    if request_.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n")


async def test_who_says_nothing_is_sent_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", 0.1)
    assert await said(await server.listen(0), b"GET / HT") == b""


async def test_only_so_many_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    port = await server.listen(0)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    async with asyncio.timeout(5):
        while server._open < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    with contextlib.suppress(ConnectionResetError):
        assert await said(port, b"GET / HTTP/1.1\r\n\r\n") == b""
    for _, writer in idle:
        writer.close()
    async with asyncio.timeout(5):
        while server._open:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert b" 200 " in await said(port, b"GET / HTTP/1.1\r\n\r\n")
