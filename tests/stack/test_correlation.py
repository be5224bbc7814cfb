"""One word finds an update everywhere: from the caller's header to the device's log and back, through real processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from reference.core.model import Health
from reference.stack import Stack

HEALTH = Health(start_period_ms=500, window_ms=1_500, stable_for_ms=300)
QUICK = {"watch_ms": 100, "backoff_first_ms": 100, "outbox_resend_ms": 1_000}
WORD, OTHER = "ticket-4711.a_b", "another"
POLL_S = 0.03

pytestmark = pytest.mark.xdist_group("stack")


def said(path: Path, word: str) -> list[dict[str, Any]]:
    """Lines of a log that carry the word."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "{"]
    return [line for line in lines if line.get("correlation") == word]


def messages(path: Path, word: str) -> set[str]:
    return {str(line["message"]) for line in said(path, word)}


async def test_an_update_is_followed_by_the_caller_s_word(tmp_path: Path) -> None:
    async with asyncio.timeout(90), Stack(tmp_path, seed=1) as stack:
        for version in ("1.0.0", "2.0.0"):
            await stack.publish(version, None, health=HEALTH)
        device = await stack.add_device("edge-1", QUICK)
        await stack.start_agent(device)
        async with stack.api() as api:
            path = "/api/v1/clients/edge-1/update"
            for version, word in (("1.0.0", WORD), ("2.0.0", OTHER)):
                body = {"targetVersion": version}
                answer = await api.post(path, json=body, headers={"X-Correlation-ID": word})
                assert answer.status_code == 202, answer.text
                assert answer.headers["X-Correlation-ID"] == word
                job_id = answer.json()["jobId"]
                while (job := (await api.get(f"/api/v1/jobs/{job_id}")).json())["status"] != "SUCCEEDED":
                    assert job["status"] in ("QUEUED", "IN_PROGRESS"), job
                    await asyncio.sleep(POLL_S)
                assert job["correlationId"] == word
                refused = await api.post(
                    path, json={"targetVersion": "9"}, headers={"X-Correlation-ID": word}
                )
                assert refused.json()["correlationId"] == word
            events = (await api.get("/api/v1/events?after=0")).json()["items"]
        told = {one["data"]["correlationId"] for one in events if one["type"].startswith("job.")}
        assert told == {WORD, OTHER}
        service = tmp_path / "logs" / "service.log"
        for word in (WORD, OTHER):
            # On the device: the command came, was journaled, and was reported on.
            assert {"command", "journaled"} <= messages(device.log, word)
            assert any(line.get("status") == "SUCCEEDED" for line in said(device.log, word))
            # At the service: the request, and the end of the job, which only the device's status can have told.
            assert {"request", "job ended"} <= messages(service, word)
            jobs = {line["job"] for line in said(service, word) if line["message"] == "job ended"}
            assert len(jobs) == 1
