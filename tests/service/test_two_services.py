"""Two services on one PostgreSQL, and many callers at once: every order once, every number once, and no false alarm."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from reference.core.job import JobStatus
from tests.service.harness import DIGEST, SLOW, Device, FakeLink, Service
from tests.service.harness import running as running
from tests.support.postgres import Postgres

ONE_DATABASE = True
UPDATE, ROLLBACK = "/api/v1/clients/press-1/update", "/api/v1/clients/press-1/rollback"


@asynccontextmanager
async def two(tmp_path: Path, postgres: Postgres) -> AsyncIterator[tuple[Service, Service]]:
    """The second one shares the database and the issuer, and hears no device: its broker is another."""
    url = postgres.create_database()
    other = tmp_path / "second"
    other.mkdir()
    try:
        async with running(tmp_path, database=url, limits=SLOW) as first:
            shutil.copy(tmp_path / "issuer-key.pem", other)
            async with running(other, FakeLink(connected=False), database=url, limits=SLOW) as second:
                yield first, second
    finally:
        postgres.drop_database(url)


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


async def test_what_comes_at_once_to_both_is_done_once(tmp_path: Path, postgres: Postgres) -> None:
    async with two(tmp_path, postgres) as services:
        turns = cycle(services)
        first = services[0]
        await first.prepare()
        body = {"targetVersion": "2.0"}
        headers = {**first.headers(), "Idempotency-Key": "k"}
        same = [next(turns).http.post(UPDATE, json=body, headers=headers) for _ in range(20)]
        answers = list(await asyncio.gather(*same))
        assert statuses(answers) == {202: 20}
        assert len({answer.json()["jobId"] for answer in answers}) == 1
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
        again = [next(turns).post(UPDATE, body) for _ in range(10)]
        assert statuses(list(await asyncio.gather(*again))) == {409: 10}
        known = [next(turns).post("/api/v1/clients", {"clientId": "new"}) for _ in range(10)]
        answers = list(await asyncio.gather(*known))
        assert statuses(answers) == {201: 1, 200: 9}
        assert sum(answer.json()["registrationToken"] is not None for answer in answers) == 1
        version = {"version": "3", "repository": "localhost:5000/opc", "digest": DIGEST}
        made = [next(turns).post("/api/v1/versions", version) for _ in range(10)]
        assert statuses(list(await asyncio.gather(*made))) == {201: 1, 200: 9}


async def test_a_storm_on_one_client_is_no_outage(
    tmp_path: Path, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(tmp_path, postgres) as services:
        turns = cycle(services)
        first = services[0]
        await first.prepare()
        device = Device(first.link)
        await device.birth()
        body = {"targetVersion": "2.0"}
        orders = [next(turns).post(f"{UPDATE}?supersede=true", body) for _ in range(30)]
        answers = list(await asyncio.gather(*orders))
        assert statuses(answers) == {202: 30}
        jobs = (await first.get("/api/v1/jobs?limit=100")).json()["items"]
        assert sorted(job["generation"] for job in jobs) == list(range(1, 31))
        counting = [job for job in jobs if job["supersededBy"] is None]
        assert [job["generation"] for job in counting] == [30]
        # Cancelled at once by many, while the device takes it: it is asked to stop at most once.
        last = counting[0]["jobId"]
        asked = [next(turns).post(f"/api/v1/jobs/{last}/cancel") for _ in range(10)]
        told = device.tell(device.report(last, 30, JobStatus.IN_PROGRESS))
        await asyncio.gather(told, *asked)
        assert (await first.job(last))["status"] in ("IN_PROGRESS", "CANCELED")
        assert len({cancel.job_id for cancel in await device.cancels(0)}) <= 1
        events = (await first.get("/api/v1/events?after=0&limit=500")).json()["items"]
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        created = [event for event in events if event["type"] == "job.created"]
        assert len(created) == 30
        for service in services:
            database = (await service.http.get("/readyz")).json()
            assert "database: the" not in database.get("detail", ""), database
        assert not [r for r in caplog.records if r.message == "the database is down"]
