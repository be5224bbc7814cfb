"""A device that acted on its own says why, and whoever watches it sees that."""

from __future__ import annotations

import json

from reference.core.job import JobStatus
from reference.protocol import topics
from reference.protocol.models import Birth, ReasonSpec
from tests.service.harness import Device, Service

WHY = {"code": "probation_failed", "message": "exit code 3 after 40 s"}


async def _born(service: Service, device: Device, reason: ReasonSpec | None) -> None:
    birth = Birth(nonce="n", journal_epoch=device.epoch, generation=0, reason=reason)
    await service.link.bring(topics.birth(device.tenant, device.client), birth.to_bytes())


async def test_why_a_device_acted_on_its_own_is_shown_until_it_works_on_a_job(
    service: Service, device: Device
) -> None:
    await service.prepare()
    await _born(service, device, None)
    assert (await service.client())["trouble"] is None
    await _born(service, device, ReasonSpec(**WHY))
    assert (await service.client())["trouble"] == WHY
    listed = (await service.get("/api/v1/clients")).json()["items"]
    assert [one["trouble"] for one in listed] == [WHY]
    events = (await service.get("/api/v1/events?after=0")).json()["items"]
    told = [one["data"] for one in events if one["type"] == "client.updated"]
    told = [json.loads(one) if isinstance(one, str) else one for one in told]
    assert told[-1]["trouble"] == WHY
    job = await service.order()
    await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
    assert (await service.client())["trouble"] is None
    # Reasons of devices that are newer than the service are passed on as they are.
    newer = ReasonSpec(code="moon_in_the_way", message="")
    await _born(service, device, newer)
    assert (await service.client())["trouble"] == {"code": "moon_in_the_way", "message": ""}
    await _born(service, device, None)
    assert (await service.client())["trouble"] is None
