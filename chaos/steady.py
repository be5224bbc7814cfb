"""Whether all is well: before anything is done, and again after it."""

from __future__ import annotations

import asyncio
import time

import httpx

from chaos.bench import Bench
from chaos.history import History
from chaos.observers.journal import status
from chaos.scenario.model import SteadyProbe
from reference.core.model import Outcome, Phase
from reference.stack import Device
from reference.stack.probe import ask

STEADY_S = 10.0
"""How long the steady state is waited for."""
POLL_S = 0.05
GRACE_S = 10.0
"""So much longer than is asked for a bench is watched, to tell how long it took."""


async def steady(bench: Bench) -> bool:
    """Wait for the steady state, and write what holds and what does not; answers whether all of it holds."""
    wanted = bench.scenario.steady_state_hypothesis.probes
    end = time.monotonic() + STEADY_S
    while True:
        found = {probe.value: await _ask(bench, probe) for probe in wanted}
        holds = not any(found.values())
        if holds or time.monotonic() > end:
            bench.recorder.record("run", "steady", holds=holds, probes=found)
            return holds
        await asyncio.sleep(POLL_S)


async def _ask(bench: Bench, probe: SteadyProbe) -> str:
    """What is wrong; empty when nothing is."""
    if probe is SteadyProbe.SERVICE_READY:
        try:
            answer = await bench.api.get("/readyz")
        except httpx.HTTPError as error:
            return f"the service does not answer: {error!r}"
        return "" if answer.status_code == httpx.codes.OK else f"the service says {answer.text[:300]}"
    wrong = [f"{d.client_id}: {what}" for d in bench.devices if (what := await _of(bench, probe, d))]
    return "; ".join(wrong)


async def _of(bench: Bench, probe: SteadyProbe, device: Device) -> str:
    begins = bench.scenario.bench.begins
    if probe is SteadyProbe.CLIENT_HEALTHY:
        answer = await asyncio.to_thread(ask, device.client_port)
        if begins is None:
            return f"{answer.version} answers, and nothing was installed" if answer.good else ""
        return "" if answer.good and answer.version == begins else f"{begins} does not answer well"
    found = await status(device)
    if found is None:
        return "the agent does not answer"
    if probe is SteadyProbe.DEVICE_CONNECTED:
        return "" if found.connected else "the agent is not connected to the broker"
    return "" if found.phase == Phase.IDLE.value and not found.queued else f"the agent is in {found.phase}"


async def converge(bench: Bench, poll_s: float = POLL_S) -> bool:
    """Wait until everything is at rest after the last fault was healed, and write how long that took.

    At rest: every agent runs, is connected and has nothing to do, one client process each answers well (none, where
    nothing was ever confirmed), the service is ready, and the API shows an end of every job. Counted from the last
    fault's end, or from what was ordered after it.
    """
    began = time.monotonic() - (bench.recorder.now() - _since(bench.recorder.history()))
    limit = bench.scenario.expect.converges / 1000 + GRACE_S
    while True:
        wrong = [f"{d.client_id}: {what}" for d in bench.devices if (what := await _unrest(bench, d))]
        if not wrong and not bench.all_ended():
            wrong = ["the API does not show the end of every job"]
        if not wrong and (what := await _ask(bench, SteadyProbe.SERVICE_READY)):
            wrong = [what]
        took = time.monotonic() - began
        if not wrong:
            bench.recorder.record("run", "converged", ms=round(took * 1000))
            return True
        if took > limit:
            bench.recorder.record("run", "not-converged", what="; ".join(wrong))
            return False
        await asyncio.sleep(poll_s)


def _since(history: History) -> float:
    """When the last thing was done to the bench: seconds since the run began."""
    ends = (*history.of("fault", "healed"), *history.of("fault", "in-force"), *history.of("action"))
    return max((event.t for event in ends), default=0.0) or _began(history)


def _began(history: History) -> float:
    found = history.last("run", "method-begins")
    return found.t if found is not None else 0.0


async def _unrest(bench: Bench, device: Device) -> str:
    found = await status(device)
    if found is None:
        return "the agent does not answer"
    if found.phase != Phase.IDLE.value or found.queued:
        return f"the agent is in {found.phase}"
    if not found.connected:
        return "the agent is not connected to the broker"
    if bench.scenario.expect.outcome == (Outcome.ROLLBACK_FAILED,):
        return ""  # Nothing of it can be healthy: what has to run is the checkers' matter.
    processes = len(await asyncio.to_thread(device.box.processes))
    wanted = 1 if found.installed else 0
    if processes != wanted:
        return f"{processes} client processes run, expected {wanted}"
    answer = await asyncio.to_thread(ask, device.client_port)
    return "" if answer.good or not wanted else "the client does not answer well"
