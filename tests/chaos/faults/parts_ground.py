"""A stand-in for the bench that faults of parts stand on: a real stack, and one device whose client runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx

from chaos.faults import fault_named
from chaos.faults.base import Fault, Ground, checked
from chaos.guard import Guard
from chaos.history import Recorder
from chaos.postgres import Postgres
from chaos.proxies.mqtt import MqttProxy, MqttWay
from chaos.scenario.model import FaultUse, Scenario
from reference.pki.authority import DevelopmentCA
from reference.stack import HOST, Device, Stack
from reference.stack.probe import ask

VERSION = "1.0.0"
SCENARIO = {
    "title": "parts",
    "bench": {"begins": VERSION, "versions": [{"version": "2.0.0"}]},
    "method": [{"action": "update", "to": "2.0.0"}],
}


@dataclass(slots=True)
class StandIn:
    """What the faults here ask of `chaos.faults.base.Ground`."""

    folder: Path
    stack: Stack
    devices: Sequence[Device]
    guard: Guard
    recorder: Recorder
    scenario: Scenario
    api: httpx.AsyncClient | None = None
    jobs: dict[str, list[str]] = field(default_factory=dict)
    server: Postgres | None = None
    ways: dict[str, MqttWay] = field(default_factory=dict)

    def chosen(self, device: int | None) -> Sequence[Device]:
        return self.devices if device is None else (self.devices[device - 1],)

    def postgres(self) -> Postgres | None:
        return self.server

    def mqtt(self, device: Device) -> MqttWay:
        return self.ways[device.client_id]

    async def start_agent(self, device: Device) -> None:
        await self.stack.start_agent(device)

    @property
    def device(self) -> Device:
        return self.devices[0]


def stand_in(folder: Path, stack: Stack, *devices: Device) -> StandIn:
    """Without anything started."""
    scenario = Scenario.model_validate(SCENARIO)
    return StandIn(folder, stack, devices, Guard(folder), Recorder(), scenario)


def fault(ground: StandIn, name: str, given: Mapping[str, object] | None = None, *, lasts: str = "") -> Fault:
    """One coming of it, not begun."""
    body: dict[str, object] = {"fault": name, "with": dict(given or {})}
    use = FaultUse.model_validate(body | ({"for": lasts} if lasts else {}))
    kind = fault_named(name)
    return kind(cast("Ground", ground), use, checked(kind, use), random.Random(1))


@asynccontextmanager
async def running(stack: Stack, folder: Path) -> AsyncIterator[StandIn]:
    """The stack with one device, which reaches the broker through the MQTT-aware proxy, and its client."""
    proxy = MqttProxy(seed=1)
    async with stack, AsyncExitStack() as closing:
        closing.push_async_callback(proxy.stop)
        await proxy.start()
        await asyncio.gather(*(stack.publish(version) for version in (VERSION, "2.0.0")))
        authority = DevelopmentCA.open_or_create(stack.data / "ca")
        way = await proxy.way(
            "edge-1", upstream_host=HOST, upstream_port=stack.broker_port,
            server_files=authority.issue_server("broker"), client_files=authority.issue_device(stack.tenant, "edge-1"),
        )  # fmt: skip
        device = await stack.add_device("edge-1", settings={"broker": {"port": way.port}})
        await stack.start_agent(device)
        ground = stand_in(folder, stack, device)
        ground.ways["edge-1"] = way
        async with stack.api() as ground.api:
            await order(ground, VERSION)
            await until_rest(ground)
            yield ground


async def order(ground: StandIn, version: str) -> str:
    """Ask for a version, and wait for the job's end; its id."""
    assert ground.api is not None
    asked = await ground.api.post(
        f"/api/v1/clients/{ground.device.client_id}/update", json={"targetVersion": version}
    )
    assert asked.status_code == 202, asked.text
    job = str(asked.json()["jobId"])
    ground.jobs.setdefault(ground.device.client_id, []).append(job)
    async with asyncio.timeout(30):
        while (found := (await ground.api.get(f"/api/v1/jobs/{job}")).json())["status"] != "SUCCEEDED":
            assert found["status"] in ("QUEUED", "SENT", "IN_PROGRESS"), found
            await asyncio.sleep(0.05)
    return job


async def answers(device: Device) -> str:
    """The version that the client says it is, once it is healthy."""

    async with asyncio.timeout(20):
        while not (answer := await asyncio.to_thread(ask, device.client_port)).good:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return str(answer.version)


async def until_rest(ground: StandIn) -> None:
    """The client answers, as one process."""
    await answers(ground.device)
    async with asyncio.timeout(20):
        while len(ground.device.box.processes()) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def shown(one: Fault) -> str:
    """What shows that it fired, once something does."""
    async with asyncio.timeout(15):
        while not (how := await one.fired()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return how
