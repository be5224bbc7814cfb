"""Events over the API: what is told, page by page and as a stream, after a break, and to whom it is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection
from uvicorn.lifespan.off import LifespanOff

from reference.core.job import JobStatus
from reference.core.limits import ServiceLimits
from reference.core.model import Image
from reference.service import eventlog
from reference.service.auth import Authenticator, AuthError, Principal, Role
from reference.service.eventlog import EventType
from reference.service.events import EventStream, Hub, event_number, frame
from reference.service.server import listen, make_server
from reference.service.store import Store
from tests.service.answers import problem
from tests.service.harness import DIGEST, PATIENCE_S, SLOW, Device, Service, running, succeeded

ONE_DATABASE = ("test_parameters_that_cannot_be",)

EVENTS = "/api/v1/events"


async def _page(service: Service, query: str = "after=0", **more: Any) -> dict[str, Any]:
    answer = await service.get(f"{EVENTS}?{query}", **more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def _types(service: Service, query: str = "after=0", **more: Any) -> list[str]:
    return [event["type"] for event in (await _page(service, query, **more))["items"]]


# ---- what is told, page by page


async def test_an_update_is_told_from_order_to_end(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    headers = service.headers() | {"X-Correlation-ID": "order-4711"}
    body = {"targetVersion": "2.0"}
    job = (await service.http.post("/api/v1/clients/press-1/update", json=body, headers=headers)).json()[
        "jobId"
    ]
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    device.running = Image("localhost:5000/opc", DIGEST, "2.0")
    await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
    await service.post("/api/v1/versions/2.0/withdraw")
    await service.post("/api/v1/versions/2.0/withdraw")
    await service.post("/api/v1/versions/2.0/restore")
    page = await _page(service)
    events = page["items"]
    assert [event["type"] for event in events] == [
        "client.created", "version.created", "client.updated", "job.created", "job.updated", "client.updated",
        "job.updated", "version.withdrawn", "version.restored",
    ], "and nothing for what was only said again"  # fmt: skip
    assert [event["id"] for event in events] == list(range(1, 10))
    assert page["next"] == 9
    ended = events[6]["data"]
    assert (ended["jobId"], ended["status"], ended["downtimeMs"]) == (job, "SUCCEEDED", 17)
    assert ended["correlationId"] == "order-4711"
    assert (events[5]["data"]["clientId"], events[5]["data"]["runningVersion"]) == ("press-1", "2.0")
    assert all(event["at"].endswith("Z") for event in events)
    assert await _types(service, "after=7&limit=1") == ["version.withdrawn"]
    assert await _page(service, "") == {"items": [], "next": 9}, "without a place: from now on"


async def test_what_is_refused_is_not_told(service: Service) -> None:
    await service.prepare()
    await service.order()
    told = await _types(service)
    assert (await service.post("/api/v1/clients/press-1/update", {"targetVersion": "2.0"})).status_code == 409
    assert await _types(service) == told


async def test_another_tenants_events_are_not_there(service: Service) -> None:
    await service.prepare()
    await service.order()
    assert await _page(service, tenant="other") == {"items": [], "next": 0}
    await service.prepare(tenant="other")
    page = await _page(service, tenant="other")
    assert [event["id"] for event in page["items"]] == [1, 2], "each tenant counts for itself"


async def test_waiting_for_the_next_event(service: Service) -> None:
    waiting = asyncio.create_task(_page(service, "waitMs=20000"))
    while not (hub := _hub(service))._waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert hub._readers == {"acme": 1}
    await service.post("/api/v1/clients", {"clientId": "a"}, tenant="other")
    await service.post("/api/v1/clients", {"clientId": "a"})
    async with asyncio.timeout(PATIENCE_S):
        page = await waiting
    assert [event["type"] for event in page["items"]] == ["client.created"]
    assert (hub._waiting, hub._readers) == ({}, {})
    assert (await _page(service, "waitMs=1"))["items"] == []


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=501", "waitMs=25001", "since=1"])
async def test_parameters_that_cannot_be(service: Service, query: str) -> None:
    problem(await service.get(f"{EVENTS}?{query}"), 422, "invalid_input")


async def test_what_is_forgotten_is_said(service: Service) -> None:
    for number in range(6):
        await service.post("/api/v1/clients", {"clientId": f"c{number}"})
    assert len(await _types(service)) == 6
    assert await service.store.write(lambda c: eventlog.forget(c, 2, 0)) == 4
    (reset,) = (await _page(service, "after=2"))["items"]
    assert (reset["type"], reset["id"], reset["data"]) == ("reset", 6, {"oldest": 5, "newest": 6})
    assert (await _page(service, "after=6"))["items"] == [], "and goes on from there"
    assert len(await _types(service, "after=4")) == 2
    assert len(await _types(service, "after=0")) == 2, "0 asks for what there is"
    assert await _types(service, "after=99") == ["reset"], "of a database that is not this one any more"
    # All of it may go: the numbers go on.
    assert await service.store.write(lambda c: eventlog.forget(c, 10, 2**60)) == 2
    await service.post("/api/v1/clients", {"clientId": "new"})
    assert [event["id"] for event in (await _page(service, "after=6"))["items"]] == [7]


async def test_a_clock_that_was_set_back_for_a_while_forgets_nothing_young(service: Service) -> None:
    now_ms = 10**12

    def happened(at_ms: int) -> Callable[[Connection], None]:
        data = {"version": "1"}
        return lambda c: eventlog.add(c, "acme", EventType.VERSION_CREATED, data, at_ms)

    for at_ms in (5, now_ms, 7, now_ms + 1):  # the third: the machine had started without the time
        await service.store.write(happened(at_ms))
    await _hub(service).last("acme")
    assert await service.store.write(lambda c: eventlog.forget(c, 10, now_ms)) == 1
    assert [event["id"] for event in (await _page(service, "after=1"))["items"]] == [2, 3, 4]


async def test_sweeping(tmp_path: Path) -> None:
    async with running(tmp_path, limits=replace(SLOW, events_kept=3)) as service:
        for number in range(5):
            await service.post("/api/v1/clients", {"clientId": f"c{number}"})
        await _hub(service).sweep()
        assert len(await _types(service)) == 3


# ---- numbers


async def test_numbers_rise_with_the_commits(service: Service) -> None:
    """Whoever reads while many write sees every event once, in one order, and none later below what was seen."""
    writers, each, seen = 8, 10, list[int]()

    async def write(writer: int) -> None:
        for number in range(each):

            def work(connection: Connection, number: int = number) -> None:
                eventlog.add(connection, "t", EventType.JOB_UPDATED, {"n": number, "w": writer}, 1)

            await service.store.write(work)

    async def read() -> None:
        hub, after = Hub(service.store, SLOW, lambda: 0), 0
        while len(seen) < writers * each:
            for event in await hub.read("t", after, 7):
                assert event.id == after + 1
                after = event.id
                seen.append(event.id)

    async with asyncio.timeout(4 * PATIENCE_S):
        readers = [asyncio.create_task(_hub(service).read("t", 0)) for _ in range(5)]
        await asyncio.gather(read(), *(write(writer) for writer in range(writers)), *readers)
    found = await service.store.read(lambda c: eventlog.list_after(c, "t", 0, 1000))
    assert [event.id for event in found] == list(range(1, writers * each + 1))
    for writer in range(writers):
        own = [json.loads(event.data)["n"] for event in found if json.loads(event.data)["w"] == writer]
        assert own == list(range(each)), "and each writer's in the order in which it committed them"


async def test_a_change_that_is_undone_is_not_told(service: Service) -> None:
    def broken(connection: Connection) -> None:
        eventlog.add(connection, "acme", EventType.JOB_UPDATED, {}, 1)
        raise AuthError("no")

    with pytest.raises(AuthError):
        await service.store.write(broken)
    assert await _page(service) == {"items": [], "next": 0}


# ---- as a stream


@dataclass
class Live:
    """The service behind a real socket."""

    service: Service
    url: str

    @asynccontextmanager
    async def stream(
        self, query: str = "", token: str | None = None, **headers: str
    ) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
        sent = self.service.headers() | {"Accept": "text/event-stream"} | headers
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S) as http,
            http.stream("GET", f"{EVENTS}{query}", headers=sent) as answer,
        ):
            yield answer, answer.aiter_lines()


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    limits = replace(SLOW, streams=2)
    async with running(tmp_path, limits=limits) as service, _listening(service) as url:
        yield Live(service, url)


@asynccontextmanager
async def _listening(service: Service) -> AsyncIterator[str]:
    server = make_server(service.http._transport.app, None)  # type: ignore[attr-defined]
    server.config.lifespan_class = LifespanOff  # the application runs already
    server.config.timeout_graceful_shutdown = 1
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


async def _take(lines: AsyncIterator[str], count: int) -> list[tuple[int, str, dict[str, Any]]]:
    found, event = [], dict[str, str]()
    async with asyncio.timeout(PATIENCE_S):
        async for line in lines:
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
                continue
            if "id" in event:
                found.append((int(event["id"]), event["event"], json.loads(event["data"])))
                if len(found) == count:
                    return found
            event = {}
    raise AssertionError(f"the stream ended after {found}")


async def test_a_stream_tells_as_it_happens_and_goes_on_after_a_break(live: Live) -> None:
    service = live.service
    await service.prepare()
    async with live.stream("?after=0") as (answer, lines):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert "content-length" not in answer.headers
        assert [name for _, name, _ in await _take(lines, 2)] == ["client.created", "version.created"]
        job = await service.order()
        ((number, name, data),) = await _take(lines, 1)
        assert (number, name, data["jobId"]) == (3, "job.created", job)
    await service.post("/api/v1/clients", {"clientId": "meanwhile"})
    await service.post("/api/v1/clients", {"clientId": "foreign"}, tenant="other")
    # The address of the first time, and the place of the last: a browser does so.
    async with live.stream("?after=0", **{"Last-Event-ID": "3"}) as (_, lines):
        ((number, name, data),) = await _take(lines, 1)
        assert (number, name, data) == (4, "client.created", {"clientId": "meanwhile"})
        await service.post("/api/v1/clients", {"clientId": "next"})
        assert [number for number, _, _ in await _take(lines, 1)] == [5]


async def test_a_stream_without_a_place_begins_now(live: Live) -> None:
    await live.service.prepare()
    async with live.stream() as (_, lines):
        async with asyncio.timeout(PATIENCE_S):
            assert await anext(lines) == "retry: 2000"
        await live.service.post("/api/v1/clients", {"clientId": "b"})
        assert [number for number, _, _ in await _take(lines, 1)] == [3]


async def test_a_reader_that_was_away_too_long_is_told_so(live: Live) -> None:
    for number in range(4):
        await live.service.post("/api/v1/clients", {"clientId": f"c{number}"})
    await _hub(live.service).read("acme", 0)
    await live.service.store.write(lambda c: eventlog.forget(c, 1, 0))
    async with live.stream(**{"Last-Event-ID": "1"}) as (_, lines):
        ((number, name, data),) = await _take(lines, 1)
        assert (number, name, data) == (4, "reset", {"oldest": 4, "newest": 4})
        await live.service.post("/api/v1/clients", {"clientId": "on"})
        assert [number for number, _, _ in await _take(lines, 1)] == [5]


async def test_a_tenant_has_so_many_streams(live: Live) -> None:
    async with live.stream() as (_, first), live.stream() as (_, second):
        await anext(first)
        await anext(second)
        async with live.stream() as (answer, _):
            await answer.aread()
            problem(answer, 429, "too_many_streams")
        other = live.service.issuer.issue("other", Role.VIEWER)
        async with live.stream(token=other) as (answer, _):
            assert answer.status_code == 200, "each tenant has its own"
        problem(await live.service.get(f"{EVENTS}?waitMs=1"), 429, "too_many_streams")
        assert (await live.service.get(f"{EVENTS}?after=0")).status_code == 200
    async with asyncio.timeout(PATIENCE_S):
        while _hub(live.service)._readers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with live.stream() as (answer, _):
        assert answer.status_code == 200, "the places of those who left are free"


async def test_a_stream_is_guarded(live: Live) -> None:
    async with live.stream(token="x") as (answer, _):
        await answer.aread()
        problem(answer, 401, "unauthenticated")
    async with live.stream(**{"Last-Event-ID": "x"}) as (answer, _):
        await answer.aread()
        problem(answer, 422, "invalid_input")


async def test_a_stream_ends_with_its_token(live: Live) -> None:
    _hub(live.service).beat_s = 0.05
    token = live.service.issuer.issue(
        "acme", Role.VIEWER, lifetime_s=-8
    )  # good for the last one or two of its leeway
    async with live.stream(token=token) as (answer, lines):
        assert answer.status_code == 200
        async with asyncio.timeout(PATIENCE_S):
            text = [line async for line in lines if line]
        assert text[0] == "retry: 2000"
        assert ": still here" in text
        assert text[-1] == ": the token is no longer good"


class Good(Authenticator):
    """Lets everyone in."""

    def __init__(self) -> None:
        pass

    async def authenticate(self, authorization: str | None) -> Principal:
        return Principal(authorization or "", "t", Role.VIEWER)


async def test_a_reader_that_takes_nothing_is_dropped(tmp_path: Path) -> None:
    store = await asyncio.to_thread(Store.open, tmp_path / "events.db")
    hub = Hub(store, ServiceLimits(stream_stall_ms=50), lambda: 0)
    hub.start()
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    try:
        async with asyncio.timeout(PATIENCE_S):
            await EventStream(hub, Good(), None, "t", 0)({"type": "http", "path": EVENTS}, receive, send)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        assert hub._readers == {}
    finally:
        await hub.stop()
        await store.close()


def test_a_frame_is_what_the_specification_says() -> None:
    data = json.dumps({"a": "line\nbreak \u2028"})
    assert frame(eventlog.Event(7, "job.updated", data, 1)) == f"id: 7\nevent: job.updated\ndata: {data}\n\n"
    assert [event_number(text) for text in ("12", None, "", "-1", "1.0", "9" * 16, "\u0663")] == [12] + [
        None
    ] * 6


def _hub(service: Service) -> Hub:
    app = service.http._transport.app  # type: ignore[attr-defined]
    hub = app.state.hub
    assert isinstance(hub, Hub)
    return hub
