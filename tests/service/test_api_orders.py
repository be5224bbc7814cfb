"""Orders over the API: repeated, superseding, back to the version before, of withdrawn versions, under a policy."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from reference.core.job import JobStatus
from reference.core.model import Image
from reference.protocol import topics
from reference.protocol.models import Birth
from reference.service import idempotency, orders
from tests.service.answers import problem
from tests.service.harness import (
    DIGEST,
    OLD_DIGEST,
    Device,
    FakeLink,
    Service,
    running,
    succeeded,
)

UPDATE = "/api/v1/clients/press-1/update"
ROLLBACK = "/api/v1/clients/press-1/rollback"
BODY = {"targetVersion": "2.0"}


async def _post(
    service: Service, path: str, body: object = None, key: str | None = None, **more: Any
) -> httpx.Response:
    headers = service.headers(**more) | ({} if key is None else {"Idempotency-Key": key})
    return await service.http.post(path, json=body, headers=headers)


async def _jobs(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await service.get("/api/v1/jobs")).json()["items"]
    return found


# ---- the same request again


async def test_an_order_with_a_key_is_made_once(service: Service) -> None:
    await service.prepare()
    first = await _post(service, UPDATE, BODY, "k-1")
    again = await _post(service, UPDATE, BODY, '"k-1"')
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await _jobs(service)) == 1
    text = (await service.http.get("/metrics")).text
    assert "blackstart_jobs_created_total 1.0" in text
    # White space is not part of what is meant.
    headers = service.headers() | {"Idempotency-Key": "k-1", "Content-Type": "application/json"}
    spaced = await service.http.post(UPDATE, content=b'{ "targetVersion" :"2.0" }', headers=headers)
    assert spaced.json() == first.json()


async def test_a_key_with_another_request_is_refused(service: Service) -> None:
    await service.prepare()
    await service.add_version("2.1")
    await service.post("/api/v1/clients", {"clientId": "press-2"})
    await _post(service, UPDATE, BODY, "k-1")
    for path, body in (
        (UPDATE, {"targetVersion": "2.1"}),
        (UPDATE.replace("press-1", "press-2"), BODY),
        (UPDATE + "?supersede=true", BODY),
        (UPDATE, BODY | {"policy": {"snapshot": True}}),
    ):
        problem(await _post(service, path, body, "k-1"), 422, "idempotency_key_reused")
    assert len(await _jobs(service)) == 1


async def test_keys_belong_to_caller_and_route(service: Service) -> None:
    await service.prepare()
    await service.prepare(tenant="other")
    first = await _post(service, UPDATE, BODY, "k")
    other = await _post(service, UPDATE, BODY, "k", tenant="other")
    assert other.status_code == 202
    assert other.json() != first.json()
    assert (await _post(service, "/api/v1/clients", {"clientId": "press-9"}, "k")).status_code == 201


async def test_what_was_registered_with_a_key_is_answered_as_before(service: Service) -> None:
    first = await _post(service, "/api/v1/clients", {"clientId": "a"}, "k")
    again = await _post(service, "/api/v1/clients", {"clientId": "a"}, "k")
    assert (first.status_code, again.status_code) == (201, 201), "not 200, as without a key"
    secret = {"registrationToken", "registrationTokenExpiresAt"}
    assert {k: v for k, v in again.json().items() if k not in secret}.items() <= first.json().items()
    version = {"version": "1", "repository": "r/x", "digest": DIGEST}
    made = [await _post(service, "/api/v1/versions", version, "k") for _ in range(2)]
    assert [m.status_code for m in made] == [201, 201]
    assert made[0].json() == made[1].json()


async def test_a_refusal_is_not_kept(service: Service) -> None:
    await service.post("/api/v1/clients", {"clientId": "press-1"})
    problem(await _post(service, UPDATE, BODY, "k"), 422, "invalid_input")
    await service.add_version()
    assert (await _post(service, UPDATE, BODY, "k")).status_code == 202


@pytest.mark.parametrize("key", ["", "a b", '"', '"a', "x" * 129, "é", 'a"b'])
async def test_a_key_that_is_none(service: Service, key: str) -> None:
    await service.prepare()
    headers = [*service.headers().items(), ("Idempotency-Key", key.encode())]
    problem(await service.http.post(UPDATE, json=BODY, headers=headers), 422, "invalid_input")  # type: ignore[arg-type]


async def test_many_at_once_with_one_key_are_one_order(service: Service) -> None:
    await service.prepare()
    answers = await asyncio.gather(*(_post(service, UPDATE, BODY, "k") for _ in range(12)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["jobId"] for a in answers}) == 1
    assert sum("idempotent-replayed" not in a.headers for a in answers) == 1
    assert len(await _jobs(service)) == 1


async def test_a_key_is_forgotten_after_its_time(tmp_path: Path) -> None:
    ahead_ms = 0

    def now_ms() -> int:
        return 1_700_000_000_000 + ahead_ms

    async with running(tmp_path, FakeLink(connected=False), now_ms=now_ms) as service:
        ahead_ms = 10**11  # tokens are checked by the real clock, not this one
        first = await _post(service, "/api/v1/clients", {"clientId": "a"}, "k")
        assert first.status_code == 201
        ahead_ms += 24 * 3600 * 1000 - 1
        assert await service.store.write(lambda c: idempotency.sweep(c, now_ms())) == 0
        assert (await _post(service, "/api/v1/clients", {"clientId": "a"}, "k")).status_code == 201
        ahead_ms += 1
        other = await _post(service, "/api/v1/clients", {"clientId": "b"}, "k")
        assert (other.status_code, other.json()["clientId"]) == (201, "b")
        ahead_ms += 24 * 3600 * 1000
        assert await service.store.write(lambda c: idempotency.sweep(c, now_ms())) == 1


# ---- over an open job


async def test_superseding_one_that_was_never_sent(tmp_path: Path) -> None:
    async with running(tmp_path, FakeLink(connected=False)) as service:
        await service.prepare()
        await service.add_version("2.1")
        first = await service.order()
        answer = await _post(service, UPDATE + "?supersede=true", {"targetVersion": "2.1"})
        assert answer.status_code == 202
        old, new = await service.job(first), await service.job(answer.json()["jobId"])
        assert (old["status"], old["reason"]["code"]) == ("CANCELED", "superseded")
        assert old["supersededBy"] == new["jobId"]
        assert (new["status"], new["generation"], new["supersededBy"]) == ("QUEUED", 2, None)
        service.link.connect()
        assert (await Device(service.link).commands(1))[0].generation == 2


async def test_superseding_one_that_the_device_works_on(service: Service, device: Device) -> None:
    await service.prepare()
    await service.add_version("2.1")
    await device.birth()
    first = await service.order()
    await device.commands(1)
    await device.tell(device.report(first, 1, JobStatus.IN_PROGRESS))
    second = (await _post(service, UPDATE + "?supersede=true", {"targetVersion": "2.1"})).json()["jobId"]
    sent = 2
    while {command.generation for command in await device.commands(sent)} != {1, 2}:
        sent += 1  # the first one was sent again meanwhile
    old = await service.job(first)
    assert (old["status"], old["supersededBy"]) == ("IN_PROGRESS", second), "its device ends it"
    body = problem(await _post(service, UPDATE, BODY), 409, "conflict")
    assert body["openJobId"] == second, "the one that counts"
    await device.tell(device.report(first, 1, JobStatus.SUCCEEDED, **succeeded()))
    assert (await service.job(first))["status"] == "SUCCEEDED", "it was past the point of no return"
    await device.tell(device.report(second, 2, JobStatus.SUCCEEDED, **succeeded()))
    assert (await service.job(second))["status"] == "SUCCEEDED"


async def test_superseding_nothing_is_an_order(service: Service) -> None:
    await service.prepare()
    assert (await _post(service, UPDATE + "?supersede=true", BODY)).status_code == 202
    problem(await _post(service, UPDATE + "?supersede=false", BODY), 409, "conflict")
    problem(await _post(service, UPDATE + "?supersede=perhaps", BODY), 422, "invalid_input")


async def test_many_superseding_at_once(service: Service) -> None:
    await service.prepare()
    await service.order()
    answers = await asyncio.gather(*(_post(service, UPDATE + "?supersede=true", BODY) for _ in range(8)))
    assert {a.status_code for a in answers} == {202}
    jobs = await _jobs(service)
    assert sorted(job["generation"] for job in jobs) == list(range(1, 10))
    (counts,) = [job for job in jobs if job["supersededBy"] is None]
    assert counts["generation"] == 9


# ---- to what runs, and back


async def test_the_version_that_runs_is_ordered_all_the_same(service: Service, device: Device) -> None:
    await service.prepare()
    device.running = Image("localhost:5000/opc", DIGEST, "2.0")
    await device.birth()
    job = await service.order()
    assert (await device.commands(1))[0].job_id == job, "the device answers, not the service"


async def _born_with_previous(service: Service, device: Device, digest: str, version: str | None) -> None:
    birth = Birth(
        nonce="n", journal_epoch=device.epoch, generation=0, running_digest=DIGEST, running_version="2.0",
        previous_digest=digest, previous_version=version, hold=True,
    )  # fmt: skip
    await service.link.bring(topics.birth(device.tenant, device.client), birth.to_bytes())


async def _add_old(service: Service) -> None:
    old = {"version": "1.0", "repository": "localhost:5000/opc", "digest": OLD_DIGEST}
    assert (await service.post("/api/v1/versions", old)).status_code == 201


@pytest.mark.parametrize("named", ["1.0", None, "gone"])
async def test_back_to_what_the_device_says_ran_before(
    service: Service, device: Device, named: str | None
) -> None:
    await service.prepare()
    await _add_old(service)
    problem(await _post(service, ROLLBACK), 409, "no_previous_version")
    await _born_with_previous(service, device, OLD_DIGEST, named)
    client = await service.client()
    assert (client["previousDigest"], client["previousVersion"], client["hold"]) == (OLD_DIGEST, named, True)
    await service.post("/api/v1/versions/1.0/withdraw")
    answer = await _post(service, ROLLBACK, None, "k")
    assert answer.status_code == 202, "withdrawn or not"
    assert (await _post(service, ROLLBACK, None, "k")).json() == answer.json()
    problem(await _post(service, ROLLBACK), 409, "conflict")
    job = await service.job(answer.json()["jobId"])
    assert (job["kind"], job["targetVersion"], job["digest"]) == ("rollback", "1.0", OLD_DIGEST)
    assert (await device.commands(1))[0].image.digest == OLD_DIGEST
    second = await _post(service, ROLLBACK + "?supersede=true")
    assert second.status_code == 202


async def test_back_by_the_history_when_the_device_says_nothing(service: Service, device: Device) -> None:
    await service.prepare()
    await _add_old(service)
    await device.birth()
    for version, digest in (("1.0", OLD_DIGEST), ("2.0", DIGEST)):
        job = await service.order(version)
        generation = (await service.job(job))["generation"]
        device.running = Image("localhost:5000/opc", digest, version)
        await device.tell(device.report(job, generation, JobStatus.SUCCEEDED, **succeeded()))
    answer = await _post(service, ROLLBACK)
    assert (await service.job(answer.json()["jobId"]))["targetVersion"] == "1.0"


async def test_back_to_an_image_that_nobody_registered(service: Service, device: Device) -> None:
    await service.prepare()
    await _born_with_previous(service, device, OLD_DIGEST, "1.0")
    assert OLD_DIGEST in problem(await _post(service, ROLLBACK), 409, "no_previous_version")["detail"]
    problem(await _post(service, ROLLBACK.replace("press-1", "press-2")), 404, "not_found")


# ---- withdrawn versions


async def test_a_withdrawn_version_is_refused_until_it_is_restored(service: Service) -> None:
    await service.prepare()
    first = (await service.post("/api/v1/versions/2.0/withdraw")).json()
    found = (await service.post("/api/v1/versions/2.0/withdraw")).json()
    assert first == found
    assert found["withdrawn"] is True
    assert found["withdrawnAt"]
    body = problem(await _post(service, UPDATE, BODY), 409, "version_withdrawn")
    assert "restore" in body["todo"]
    assert (await service.get("/api/v1/versions/2.0")).json() == found
    restored = (await service.post("/api/v1/versions/2.0/restore")).json()
    assert (restored["withdrawn"], restored["withdrawnAt"]) == (False, None)
    assert (await _post(service, UPDATE, BODY)).status_code == 202
    for path in ("3.0/withdraw", "3.0/restore", "%00/withdraw", "x" * 300 + "/restore"):
        problem(await service.post(f"/api/v1/versions/{path}"), 404, "not_found")
    problem(await service.get("/api/v1/versions/3.0"), 404, "not_found")
    problem(await service.post("/api/v1/versions/2.0/withdraw", tenant="other"), 404, "not_found")


# ---- policy and correlation


async def test_the_policy_of_the_version_and_what_the_order_changes(service: Service, device: Device) -> None:
    await service.prepare()
    body = {"version": "3.0", "repository": "localhost:5000/opc", "digest": DIGEST}
    policy = {"snapshot": True, "probationMs": 60_000}
    made = (await service.post("/api/v1/versions", body | {"policy": policy})).json()
    usual = {"snapshot": True, "probationMs": 60_000, "lockWaitMs": 0, "handover": "stop_first"}
    assert made["policy"] == usual
    problem(await service.post("/api/v1/versions", body), 409, "conflict")
    order = {"targetVersion": "3.0", "policy": {"probationMs": 0, "lockWaitMs": 5, "handover": "overlap"}}
    assert (await _post(service, UPDATE, order)).status_code == 202
    told = (await device.commands(1))[0].policy
    assert (told.snapshot, told.probation_ms, told.lock_wait_ms, told.handover) == (True, 0, 5, "overlap")
    for bad in (
        {"probationMs": -1},
        {"snapshot": 1},
        {"lockWaitMs": 10**12},
        {"handover": "both"},
        {"more": 1},
    ):
        problem(await _post(service, UPDATE, BODY | {"policy": bad}), 422, "invalid_input")


async def test_the_word_of_the_request_goes_to_the_job_and_the_device(
    service: Service, device: Device
) -> None:
    await service.prepare()
    headers = service.headers() | {"X-Correlation-ID": "order-4711"}
    job = (await service.http.post(UPDATE, json=BODY, headers=headers)).json()["jobId"]
    assert (await service.job(job))["correlationId"] == "order-4711"
    assert (await device.commands(1))[0].correlation_id == "order-4711"
    headers["X-Correlation-ID"] = "cancel-1"
    await service.http.post(f"/api/v1/jobs/{job}/cancel", headers=headers)
    assert (await device.cancels(1))[0].correlation_id == "cancel-1"


def test_what_can_be_an_id_is_what_the_wire_takes() -> None:
    assert re.fullmatch(orders.VERSION_PATTERN, "2.0-rc.1+b")
