"""What stands around the device dies, and comes back: service, broker, database."""

from __future__ import annotations

import asyncio

from reference.core.model import Phase
from reference.demo.bench import Bench, until
from reference.demo.story import Story

OUTAGE_S = 1.0
NOTICED_S = 20.0
"""The service waits for a locked database (5 s) before it calls it gone."""


async def _service_killed(bench: Bench) -> None:
    """SIGKILL the moment the 202 is there: the order is kept."""
    job_id = await bench.command()
    await bench.stack.kill_part("service")
    bench.mark("service killed")
    await asyncio.sleep(OUTAGE_S)
    await bench.stack.start_service()
    bench.mark("service back")
    await bench.finish(job_id)


async def _broker_killed(bench: Bench) -> None:
    """The device switches and verifies while nobody can hear it."""
    job_id = await bench.command()
    await bench.reached(job_id, Phase.VERIFYING)
    await bench.stack.kill_part("broker")
    bench.mark("broker killed")
    await asyncio.sleep(OUTAGE_S)
    await bench.stack.start_broker()
    bench.mark("broker back")
    await bench.finish(job_id)


async def _database_down(bench: Bench) -> None:
    """Another process keeps the database to itself while the device has statuses to tell."""
    job_id = await bench.command()
    await bench.reached(job_id, Phase.VERIFYING)
    with bench.database_taken():
        bench.mark("database gone")

        async def noticed() -> bool | None:
            answer = await bench.api.get("/readyz")
            return (answer.status_code == 503 and "database" in answer.text) or None

        await until(noticed, NOTICED_S, "the service never said at /readyz that its database is gone")
        bench.notes["said_at_readyz"] = True
    bench.mark("database back")
    await bench.finish(job_id)


STORIES: tuple[Story, ...] = (
    Story("service-killed-after-202", "the service dies as it has taken the order", _service_killed, alone=True),
    Story("broker-killed-mid-update", "the broker dies during the trial", _broker_killed, alone=True),
    Story("database-down", "the service's database is gone during the trial", _database_down, alone=True),
)  # fmt: skip
