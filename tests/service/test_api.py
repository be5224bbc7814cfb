"""The API: who may, what comes back, and that every error is a problem with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from reference.core.job import JobStatus
from tests.service.harness import DIGEST, Device, FakeLink, Service, running

ONE_DATABASE = ("test_bad_bodies",)

VERSION: dict[str, object] = {"version": "2.0", "repository": "localhost:5000/opc", "digest": DIGEST}


def problem(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The problem that an answer is; and that it is one by the rules."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["reason"] == reason
    assert body["type"] == f"urn:blackstart:problem:{reason}"
    assert all(isinstance(body[name], str) and body[name] for name in ("title", "detail", "instance"))
    assert "Traceback" not in answer.text
    return body


async def test_another_tenants_things_are_not_there(service: Service, device: Device) -> None:
    await service.prepare()
    job = await service.order()
    for path in ("/api/v1/clients/press-1", f"/api/v1/jobs/{job}"):
        foreign = problem(await service.get(path, tenant="other"), 404, "not_found")
        absent = problem(await service.get(path[:-1] + "x", tenant="other"), 404, "not_found")
        assert foreign["detail"].replace(path.split("/")[-1], "?") == absent["detail"].replace(
            path.split("/")[-1][:-1] + "x", "?"
        )
    problem(
        await service.post("/api/v1/clients/press-1/update", {"targetVersion": "2.0"}, tenant="other"),
        404,
        "not_found",
    )
    problem(await service.post(f"/api/v1/jobs/{job}/cancel", tenant="other"), 404, "not_found")
    for path in ("clients", "versions", "jobs"):
        assert (await service.get(f"/api/v1/{path}", tenant="other")).json()["items"] == []
    # The same names in another tenant are other things.
    await service.prepare(tenant="other")
    assert (await service.get("/api/v1/clients", tenant="other")).json()["items"][0]["clientId"] == "press-1"


# ---- what comes back


async def test_an_order_is_taken(service: Service) -> None:
    await service.prepare()
    answer = await service.post("/api/v1/clients/press-1/update", {"targetVersion": "2.0"})
    assert answer.status_code == 202
    assert list(answer.json()) == ["jobId"]
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['jobId']}"
    job = (await service.get(answer.headers["location"])).json()
    assert (job["status"], job["targetVersion"], job["digest"], job["generation"]) == (
        "QUEUED",
        "2.0",
        DIGEST,
        1,
    )
    assert (job["outcome"], job["reason"], job["rolledBack"], job["downtimeMs"]) == (None, None, False, None)
    assert job["createdAt"].endswith("Z")


async def test_one_open_job_at_a_time(service: Service) -> None:
    await service.prepare()
    job = await service.order()
    answer = await service.post("/api/v1/clients/press-1/update", {"targetVersion": "2.0"})
    body = problem(answer, 409, "conflict")
    assert body["jobId"] == body["openJobId"] == job
    assert "supersede" in body["todo"]
    assert "cancel" in body["todo"]
    assert job in body["detail"]


async def test_things_are_registered_once(service: Service) -> None:
    await service.prepare()
    assert (await service.post("/api/v1/clients", {"clientId": "press-1"})).status_code == 200
    assert (await service.post("/api/v1/versions", VERSION)).status_code == 200
    changed = VERSION | {"digest": "sha256:" + "00" * 32}
    problem(await service.post("/api/v1/versions", changed), 409, "conflict")
    own = VERSION | {"version": "3.0", "health": {"windowMs": 5, "probe": "/alive"}}
    made = (await service.post("/api/v1/versions", own)).json()
    assert made["health"] == {
        "probe": "/alive",
        "startPeriodMs": 10_000,
        "windowMs": 5,
        "stableForMs": 10_000,
    }


async def test_lists(service: Service) -> None:
    for number in range(5):
        await service.post("/api/v1/clients", {"clientId": f"press-{number}"})
    await service.add_version()
    jobs = [await service.order(client=f"press-{number}") for number in range(3)]
    first = (await service.http.get("/api/v1/clients?limit=3", headers=service.headers())).json()
    assert [c["clientId"] for c in first["items"]] == ["press-0", "press-1", "press-2"]
    rest = (
        await service.http.get(
            f"/api/v1/clients?cursor={first['nextCursor']}&limit=3", headers=service.headers()
        )
    ).json()
    assert ([c["clientId"] for c in rest["items"]], rest["nextCursor"]) == (["press-3", "press-4"], None)
    assert {j["jobId"] for j in (await service.get("/api/v1/jobs")).json()["items"]} == set(jobs)
    for query, count in (
        ("client=press-1", 1),
        ("status=QUEUED", 3),
        ("status=FAILED", 0),
        ("limit=2", 2),
        ("client=x", 0),
    ):
        assert len((await service.get(f"/api/v1/jobs?{query}")).json()["items"]) == count, query
    for query in ("status=queued", "limit=0", "limit=1001", "limit=x"):
        problem(await service.get(f"/api/v1/jobs?{query}"), 422, "invalid_input")


# ---- what is wrong


@pytest.mark.parametrize(
    ("path", "body"),
    [("clients/press-1/update", body) for body in (
        b"", b"{", b"[]", b"null", b'"2.0"', b"{}", b'{"targetVersion": 2}', b'{"targetVersion": ""}',
        b'{"targetVersion": "none"}', b'{"targetVersion": "2.0", "force": true}', b'{"targetversion": "2.0"}',
        b"\xff\xfe", b"[" * 20_000, b'{"targetVersion": "a\\u0000b"}', b'{"targetVersion": NaN}',
        b'{"targetVersion": "\\ud800"}', b'{"\\ud800": 1}')]
    + [("clients", body) for body in (b'{"clientId": "a/b"}', b'{"clientId": "#"}', b'{"clientId": ""}')]
    + [("versions", body) for body in (
        b'{"version": "1", "repository": "r/x", "digest": "latest"}', b'{"version": "1", "repository": "r", "digest": ""}',
        b'{"version": "1 2", "repository": "r/x", "digest": "sha256:' + b"0" * 64 + b'"}')],
)  # fmt: skip
async def test_bad_bodies(service: Service, path: str, body: bytes) -> None:
    await service.prepare()
    headers = service.headers() | {"Content-Type": "application/json"}
    problem(await service.http.post(f"/api/v1/{path}", content=body, headers=headers), 422, "invalid_input")
    assert (await service.get("/api/v1/jobs")).json()["items"] == []


async def test_an_unknown_version_is_named(service: Service) -> None:
    await service.prepare()
    answer = await service.post("/api/v1/clients/press-1/update", {"targetVersion": "9.9"})
    assert "9.9" in problem(answer, 422, "invalid_input")["detail"]


@pytest.mark.parametrize("client", ["press-2", "%2e%2e", "a%2Fb", "%00", "x" * 500, "é"])
async def test_an_unknown_client(service: Service, client: str) -> None:
    await service.prepare()
    problem(
        await service.post(f"/api/v1/clients/{client}/update", {"targetVersion": "2.0"}), 404, "not_found"
    )


async def test_what_the_framework_refuses_is_a_problem_too(service: Service) -> None:
    problem(await service.get("/api/v1/nothing"), 404, "not_found")
    problem(await service.get("/"), 404, "not_found")
    wrong = await service.http.delete("/api/v1/clients", headers=service.headers())
    problem(wrong, 405, "invalid_input")
    assert "GET" in wrong.headers["allow"]


@pytest.mark.parametrize("field", ["startPeriodMs", "windowMs", "stableForMs"])
async def test_a_trial_that_would_outlast_the_deadline_is_refused(service: Service, field: str) -> None:
    answer = await service.post("/api/v1/versions", VERSION | {"health": {field: 480_001}})
    problem(answer, 422, "invalid_input")
    answer = await service.post("/api/v1/versions", VERSION | {"health": {field: 480_000}})
    assert answer.status_code == 201


async def test_a_large_body_is_refused_and_not_kept(service: Service) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 10_000

    problem(
        await service.http.post("/api/v1/clients", content=b" " * 65_537, headers=service.headers()),
        413,
        "invalid_input",
    )
    problem(
        await service.http.post("/api/v1/clients", content=endless(), headers=service.headers()),
        413,
        "invalid_input",
    )


async def test_a_defect_is_a_problem_without_a_traceback(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("reference.service.listing.list_jobs", broken)
    answer = await service.get("/api/v1/jobs")
    problem(answer, 500, "unavailable")
    assert "secret" not in answer.text


async def test_a_database_that_is_gone(service: Service) -> None:
    await service.prepare()
    await service.store.close()
    answer = await service.post("/api/v1/clients/press-1/update", {"targetVersion": "2.0"})
    assert "service.db" not in problem(answer, 503, "unavailable")["detail"]
    assert answer.headers["retry-after"] == "1"
    body = problem(await service.http.get("/readyz"), 503, "unavailable")
    assert body["checks"]["broker"] == "ok"
    assert body["checks"]["database"] != "ok"


# ---- watching


async def test_health_readiness_metrics(tmp_path: Path) -> None:
    async with running(tmp_path, FakeLink(connected=False)) as service:
        assert (await service.http.get("/healthz")).json()["status"] == "ok"
        body = problem(await service.http.get("/readyz"), 503, "unavailable")
        assert body["checks"] == {"database": "ok", "broker": "not connected"}
        service.link.connect()
        assert (await service.http.get("/readyz")).json()["status"] == "ready"
        await service.prepare()
        job, device = await service.order(), Device(service.link)
        await device.birth()
        await device.tell(device.report(job, 1, JobStatus.IN_PROGRESS))
        await device.tell(device.report(job, 1, JobStatus.FAILED))
        text = (await service.http.get("/metrics")).text
        assert (
            'blackstart_http_requests_total{method="POST",route="/api/v1/clients",status="201"} 1.0' in text
        )
        assert 'blackstart_jobs_ended_total{outcome="",reason="",status="FAILED"} 1.0' in text
        assert "blackstart_command_accepted_seconds_count 1.0" in text
        assert "blackstart_broker_connected 1.0" in text
