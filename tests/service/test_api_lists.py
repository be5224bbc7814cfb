"""Lists over the API: filters, order, cursors that lose and double nothing, and parameters that are not known."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, create_engine, insert, select

from reference.core.errors import InputError
from reference.core.job import JobStatus
from reference.service.conversation import wall_ms
from reference.service.paging import Asked, page
from tests.service.answers import problem
from tests.service.harness import Device, FakeLink, Service, running

ONE_DATABASE = ("test_parameters_that_cannot_be",)

ROWS = Table("rows", MetaData(), Column("id", String, primary_key=True), Column("at", Integer))


async def _ids(service: Service, query: str, name: str = "clientId", path: str = "clients") -> list[str]:
    answer = await service.get(f"/api/v1/{path}?{query}")
    assert answer.status_code == 200, answer.text
    return [item[name] for item in answer.json()["items"]]


async def _walk(service: Service, address: str, name: str) -> list[str]:
    """Every page, by the Link header."""
    found: list[str] = []
    for _ in range(50):
        answer = await service.get(address)
        assert answer.status_code == 200, answer.text
        found += [item[name] for item in answer.json()["items"]]
        if answer.json()["nextCursor"] is None:
            assert "link" not in answer.headers
            return found
        link = answer.headers["link"]
        assert link.endswith('>; rel="next"')
        address = link[1:].partition(">")[0]
        assert answer.json()["nextCursor"] in address
    raise AssertionError("no end")


async def test_clients_are_filtered(service: Service, device: Device) -> None:
    for client in ("press-1", "press-2", "qress-3", "mill-1"):
        await service.post("/api/v1/clients", {"clientId": client})
    await service.add_version()
    await device.birth()
    job = await service.order()
    for query, expected in (
        ("presence=online", ["press-1"]),
        ("presence=offline", []),
        ("presence=never", ["qress-3", "mill-1", "press-2"]),
        ("runningVersion=1.0", ["press-1"]),
        ("runningVersion=9", []),
        ("lastJobStatus=QUEUED&lastJobStatus=FAILED", ["press-1"]),
        ("lastJobStatus=FAILED", []),
        ("prefix=press", ["press-1", "press-2"]),
        ("prefix=mill-", ["mill-1"]),
        ("prefix=_", []),
        ("prefix=PRESS", []),
        ("prefix=press&presence=never", ["press-2"]),
    ):
        assert sorted(await _ids(service, query)) == sorted(expected), query
    shown = await service.client()
    assert shown["presence"] == "online"
    assert shown["lastJob"] == {"jobId": job, "status": "QUEUED"}
    await device.tell(device.report(job, 1, JobStatus.FAILED))
    assert (await service.client())["lastJob"]["status"] == "FAILED"
    listed = (await service.get("/api/v1/clients?prefix=press-1")).json()["items"]
    assert listed == [await service.client()], "the same in the list and alone"
    assert (await _ids(service, "sort=-lastSeenAt"))[0] == "press-1"


async def test_presence_is_lost_by_silence(tmp_path: Path) -> None:
    ahead_ms = 0
    async with running(tmp_path, now_ms=lambda: wall_ms() + ahead_ms) as service:
        await service.prepare()
        assert (await service.client())["presence"] == "never"
        await Device(service.link).birth()
        ahead_ms = 170_000
        assert (await service.client())["presence"] == "online"
        ahead_ms = 190_000
        assert (await service.client())["presence"] == "offline"
        assert await _ids(service, "presence=offline") == ["press-1"]


async def test_versions_and_jobs_are_filtered(service: Service) -> None:
    await service.prepare()
    await service.add_version("2.1")
    await service.post("/api/v1/versions/2.1/withdraw")
    assert await _ids(service, "withdrawn=true", "version", "versions") == ["2.1"]
    assert await _ids(service, "withdrawn=false", "version", "versions") == ["2.0"]
    assert await _ids(service, "sort=version", "version", "versions") == ["2.0", "2.1"]
    job = await service.order()
    made = (await service.job(job))["createdAt"]
    later = made[:-1] + "999Z"
    for query, count in (
        ("status=QUEUED&status=IN_PROGRESS", 1), ("status=FAILED&status=REJECTED", 0), ("version=2.0", 1),
        ("version=2.1", 0), (f"createdFrom={made}", 1), (f"createdTo={made}", 0),
        (f"createdFrom={later.replace('999Z', 'Z')}&version=2.0&client=press-1&status=QUEUED", 1),
        ("createdFrom=2999-01-01T00:00:00%2B02:00", 0), ("createdTo=2999-01-01T00:00:00Z", 1), ("sort=updatedAt", 1),
    ):  # fmt: skip
        assert len(await _ids(service, query, "jobId", "jobs")) == count, query


@pytest.mark.parametrize(
    ("path", "query"),
    [("clients", q) for q in (
        "presence=here", "prefix=%00", "prefix=", "lastJobStatus=queued", "runningVersion=%00", "sort=name", "sort=",
        "cursor=x", "cursor=" + "A" * 2000, "cursor=bnVsbA", "cursor=WyJhIiwxLCJhIl0", "limit=0", "cursor=%ff")]
    + [("jobs", q) for q in (
        "client=%00", "client=a/b", "createdFrom=5", "createdFrom=yesterday", "createdFrom=2026-02-30T00:00:00Z",
        "createdFrom=2026-01-01T00:00:00", "version=%20", "sort=clientId", "status=")]
    + [("versions", q) for q in ("withdrawn=2", "sort=createdAt,version")],
)  # fmt: skip
async def test_parameters_that_cannot_be(service: Service, path: str, query: str) -> None:
    problem(await service.get(f"/api/v1/{path}?{query}"), 422, "invalid_input")


async def test_a_parameter_that_is_not_known_is_named_with_those_that_are(service: Service) -> None:
    await service.prepare()
    body = problem(await service.get("/api/v1/jobs?clientId=press-1"), 422, "invalid_input")
    assert body["where"] == "query.clientId"
    for name in ("client", "status", "createdFrom", "cursor"):
        assert name in body["todo"]
    problem(await service.get("/api/v1/jobs/x?a=1"), 422, "invalid_input")
    problem(await service.post("/api/v1/clients/press-1/update?force=1", {}), 422, "invalid_input")
    problem(await service.http.get("/api/v1/jobs?a=1"), 401, "unauthenticated")


async def test_a_cursor_is_good_for_its_own_list_only(service: Service) -> None:
    for number in range(3):
        await service.post("/api/v1/clients", {"clientId": f"c{number}"})
    cursor = (await service.get("/api/v1/clients?limit=1")).json()["nextCursor"]
    for query in ("sort=-clientId", "prefix=c", "sort=createdAt"):
        problem(await service.get(f"/api/v1/clients?{query}&limit=1&cursor={cursor}"), 422, "invalid_input")
    problem(await service.get(f"/api/v1/versions?cursor={cursor}"), 422, "invalid_input")
    # It shows nothing of another tenant's.
    answer = await service.get(f"/api/v1/clients?cursor={cursor}", tenant="other")
    assert answer.json()["items"] == []


@pytest.mark.parametrize("sort", ["clientId", "-clientId", "createdAt", "-createdAt", "lastSeenAt"])
async def test_pages_hold_everything_once(service: Service, sort: str) -> None:
    names = [f"c{number:02}" for number in range(11)]
    await asyncio.gather(*(service.post("/api/v1/clients", {"clientId": name}) for name in names))
    found = await _walk(service, f"/api/v1/clients?limit=3&sort={sort}", "clientId")
    assert sorted(found) == names
    if sort.endswith("clientId"):
        assert found == sorted(names, reverse=sort.startswith("-"))


async def test_pages_while_things_are_made(service: Service) -> None:
    await service.add_version()
    for number in range(8):
        await service.post("/api/v1/clients", {"clientId": f"c{number}"})
    first = [await service.order(client=f"c{number}") for number in range(4)]
    answer = (await service.get("/api/v1/jobs?limit=2")).json()
    seen = [job["jobId"] for job in answer["items"]]
    for number in range(4, 8):
        await service.order(client=f"c{number}")
    seen += await _walk(service, f"/api/v1/jobs?limit=2&cursor={answer['nextCursor']}", "jobId")
    assert len(seen) == len(set(seen))
    assert set(seen) == set(first)


@settings(max_examples=150, deadline=None)
@given(
    before=st.dictionaries(st.text("abcXYZ", min_size=1, max_size=3), st.integers(0, 4), max_size=12),
    during=st.lists(st.tuples(st.text("abcXYZ", min_size=1, max_size=3), st.integers(0, 4)), max_size=12),
    limit=st.integers(1, 4),
    sort=st.sampled_from(["id", "-id", "+id", "At", "-At"]),
)
def test_no_row_is_lost_or_doubled_while_rows_come(
    before: dict[str, int], during: list[tuple[str, int]], limit: int, sort: str
) -> None:
    """Whatever is inserted between pages: each row that was there at first comes once, in order, and none twice."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        ROWS.metadata.create_all(connection)
        if before:
            connection.execute(insert(ROWS), [{"id": k, "at": v} for k, v in before.items()])
        there, seen = dict(before), list[tuple[str, int]]()
        cursor: str | None = None
        sorts = {"id": ROWS.c.id, "At": ROWS.c.at}
        for _ in range(40):
            asked = Asked(sort, limit, cursor)
            found = page(connection, select(ROWS), asked, sorts, ROWS.c.id, lambda row: (row.id, row.at))
            assert len(found.items) <= limit
            seen += found.items
            cursor = found.cursor
            if cursor is None:
                break
            if during:
                name, at = during.pop()
                if name not in there:
                    there[name] = at
                    connection.execute(insert(ROWS).values(id=name, at=at))
        assert cursor is None
        assert len(seen) == len(set(seen))
        assert set(before.items()) <= set(seen) <= set(there.items())
        order = sorted(seen, key=(lambda r: r[0]) if "id" in sort else (lambda r: (r[1], r[0])))
        assert seen == (order[::-1] if sort.startswith("-") else order)
        with pytest.raises(InputError):
            page(connection, select(ROWS), Asked(sort, limit, "WzFd"), sorts, ROWS.c.id, lambda r: r.id)
    engine.dispose()


async def test_a_list_is_one_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    real = Connection.execute

    def counting(self: Connection, statement: Any, *more: Any, **named: Any) -> Any:
        counted.append(str(statement))
        return real(self, statement, *more, **named)

    async with running(tmp_path, FakeLink(connected=False)) as service:
        await service.add_version()
        for number in range(5):
            await service.post("/api/v1/clients", {"clientId": f"c{number}"})
            await service.order(client=f"c{number}")
        monkeypatch.setattr(Connection, "execute", counting)
        for path in ("clients", "jobs", "versions"):
            counted.clear()
            assert (await service.get(f"/api/v1/{path}")).status_code == 200
            lists = [text for text in counted if "_sorted" in text]
            assert len(lists) == 1, counted
            # The conversation may look at its own things meanwhile, but at no single row of these.
            assert not [text for text in counted if text not in lists and f"{path}.tenant = " in text]
