"""What the service stands on goes away and comes back; clocks are set; steps take too long."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from reference.core.job import JobStatus
from reference.core.limits import ServiceLimits
from reference.core.model import Image, Phase
from reference.protocol import topics
from reference.protocol.models import StatusMessage
from reference.service import databases, store
from reference.service.clock import Clock, wall_ms
from reference.service.readiness import BROKER, DATABASE, Readiness
from reference.service.spool import NAME, Spool, Spooled
from tests.service.harness import DIGEST, PATIENCE_S, SLOW, Device, FakeLink, Service, running, succeeded
from tests.support.postgres import Postgres

ONE_DATABASE = (
    "test_a_database_that_is_gone_is_said_and_survived",
    "test_a_database_that_hangs_holds_up_nobody_for_ever",
    "test_a_database_that_can_be_read_and_not_written_is_down_until_it_can",
    "test_a_database_that_cannot_be_written_is_noticed_without_anybody_writing",
    "test_the_spool_keeps_each_status_once_within_bounds_and_past_a_torn_line",
    "test_without_a_folder_nothing_is_spooled",
    "test_each_step_has_its_time",
    "test_a_broker_that_is_gone_is_shown",
)


class Hands:
    """Clocks that a test moves."""

    def __init__(self) -> None:
        self.wall_ahead_ms = 0
        self.passed_ms = 0

    def wall(self) -> int:
        return wall_ms() + self.wall_ahead_ms + self.passed_ms

    def elapsed(self) -> int:
        return wall_ms() + self.passed_ms


# ---- the database


async def test_a_database_that_is_gone_is_said_and_survived(
    tmp_path: Path, own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_postgres.create_database(template=None)
    async with running(tmp_path, database=url) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth()
        job = await service.order()
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
        assert (await service.http.get("/readyz")).status_code == 200
        await asyncio.to_thread(own_postgres.kill)
        with caplog.at_level(logging.CRITICAL):
            for _ in range(3):
                answer = await service.post("/api/v1/clients/press-1/update", {"targetVersion": "2.0"})
                assert (answer.status_code, answer.json()["reason"]) == (503, "unavailable")
                assert int(answer.headers["Retry-After"]) >= 1
            device.running = Image("localhost:5000/opc", DIGEST, "2.0")
            await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
            await _until(lambda: (tmp_path / NAME).exists())
            ready = await service.http.get("/readyz")
            assert ready.status_code == 503 and "database" in ready.json()["detail"]
            assert (await service.http.get("/healthz")).status_code == 200
        said = [r.message for r in caplog.records]
        assert said.count("the database is down") == 1, "once, not at every try"
        assert said.count("a message could not be stored and stays with the device") == 1
        await asyncio.to_thread(own_postgres.start)
        # The device need not say it again.
        ended = await _job_becomes(service, job, JobStatus.SUCCEEDED)
        assert ended["outcome"] == "succeeded"
        assert (await service.http.get("/readyz")).status_code == 200
        await _until(lambda: not (tmp_path / NAME).exists())
        replies = await device.replies(3)
        assert replies[-1].acknowledgement is not None and replies[-1].acknowledgement.sequence == 2


async def test_a_database_that_hangs_holds_up_nobody_for_ever(
    tmp_path: Path, own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ANSWER_S", 0.5)
    url = own_postgres.create_database(template=None)
    async with running(tmp_path, database=url) as service:
        await service.prepare()
        with own_postgres.hanging():
            async with asyncio.timeout(PATIENCE_S):
                body = {"targetVersion": "2.0"}
                orders = [service.post("/api/v1/clients/press-1/update", body) for _ in range(20)]
                reads = [service.get("/api/v1/clients") for _ in range(20)]
                answers = await asyncio.gather(*orders, *reads)
                assert {answer.status_code for answer in answers} == {503}
                ready = await service.http.get("/readyz")
            assert ready.status_code == 503 and "no answer" in ready.json()["checks"]["database"]
        await _ready(service, 200)
        assert (await service.get("/api/v1/clients")).status_code == 200


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Another process writes the file (SQLite) and does not end its transaction: it can be read all the time."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


async def test_a_database_that_can_be_read_and_not_written_is_down_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_MS", 200)
    async with running(tmp_path, database=f"sqlite:///{tmp_path / 'service.db'}") as service:
        await service.prepare()
        with _locked(tmp_path / "service.db"):
            began_s = time.monotonic()
            body = {"targetVersion": "2.0"}
            orders = [service.post("/api/v1/clients/press-1/update", body) for _ in range(150)]
            answers = await asyncio.gather(*orders)
            assert {answer.status_code for answer in answers} == {503}
            assert time.monotonic() - began_s < PATIENCE_S, "each waited for the same lock in its turn"
            for _ in range(30):
                assert (await service.get("/api/v1/clients")).status_code == 200
                ready = await service.http.get("/readyz")
                assert ready.status_code == 503 and "locked" in ready.json()["checks"]["database"]
                await asyncio.sleep(0.01)
        # Nobody writes anything: the service looks by itself.
        await _ready(service, 200)
        assert await service.order()


async def test_a_database_that_cannot_be_written_is_noticed_without_anybody_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_MS", 50)
    async with running(tmp_path, database=f"sqlite:///{tmp_path / 'service.db'}", probe_s=0.1) as service:
        with _locked(tmp_path / "service.db"):
            await _ready(service, 503)
        await _ready(service, 200)


async def test_what_was_spooled_outlives_the_service(
    tmp_path: Path, service: Service, device: Device
) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    report = device.report(job, 1, JobStatus.SUCCEEDED, **succeeded())
    message = StatusMessage.from_core(report, device.epoch, device.running, at_ms=0)
    assert Spool(tmp_path, 10).keep(Spooled(topics.status("acme", device.client), message.to_bytes()))
    async with running(tmp_path) as second:
        await _job_becomes(second, job, JobStatus.SUCCEEDED)
    async with asyncio.timeout(PATIENCE_S):
        while (tmp_path / NAME).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_the_spool_keeps_each_status_once_within_bounds_and_past_a_torn_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 3)
    messages = [Spooled("tenants/a/clients/b/status", bytes([n])) for n in range(5)]
    assert [spool.keep(m) for m in [messages[0], *messages]] == [True, True, True, True, False, False]
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"topic": "tenants/a/cli')  # the power went
    again = Spool(tmp_path, 10)
    assert again.waiting() == messages[:3]
    assert again.keep(messages[3])
    assert Spool(tmp_path, 10).waiting() == messages[:4]
    assert ((tmp_path / NAME).stat().st_mode & 0o777) == 0o600
    again.forget(messages[:2])
    assert (tmp_path / NAME).exists() and len(again) == 2
    again.forget(messages)
    assert not (tmp_path / NAME).exists()


def test_without_a_folder_nothing_is_spooled(tmp_path: Path) -> None:
    assert not Spool(None, 3).keep(Spooled("t", b""))
    assert not Spool(tmp_path / "absent", 3).keep(Spooled("t", b""))


# ---- the broker


async def test_a_broker_that_is_gone_is_shown(tmp_path: Path) -> None:
    async with running(tmp_path, FakeLink(connected=False)) as service:
        ready = await service.http.get("/readyz")
        assert ready.status_code == 503 and "broker" in ready.json()["detail"]
        service.link.connect()
        await _ready(service, 200)
        service.link.disconnect()
        await _ready(service, 503)
        assert (await service.http.get("/healthz")).status_code == 200


def test_an_outage_is_logged_when_it_begins_now_and_then_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hands = Hands()
    readiness = Readiness(hands.wall, 60_000, hands.elapsed)
    readiness.tell(BROKER, None)
    assert readiness.ready
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            readiness.tell(BROKER, "refused")
            readiness.remind()
        assert [(r.levelname, r.message) for r in caplog.records] == [("CRITICAL", "the broker is down")]
        began_ms = readiness.part(BROKER).since_ms
        hands.passed_ms += 61_000
        hands.wall_ahead_ms -= 3_600_000
        readiness.remind()
        readiness.remind()
        assert [r.message for r in caplog.records][1:] == ["the broker is still down"]
        assert readiness.part(BROKER).since_ms == began_ms and not readiness.ready
        assert readiness.for_ms(BROKER) >= 61_000, "by a clock that nobody sets"
        readiness.tell(BROKER, None)
        assert [r.message for r in caplog.records][2:] == ["the broker is back"]
    assert readiness.part(DATABASE).ok


# ---- clocks


async def test_a_clock_that_is_set_back_pauses_no_resending(tmp_path: Path) -> None:
    hands = Hands()
    async with running(tmp_path, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        device = Device(service.link)
        await service.prepare()
        await service.order()
        await device.commands(2)
        hands.wall_ahead_ms -= 3_600_000
        sent = len(await device.commands(1))
        await device.commands(sent + 3)


async def test_a_clock_that_was_set_back_between_two_starts_pauses_nothing(tmp_path: Path) -> None:
    hands = Hands()
    limits = ServiceLimits(resend_first_ms=40, resend_limit_ms=80, pulling_deadline_ms=60_000)
    async with running(tmp_path, limits=limits, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        device = Device(service.link)
        await service.prepare()
        await service.post("/api/v1/clients", {"clientId": "press-2"})
        await device.birth()
        running_job = await service.order()
        await device.tell(device.report(running_job, 1, JobStatus.IN_PROGRESS))
        await service.order(client="press-2")
    hands.wall_ahead_ms -= 24 * 3_600_000
    async with running(tmp_path, limits=limits, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        await Device(service.link, client="press-2").commands(3)
        hands.passed_ms += 70_000
        await _job_becomes(service, running_job, JobStatus.TIMED_OUT)


async def test_a_clock_that_is_set_forward_ends_no_job(tmp_path: Path) -> None:
    hands = Hands()
    limits = ServiceLimits(pulling_deadline_ms=60_000)
    async with running(tmp_path, limits=limits, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth()
        job = await service.order()
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
        hands.wall_ahead_ms += 3_600_000
        await device.birth()
        await _looked(service)
        assert (await service.job(job))["status"] == "IN_PROGRESS"
    # Nor between two starts: nobody could have heard the device.
    hands.wall_ahead_ms += 3_600_000
    async with running(tmp_path, limits=limits, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        await _looked(service)
        assert (await service.job(job))["status"] == "IN_PROGRESS"
        hands.passed_ms += 61_000
        await _job_becomes(service, job, JobStatus.TIMED_OUT)


def test_steady_time_starts_with_the_wall_and_goes_its_own_way() -> None:
    hands = Hands()
    clock = Clock(hands.wall, hands.elapsed)
    first = clock.now()
    assert abs(first.wall_ms - first.steady_ms) < 1000
    hands.wall_ahead_ms = -5_000_000
    hands.passed_ms = 7_000
    now = clock.now()
    assert 7_000 <= now.steady_ms - first.steady_ms < 8_000
    assert now.wall_ms < first.wall_ms


# ---- steps that take too long


STEPS = [phase for phase in Phase if phase is not Phase.IDLE]


@pytest.mark.parametrize("phase", STEPS)
async def test_each_step_has_its_time(tmp_path: Path, phase: Phase) -> None:
    hands = Hands()
    limits = ServiceLimits(**{f"{phase.value}_deadline_ms": 10_000})
    async with running(tmp_path, limits=limits, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth()
        job = await service.order()
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS, phase=phase))
        hands.passed_ms += 8_000
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS, phase=phase, message="still at it"))
        hands.passed_ms += 8_000
        await _looked(service)
        assert (await service.job(job))["status"] == "IN_PROGRESS", "each status starts its step's time anew"
        hands.passed_ms += 3_000
        ended = await _job_becomes(service, job, JobStatus.TIMED_OUT)
        assert ended["reason"]["code"] == "deadline_passed"
        assert phase.value in ended["reason"]["message"]


async def test_a_device_that_speaks_for_ever_does_not_keep_a_job_for_ever(tmp_path: Path) -> None:
    hands = Hands()
    limits = ServiceLimits(job_deadline_ms=60_000)
    async with running(tmp_path, limits=limits, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth()
        job = await service.order()
        for _ in range(2):
            await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
            hands.passed_ms += 25_000
        await _looked(service)
        assert (await service.job(job))["status"] == "IN_PROGRESS"
        hands.passed_ms += 15_000
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS, message="still at it"))
        ended = await _job_becomes(service, job, JobStatus.TIMED_OUT)
        assert "60000 ms" in ended["reason"]["message"]


async def test_while_the_broker_is_gone_no_silence_is_counted(tmp_path: Path) -> None:
    hands = Hands()
    limits = ServiceLimits(pulling_deadline_ms=10_000, resend_first_ms=SLOW.resend_first_ms)
    async with running(tmp_path, limits=limits, now_ms=hands.wall, elapsed_ms=hands.elapsed) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth()
        job = await service.order()
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
        service.link.disconnect()
        await _ready(service, 503)
        hands.passed_ms += 100_000
        await _looked(service)
        assert (await service.job(job))["status"] == "IN_PROGRESS"
        service.link.connect()
        await _ready(service, 200)
        hands.passed_ms += 11_000
        await _job_becomes(service, job, JobStatus.TIMED_OUT)


# ---- tools


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _looked(service: Service) -> None:
    """The service has looked at its deadlines at least once since."""
    await asyncio.sleep(0.15)  # look_s is 0.02 there: what would happen has happened
    assert (await service.http.get("/healthz")).status_code == 200


async def _ready(service: Service, status: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await service.http.get("/readyz")).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _job_becomes(service: Service, job: str, status: JobStatus) -> dict[str, Any]:
    return await service.job_becomes(job, status)
