"""The database is an older one, or a new one: the devices know more than the service, and it believes them."""

from __future__ import annotations

import shutil
from pathlib import Path

from reference.core.job import JobStatus
from tests.service.harness import SLOW, Device, running, succeeded

ONE_DATABASE = True
UPDATE = "/api/v1/clients/press-1/update"


async def test_a_database_from_a_backup_gives_no_generation_twice(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    async with running(data, limits=SLOW) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth()
        job = await service.order()
        await device.tell(device.report(job, 1, JobStatus.SUCCEEDED, **succeeded()))
    shutil.copytree(data, backup)
    lost = []
    async with running(data, limits=SLOW) as service:
        device.link = service.link
        for generation in (2, 3, 4):
            job = await service.order()
            lost.append(job)
            await device.tell(device.report(job, generation, JobStatus.SUCCEEDED, **succeeded()))
        seen = (await service.get("/api/v1/events?after=0")).json()["next"]
    async with running(backup, limits=SLOW) as service:
        device.link = service.link
        # Before the device is heard nobody can know; it refuses what it has had, and that is no end of it.
        early = await service.order()
        assert (await service.job(early))["generation"] == 2
        await device.birth(floor=4)
        assert (await service.client())["generation"] == 4
        report = device.report(early, 2, JobStatus.REJECTED, message="older than what was taken")
        await device.tell(report)
        assert (await service.job(early))["status"] == "REJECTED"
        late = await service.order()
        assert (await service.job(late))["generation"] == 5
        assert (await device.commands(2))[-1].generation == 5
        # What the device still has to say of jobs that nobody knows any more is taken off its hands.
        before = device.replied()
        await device.tell(device.report(lost[2], 4, JobStatus.SUCCEEDED, **succeeded()))
        replies = await device.replies(before + 1)
        assert replies[-1].acknowledgement is not None and replies[-1].acknowledgement.job_id == lost[2]
        # Readers of events from the time before are told to look anew.
        page = (await service.get(f"/api/v1/events?after={seen + 100}")).json()
        assert [event["type"] for event in page["items"]] == ["reset"]


async def test_a_new_database_begins_above_what_the_device_has_had(tmp_path: Path) -> None:
    async with running(tmp_path, limits=SLOW) as service:
        device = Device(service.link)
        await service.prepare()
        await device.birth(floor=41)
        job = await service.order()
        assert (await service.job(job))["generation"] == 42
        assert (await device.commands(1))[0].generation == 42
