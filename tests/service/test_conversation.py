"""An update seen through: lost, repeated, reordered and stale messages, restarts, deadlines, a failing database."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.limits import ServiceLimits
from reference.core.model import Image
from reference.protocol import topics
from reference.service import records
from reference.service.conversation import wall_ms
from reference.service.spool import NAME
from tests.service.harness import (
    DIGEST,
    OLD_DIGEST,
    PATIENCE_S,
    SLOW,
    Device,
    FakeLink,
    Service,
    rolled_back,
    running,
    succeeded,
)


async def test_an_update_from_order_to_end(service: Service, device: Device) -> None:
    await service.prepare()
    nonce = await device.birth()
    (answer,) = await device.replies(1)
    assert answer.birth is not None
    assert (answer.birth.nonce, answer.birth.journal_epoch, answer.birth.floor) == (nonce, "epoch-1", 0)
    assert (await service.client())["runningDigest"] == OLD_DIGEST

    job = await service.order()
    command = (await device.commands(1))[0]
    assert (command.job_id, command.generation, command.image.digest) == (job, 1, DIGEST)
    assert (command.image.repository, command.image.version) == ("localhost:5000/opc", "2.0")

    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    told = (await device.replies(2))[1].acknowledgement
    assert told is not None
    assert (told.journal_epoch, told.job_id, told.generation, told.sequence) == ("epoch-1", job, 1, 1)
    assert (await service.job(job))["phase"] == "pulling"

    device.running = Image("localhost:5000/opc", DIGEST, "2.0")
    await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
    await device.replies(3)
    ended = await service.job(job)
    assert (ended["status"], ended["outcome"], ended["downtimeMs"]) == ("SUCCEEDED", "succeeded", 17)
    client = await service.client()
    assert (client["runningDigest"], client["runningVersion"], client["generation"]) == (DIGEST, "2.0", 1)
    assert client["lastSeenAt"]
    # And the next one gets the next generation.
    await service.add_version("2.1")
    await service.order("2.1")
    found = await device.commands(1)
    while found[-1].generation == 1:  # sent again, before the device had spoken of it
        found = await device.commands(len(found) + 1)
    assert found[-1].generation == 2


async def test_a_rollback_is_told(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.tell(device.report(job, 1, JobStatus.FAILED, **rolled_back()))
    ended = await service.job(job)
    assert (ended["status"], ended["rolledBack"]) == ("FAILED", True)
    assert ended["reason"] == {"code": "candidate_exited", "message": "exit code 1"}


async def test_a_command_is_sent_again_until_the_device_speaks_of_it(
    service: Service, device: Device
) -> None:
    await service.prepare()
    job = await service.order()
    commands = await device.commands(4)
    assert len(set(commands)) == 1, "the very same message, so that every copy is the same order"
    await device.birth()
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    sent = len(await device.commands(1))
    await device.birth()
    await device.replies(3)
    assert len(await device.commands(1)) == sent


@pytest.mark.parametrize("status", [JobStatus.REJECTED, JobStatus.FAILED, JobStatus.CANCELED])
async def test_any_end_stops_the_sending(service: Service, device: Device, status: JobStatus) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.commands(1)
    await device.tell(device.report(job, 1, status, reason=Reason.HOST_NOT_ALLOWED))
    sent = len(await device.commands(1))
    await device.birth()
    await device.replies(3)
    assert len(await device.commands(1)) == sent
    assert (await service.job(job))["status"] == status.value


async def test_a_birth_brings_what_is_pending_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, limits=SLOW) as service:
        device = Device(service.link)
        await service.prepare()
        await service.order()
        await device.commands(1)
        await device.birth(floor=None)
        await device.commands(2)
        order = [topic.rsplit("/", 1)[-1] for topic, _ in service.link.sent]
        assert order == ["update", "replies", "update"], "the floor first: without it no command is taken"
        answer = (await device.replies(1))[0].birth
        assert answer is not None
        assert answer.floor == 0, "below the command that is on its way"


async def test_between_two_sends_there_is_a_wait_and_a_sent_command_is_not_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path, limits=SLOW) as service:
        device = Device(service.link)
        await service.prepare()
        job = await service.order()
        await device.commands(1)
        answer = await service.post(f"/api/v1/jobs/{job}/cancel")
        assert answer.json()["status"] == "QUEUED", "the device may have it by now: it has to be asked"
        await device.cancels(1)
        for _ in range(30):
            await service.client()
        assert len(await device.commands(1)) == len(await device.cancels(1)) == 1


async def test_the_floor_of_a_new_journal_covers_all_that_was_issued(
    service: Service, device: Device
) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
    await device.birth(floor=None, epoch="epoch-2")
    answer = (await device.replies(3))[-1].birth
    assert answer is not None
    assert (answer.floor, answer.journal_epoch) == (1, "epoch-2")


async def test_a_job_that_ran_in_a_lost_journal_ends_at_once(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    lost = await service.order()
    await device.tell(device.report(lost, 1, JobStatus.IN_PROGRESS))
    await device.birth()
    assert (await service.job(lost))["status"] == "IN_PROGRESS", "it has only connected again"
    await device.birth(floor=None, epoch="epoch-2")
    job = await service.job(lost)
    assert (job["status"], job["reason"]["code"]) == ("FAILED", "journal_corrupt")
    answer = (await device.replies(4))[-1].birth
    assert answer is not None and answer.floor == 1
    following = await service.order()
    assert (await device.command_of(following)).generation == 2, "the client can be updated again"


async def test_a_new_journal_does_not_end_what_it_knows_nor_what_was_never_taken(
    service: Service, device: Device
) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.birth(floor=None, epoch="epoch-2")
    assert (await service.job(job))["status"] == "QUEUED"
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS), epoch="epoch-2")
    await device.birth(floor=1, epoch="epoch-3", open_job_id=job)
    assert (await service.job(job))["status"] == "IN_PROGRESS"


async def test_a_job_that_was_taken_and_never_told_of_ends_with_the_journal_that_took_it(
    service: Service, device: Device
) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.birth(floor=1)
    assert (await service.job(job))["status"] == "QUEUED", (
        "the floor says that it was taken, and no report does"
    )
    await device.birth(floor=None, epoch="epoch-2")
    ended = await service.job(job)
    assert (ended["status"], ended["outcome"], ended["reason"]["code"]) == ("FAILED", None, "journal_corrupt")
    answer = (await device.replies(3))[-1].birth
    assert answer is not None and answer.floor == 1
    following = await service.order()
    assert (await service.job(following))["generation"] == 2
    assert (await device.command_of(following)).generation == 2, "the client can be updated again"


async def test_a_floor_that_comes_with_the_new_journal_says_nothing_of_what_the_old_one_took(
    service: Service, device: Device
) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.birth(floor=1, epoch="epoch-2")
    assert (await service.job(job))["status"] == "QUEUED", "only an earlier birth's floor does"


async def test_a_service_restored_from_a_backup_goes_above_what_the_device_knows(
    service: Service, device: Device
) -> None:
    await service.prepare()
    await device.birth(floor=41)
    await service.order()
    assert (await device.commands(1))[0].generation == 42


async def test_repeated_reordered_and_late_reports_change_nothing(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    first = device.report(job, 1, JobStatus.IN_PROGRESS)
    last = device.report(job, 1, JobStatus.FAILED, **rolled_back())
    await device.tell(last)
    ended = await service.job(job)
    for report in (first, last, first, device.report(job, 1, JobStatus.SUCCEEDED, **succeeded())):
        await device.tell(report)
    assert await service.job(job) == ended
    replies = await device.replies(6)
    assert [r.acknowledgement.sequence for r in replies if r.acknowledgement] == [2, 1, 2, 1, 3], (
        "all acknowledged"
    )


async def test_an_old_report_does_not_say_what_runs_now(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    first = device.report(job, 1, JobStatus.IN_PROGRESS)
    old, device.running = device.running, Image("localhost:5000/opc", DIGEST, "2.0")
    await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
    device.running = old
    await device.tell(first)
    assert (await service.client())["runningVersion"] == "2.0"


async def test_a_replaced_journal_never_speaks_again(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    await device.birth(epoch="epoch-2")
    job = await service.order()
    await device.replies(2)
    await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()), epoch="epoch-1")
    await device.birth(epoch="epoch-1")
    await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()), epoch="epoch-1")
    assert (await service.job(job))["status"] == "QUEUED"
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS), epoch="epoch-2")
    *_, told, acknowledged = await device.replies(4)
    assert told.birth is not None and (told.birth.replaced, told.birth.journal_epoch) == (True, "epoch-1")
    assert told.birth.floor >= 1, "an agent that does not know the word must not take older commands for it"
    assert acknowledged.acknowledgement is not None, "none of the old epoch's reports was"
    assert (await service.job(job))["status"] == "IN_PROGRESS"


async def test_a_report_of_a_job_that_is_not_known_is_acknowledged(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    await device.tell(device.report("restored-away", 7, JobStatus.SUCCEEDED))
    assert (await device.replies(2))[1].acknowledgement is not None


async def test_no_device_speaks_for_another(service: Service, device: Device) -> None:
    await service.prepare()
    await service.post("/api/v1/clients", {"clientId": "press-2"})
    await device.birth()
    job = await service.order()
    other = Device(service.link, client="press-2")
    await other.birth()
    await other.tell(other.report(job, 1, JobStatus.SUCCEEDED))
    foreign = Device(service.link, tenant="other")
    await foreign.birth()
    await foreign.tell(foreign.report(job, 1, JobStatus.SUCCEEDED))
    assert (await service.job(job))["status"] == "QUEUED"
    assert foreign.replied() == 0


@pytest.mark.parametrize(
    ("topic", "payload"),
    [("tenants/acme/clients/press-1/status", b"{"), ("tenants/acme/clients/press-1/birth", b""), ("x", b"{}"),
     ("tenants/acme/clients/press-1/birth", b'{"schemaVersion": 2}'), ("tenants/acme/clients/press-1/replies", b"{}"),
     ("tenants/a.b/clients/press-1/birth", b"{}"), ("tenants/acme/clients/press-1/status", b"\xff" * 70_000)],
)  # fmt: skip
async def test_noise_is_passed_over(service: Service, device: Device, topic: str, payload: bytes) -> None:
    await service.prepare()
    await service.link.bring(topic, payload)
    await device.birth()
    assert len(await device.replies(1)) == 1


# ---- what fails on our own side


async def test_an_order_survives_a_service_that_dies_before_it_is_sent(tmp_path: Path) -> None:
    async with running(tmp_path, FakeLink(connected=False)) as service:
        await service.prepare()
        job = await service.order()
        assert service.link.sent == []
    async with running(tmp_path) as service:
        device = Device(service.link)
        command = (await device.commands(1))[0]
        assert command.job_id == job
        await device.birth()
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    async with running(tmp_path) as service:
        device = Device(service.link, sequence=1)
        assert (await service.job(job))["status"] == "IN_PROGRESS"
        await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
        assert (await service.job(job))["status"] == "SUCCEEDED"
        assert service.link.sent[0][0] == topics.replies("acme", "press-1"), "the command was not sent again"


async def test_a_broker_that_comes_back_gets_what_waited(tmp_path: Path) -> None:
    async with running(tmp_path, limits=SLOW) as service:
        device = Device(service.link)
        await service.prepare()
        await service.order()
        await device.commands(1)
        service.link.disconnect()
        service.link.connect()
        await device.commands(2)


async def test_a_report_that_cannot_be_stored_is_not_acknowledged(
    service: Service,
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.replies(1)
    report = device.report(job, 1, JobStatus.IN_PROGRESS)
    with monkeypatch.context() as broken, caplog.at_level(logging.CRITICAL):
        broken.setattr("reference.service.records.save_job", _disk_full)
        await device.tell(report)
        assert device.replied() == 1
        said = [r.message for r in caplog.records]
        assert "a message could not be stored and stays with the device" in said
        assert len((tmp_path / NAME).read_text().split()) > 0, "and it is on the disk"
        assert (await service.client())["lastSeenAt"], "nothing of it was stored"
        assert (await service.job(job))["status"] == "QUEUED"
    await device.replies(2)
    await service.job_becomes(job, JobStatus.IN_PROGRESS)
    await device.tell(report)
    await device.replies(3)
    await _gone(tmp_path / NAME)


async def _gone(path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)


async def test_a_database_that_fails_for_a_moment_is_tried_again(
    service: Service, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.prepare()
    real, calls = records.find_client, []

    def sometimes(*given: object) -> object:
        calls.append(given)
        return _disk_full() if len(calls) == 1 else real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("reference.service.records.find_client", sometimes)
    await device.birth()
    assert len(await device.replies(1)) == 1
    assert len(calls) == 2


def _disk_full(*_: object, **__: object) -> object:
    from sqlalchemy.exc import OperationalError

    raise OperationalError("INSERT", {}, Exception("database or disk is full"))


async def test_a_defect_with_one_message_stops_no_other(
    service: Service, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.prepare()

    def broken(*_: object) -> object:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("reference.service.ingest.take_birth", broken)
        await device.birth()
    await device.birth()
    assert len(await device.replies(1)) == 1


# ---- deadlines, expiry, cancel


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return wall_ms() + self.ahead_ms


async def test_silence_ends_a_job_and_late_news_is_kept_beside_it(tmp_path: Path) -> None:
    clock = Clock()
    limits = ServiceLimits(pulling_deadline_ms=60_000)
    async with running(tmp_path, limits=limits, now_ms=clock) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth()
        job = await service.order()
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
        clock.ahead_ms += 50_000
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS, message="still here"))
        clock.ahead_ms += 50_000
        await device.birth()
        assert (await service.job(job))["status"] == "IN_PROGRESS", "each report starts the deadline anew"
        clock.ahead_ms += 20_000
        ended = await service.job_becomes(job, JobStatus.TIMED_OUT)
        assert ended["reason"]["code"] == "deadline_passed"
        device.running = Image("localhost:5000/opc", DIGEST, "2.0")
        await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
        late = await service.job(job)
        assert (late["status"], late["lateOutcome"]) == ("TIMED_OUT", "succeeded")
        assert (await service.client())["runningVersion"] == "2.0"


async def test_an_expired_command_is_not_sent(tmp_path: Path) -> None:
    clock = Clock()
    limits = ServiceLimits(command_lifetime_ms=10_000, accept_deadline_ms=60_000)
    async with running(tmp_path, FakeLink(connected=False), limits=limits, now_ms=clock) as service:
        await service.prepare()
        job = await service.order()
        clock.ahead_ms = 20_000
        service.link.connect()
        device = Device(service.link)
        await device.birth()
        await device.replies(1)
        assert [topic for topic, _ in service.link.sent] == [topics.replies("acme", "press-1")]
        clock.ahead_ms = 70_000
        await service.job_becomes(job, JobStatus.TIMED_OUT)


async def test_cancel_before_anything_was_sent(tmp_path: Path) -> None:
    async with running(tmp_path, FakeLink(connected=False)) as service:
        await service.prepare()
        job = await service.order()
        answer = await service.post(f"/api/v1/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "CANCELED")
        assert (await service.post(f"/api/v1/jobs/{job}/cancel")).status_code == 409
        second = await service.order()
        service.link.connect()
        assert (await Device(service.link).commands(1))[0].job_id == second


async def test_cancel_is_asked_of_the_device_until_the_job_ends(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth()
    job = await service.order()
    await device.commands(1)
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    for _ in range(2):
        answer = await service.post(f"/api/v1/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "IN_PROGRESS")
    cancels = await device.cancels(3)
    assert len(set(cancels)) == 1
    assert (cancels[0].job_id, cancels[0].generation) == (job, 1)
    await device.tell(device.report(job, 1, JobStatus.CANCELED, reason=Reason.CANCELED))
    assert (await service.job(job))["status"] == "CANCELED"
    sent = len(await device.cancels(1))
    await device.birth()
    await device.replies(4)
    assert len(await device.cancels(1)) == sent
