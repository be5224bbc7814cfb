"""What people do to the bench in a method: order, cancel, hold, restart."""

from __future__ import annotations

import asyncio

import httpx

from chaos.bench import Bench
from chaos.scenario.model import Cancel, Hold, RestartAgent, Update, Wait
from reference.core.errors import ServiceError
from reference.edge.hold import hold, release
from reference.edge.settings import load_settings
from reference.stack import Device


async def act(bench: Bench, item: Update | Cancel | RestartAgent | Hold | Wait) -> None:
    """Do it, on the device that it names or on all. Raises BlackstartError. A `wait` is the player's own."""
    assert not isinstance(item, Wait)
    await asyncio.gather(*(_act(bench, item, device) for device in bench.chosen(item.device)))


async def _act(bench: Bench, item: Update | Cancel | RestartAgent | Hold, device: Device) -> None:
    name, record = device.client_id, bench.recorder.record
    match item:
        case Update(to=version):
            job_id = await bench.order(device, version)
            record("action", "update", name, to=version, digest=bench.stack.digests[version], jobId=job_id)
        case Cancel():
            await _cancel(bench, device)
        case RestartAgent():
            if device.agent is not None:
                await device.agent.stop()
            await bench.start_agent(device)
            record("action", "restart-agent", name)
        case Hold(action=wanted):
            state = load_settings(device.config).state_dir
            await asyncio.to_thread(hold if wanted == "hold" else release, state)
            record("action", wanted, name)


async def _cancel(bench: Bench, device: Device) -> None:
    jobs = bench.jobs.get(device.client_id, [])
    if not jobs:
        raise ServiceError(
            f"there is no job of {device.client_id} to cancel", todo="Put an update before the cancel."
        )
    try:
        answer = await bench.api.post(f"/api/v1/jobs/{jobs[-1]}/cancel")
    except httpx.HTTPError as error:
        raise ServiceError(f"the service did not answer: {error!r}") from error
    bench.recorder.record("action", "cancel", device.client_id, jobId=jobs[-1], status=answer.status_code)
