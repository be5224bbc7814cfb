"""What stands around the device dies, and comes back: service, broker, database."""

from __future__ import annotations

import asyncio

from reference.core.model import Phase
from reference.demo.bench import Bench
from reference.demo.story import Story

OUTAGE_S = 1.0


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


STORIES: tuple[Story, ...] = (
    Story("service-killed-after-202", "the service dies as it has taken the order", _service_killed, alone=True),
    Story("broker-killed-mid-update", "the broker dies during the trial", _broker_killed, alone=True),
)  # fmt: skip
