"""The bench of one run: real parts, all on loopback, all of this run alone; what stands between them; and the devices.

    device -> [Toxiproxy] -> MQTT-aware proxy -> broker        device -> [Toxiproxy] -> front -> registry
    service -> [Toxiproxy] -> MQTT-aware proxy -> broker       service -> [Toxiproxy] -> PostgreSQL
    API client -> [Toxiproxy] -> service

Toxiproxy stands where a fault wants it; the other two always, because they see what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from chaos import distribution, publish
from chaos.clock import FakeClock
from chaos.faults.base import Wants
from chaos.guard import Guard
from chaos.history import Recorder
from chaos.line import LineServer
from chaos.observers.api import ApiObserver
from chaos.observers.wire import requests, tap
from chaos.power import Power, engine_folder
from chaos.proxies.links import Passage, ToxicLinks
from chaos.proxies.mqtt import MqttProxy, MqttWay
from chaos.proxies.mqtt.way import Gate
from chaos.proxies.registry import RegistryFront
from chaos.scenario.model import Link, Scenario
from reference.core.errors import BlackstartError, ServiceError
from reference.core.job import JobStatus
from reference.core.limits import DEFAULT_LIMITS
from reference.engine import PrivateEngine
from reference.pki.authority import CertificateFiles, DevelopmentCA
from reference.power.disk import Disk
from reference.stack import HOST, Agents, Device, Stack, all_of
from reference.stack.box import BoxMaker, ProcessBox
from reference.stack.docker_box import DockerBox
from reference.support.files import write_durably

if TYPE_CHECKING:
    from chaos.postgres import Postgres

Say = Callable[[str], None]
"""Told what happens now, for people who wait."""
SERVICE = "service"
LIMITS = {
    "pull_attempts_many": 4,
    "backoff_first_ms": 200,
    "backoff_limit_ms": 2_000,
    "backoff_throttled_ms": 500,
}
"""The bounds on the bench's devices, where a scenario does not say others: what is hopeless is given up in seconds."""
INSTALL_S = 60.0
POLL_S = 0.05
TERMINAL = frozenset(status.value for status in JobStatus if status.terminal)
AGENTS = Agents(usual="chaos.agent")


class Bench:
    """The ground that faults stand on (chaos.faults.base.Ground). Use as `async with`."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        recorder: Recorder,
        wants: Wants,
        say: Say,
        *,
        seed: int = 1,
        agents: Agents = AGENTS,
    ) -> None:
        self.scenario = scenario
        self.folder = folder
        self.recorder = recorder
        self.guard = Guard(folder)
        self.front = RegistryFront(seed=seed)
        self.line = LineServer(folder / "line", recorder)
        self._jobs: dict[str, list[str]] = {}
        self.orders: dict[str, list[str]] = {}
        """Versions that were ordered, by client id, beside `jobs`."""
        self.api_observer: ApiObserver | None = None
        """Set while one watches."""
        self._wants = wants
        self._say = say
        self._seed = seed
        self._links = ToxicLinks(folder)
        self._mqtt = MqttProxy(seed=seed)
        self._ways: dict[str, MqttWay] = {}
        self._passages: dict[tuple[Link, str], Passage] = {}
        self._powers: dict[str, Power] = {}
        self._clocks: dict[str, FakeClock] = {}
        self._disks: list[Disk] = []
        self._postgres: Postgres | None = None
        self._births: list[Gate] = []
        self._closing = contextlib.AsyncExitStack()
        if scenario.bench.registry == "distribution":
            distribution.write_accounts(folder / "stack" / "registry")
            agents = replace(agents, registry="chaos.distribution")
        self.stack = Stack(
            folder / "stack", seed=seed, agents=agents, broker=scenario.bench.broker,
            images_on_base=scenario.bench.runtime == "docker",
        )  # fmt: skip

    # ---- what faults ask

    @property
    def devices(self) -> Sequence[Device]:
        """All devices, the first one is number 1."""
        # They are made side by side, and added as each is ready.
        return tuple(sorted(self.stack.devices.values(), key=lambda d: int(d.client_id.rpartition("-")[2])))

    @property
    def api(self) -> httpx.AsyncClient:
        """An Administrator's, straight to the service."""
        return self._api

    @property
    def jobs(self) -> Mapping[str, Sequence[str]]:
        """Ids of the jobs that were ordered, by client id, in order; the first install is the first."""
        return self._jobs

    def chosen(self, device: int | None) -> Sequence[Device]:
        """That device, or all of them."""
        return self.devices if device is None else (self.devices[device - 1],)

    def passages(self, link: Link, device: int | None) -> Sequence[Passage]:
        """The ways through Toxiproxy of a link; only of that device where each has its own."""
        wanted = (
            None if device is None or link is not Link.DEVICE_BROKER else self.devices[device - 1].client_id
        )
        return [p for (of, name), p in self._passages.items() if of is link and wanted in (None, name)]

    def mqtt(self, device: Device) -> MqttWay:
        """The device's way to the broker, packet by packet."""
        return self._ways[device.client_id]

    def power(self, device: Device) -> Power:
        """The device's power."""
        return self._powers[device.client_id]

    def clock(self, device: Device) -> FakeClock:
        """The device's clock."""
        return self._clocks[device.client_id]

    def postgres(self) -> Postgres:
        """The database server. Raises ServiceError where the bench has none."""
        if self._postgres is None:
            raise ServiceError(
                "the bench has no PostgreSQL", todo="Say `database: postgresql` under `bench`."
            )
        return self._postgres

    async def start_agent(self, device: Device) -> None:
        """Start the device's agent (again), with its line to us and its clock."""
        clock = self._clocks.get(device.client_id)
        await self.stack.start_agent(
            device, "--line", str(self.line.path), environment=clock.environment() if clock else None
        )

    # ---- up and down

    async def __aenter__(self) -> Self:
        try:
            await self._set_up()
        except BaseException:
            await self._take_down()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._take_down()

    async def _set_up(self) -> None:
        began = time.monotonic()
        self._say("starting the parts")
        await self.line.start()
        self._closing.push_async_callback(self.line.stop)
        self._closing.push_async_callback(self._links.stop)
        self._closing.push_async_callback(self._mqtt.stop)
        self._closing.push_async_callback(self.front.stop)
        await self._mqtt.start()
        if self._wants.toxic:
            await self._links.start(self._say)
        if self.scenario.bench.database == "postgresql":
            await self._start_postgres()
        self._closing.push_async_callback(self.stack.stop, at_once=True)
        await self.stack.begin()
        await self._between()
        await all_of(self.stack.start_service(), self._start_ground())
        self._api = self.stack.api()
        self._closing.push_async_callback(self._api.aclose)
        self.polled = await self._polled()
        self._say("building and pushing images")
        await all_of(
            publish.publish(self.stack, self.scenario, self._wants.published),
            *(self.stack.register_device(device) for device in self.devices),
        )
        self._say("installing the first version")
        for gate in self._births:
            gate.release()
        if self.scenario.bench.begins is not None:
            async with asyncio.TaskGroup() as group:
                for one in self.devices:
                    group.create_task(self._install(one, self.scenario.bench.begins))
        if self._wants.disk_bytes:
            for power in self._powers.values():
                await power.settle()
        self.recorder.record("run", "bench-ready", ms=round((time.monotonic() - began) * 1000))

    async def _take_down(self) -> None:
        for power in self._powers.values():
            with contextlib.suppress(BlackstartError, OSError):
                await power.close()
        await self._closing.aclose()
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.stop)
        for clock in self._clocks.values():
            clock.close()
        for disk in self._disks:
            with contextlib.suppress(BlackstartError, OSError):
                await asyncio.to_thread(disk.release)
            disk.image.unlink(missing_ok=True)

    async def _start_postgres(self) -> None:
        from chaos.postgres import Postgres

        self._postgres = Postgres(self.folder / "postgres")
        await asyncio.to_thread(self._postgres.start)

    async def _between(self) -> None:
        """No part is up, and the ports are known: stand between them, so that devices and service know no other way."""
        authority, stack = self._authority(), self.stack
        tls = authority.issue_server("registry") if self._wants.registry_tls else None
        await self.front.start(stack.registry_address, tls=tls)
        self.front.listen(requests(self.recorder))
        way = await self._way(SERVICE, authority.issue_service())
        stack.service_broker_port = await self._through(Link.SERVICE_BROKER, SERVICE, way.port)
        if self._postgres is not None:
            url = await asyncio.to_thread(self._postgres.create_database)
            port = await self._through(Link.SERVICE_DATABASE, SERVICE, self._postgres.port)
            stack.database = url.replace(f":{self._postgres.port}/", f":{port}/")

    async def _start_ground(self) -> None:
        """Broker and registry, then the devices, beside the service: the starts of all parts together take longest."""
        await all_of(self.stack.start_broker(), self.stack.start_registry("registry"))
        port = await self._through(Link.DEVICE_REGISTRY, "registry", self.front.port)
        self.stack.add_front("registry", f"{HOST}:{port}")
        await all_of(*(self._make_device(number + 1) for number in range(self.scenario.bench.devices)))

    def _authority(self) -> DevelopmentCA:
        return DevelopmentCA.open_or_create(self.stack.data / "ca")

    async def _way(self, name: str, files: CertificateFiles) -> MqttWay:
        """The MQTT-aware proxy's listener for one client of the broker, which goes by that client's certificate."""
        server = self._authority().issue_server("broker")
        way = await self._mqtt.way(
            name,
            upstream_host=HOST,
            upstream_port=self.stack.broker_port,
            server_files=server,
            client_files=files,
        )
        way.tap = tap(self.recorder, name)
        self._ways[name] = way
        return way

    async def _through(self, link: Link, name: str, port: int) -> int:
        """The port to reach `port` at: Toxiproxy's, where a fault wants it on this link."""
        if link not in self._wants.toxic:
            return port
        passage = await self._links.passage(f"{link}-{name}", port)
        self._passages[link, name] = passage
        return passage.port

    async def _polled(self) -> httpx.AsyncClient:
        """A client of the API as its users have one: through whatever stands before the service."""
        port = await self._through(Link.API_CLIENT, "api", self.stack.service_port)
        headers = {"Authorization": f"Bearer {self.stack.token()}"}
        client = httpx.AsyncClient(
            base_url=f"http://{HOST}:{port}", headers=headers, timeout=2.0, trust_env=False
        )
        self._closing.push_async_callback(client.aclose)
        return client

    # ---- devices

    async def _make_device(self, number: int) -> None:
        name = f"edge-{number}"
        root = self.stack.data / "devices" / name
        disk = await asyncio.to_thread(self._make_disk, root, number) if self._wants.disk_bytes else None
        files = self._authority().issue_device(self.stack.tenant, name)
        way = await self._way(name, files)
        port = await self._through(Link.DEVICE_BROKER, name, way.port)
        settings: dict[str, object] = {
            "broker": {"port": port},
            **self._tls_settings(),
            **self._wants.settings,
        }
        if (watchdog := self.scenario.bench.pull_watchdog) is not None:
            settings["pull_watchdog_ms"] = watchdog
        if self.scenario.bench.memory:
            settings["client"] = {"memory_bytes": self.scenario.bench.memory << 20}
        limits = {**LIMITS, **self.scenario.bench.limits}
        box = await self._box(root)
        device = await asyncio.to_thread(self.stack.prepare_device, name, limits, settings, box)
        if self._wants.faketime:
            self._clocks[name] = FakeClock(self.folder / f"clock-{number}")
        self._powers[name] = Power(device, self.guard, disk, self.recorder)
        # The service may not know it yet, and would not answer.
        self._births.append(way.hold_kind("birth", "broker"))
        await self.start_agent(device)

    def _make_disk(self, root: Path, number: int) -> Disk:
        disk = Disk(self.folder / f"disk-{number}.img", root, self._wants.disk_bytes)
        disk.format()
        disk.mount()
        self._disks.append(disk)
        return disk

    async def _box(self, root: Path) -> BoxMaker:
        """What the device runs its client on; an engine of its own, started, where it is Docker."""
        if self.scenario.bench.runtime == "process":
            return ProcessBox
        engine = _engine(root)
        self._closing.callback(_stop_engine, engine)
        await asyncio.to_thread(engine.start)
        return partial(DockerBox, engine=engine, alone=True, network=self.scenario.bench.network)

    def _tls_settings(self) -> dict[str, object]:
        """What a device has to know of a registry that speaks TLS."""
        if not self._wants.registry_tls:
            return {}
        handle = self.stack.registry()
        return {
            "registries": [{"host": handle.host, "username": "device", "password": handle.pull_password}],
            "registry_ca": str(self._authority().issue_server("registry").ca),
        }

    async def _install(self, device: Device, version: str) -> None:
        job_id = await self.order(device, version)
        end = time.monotonic() + INSTALL_S
        job: dict[str, object] = {}
        while job.get("status") not in TERMINAL:
            if time.monotonic() > end:
                raise ServiceError(
                    f"the first install on {device.client_id} did not end: {job.get('status')}",
                    where=str(device.log), todo="Its log says where it stands.",
                )  # fmt: skip
            await asyncio.sleep(POLL_S)
            job = await self.job(job_id)
        if job.get("status") != JobStatus.SUCCEEDED.value:
            raise ServiceError(
                f"the first install on {device.client_id} ended as {job}", where=str(device.log)
            )

    async def order(self, device: Device, version: str) -> str:
        """Ask for a version as an admin does; answers the job's id. Raises ServiceError."""
        answer = await self.api.post(
            f"/api/v1/clients/{device.client_id}/update", json={"targetVersion": version},
            params={"supersede": "true"},
        )  # fmt: skip
        if answer.status_code != httpx.codes.ACCEPTED:
            self.recorder.record(
                "action", "refused", device.client_id, status=answer.status_code, body=answer.text[:1000]
            )
            raise ServiceError(f"the update was not accepted: {answer.status_code} {answer.text}")
        job_id = str(answer.json()["jobId"])
        self._jobs.setdefault(device.client_id, []).append(job_id)
        self.orders.setdefault(device.client_id, []).append(version)
        return job_id

    def all_ended(self) -> bool:
        """Whether the API has shown an end of every job of the method."""
        return self.api_observer is None or self.api_observer.all_ended()

    async def job(self, job_id: str) -> dict[str, object]:
        """The job as the API shows it; empty while the service does not answer."""
        try:
            answer = await self.api.get(f"/api/v1/jobs/{job_id}")
            found: dict[str, object] = answer.json() if answer.status_code == httpx.codes.OK else {}
        except (httpx.HTTPError, ValueError):
            return {}
        return found

    async def reconfigure(self, device: Device, **settings: object) -> None:
        """Change the agent's configuration file; the agent reads it when it starts again."""
        body = json.loads(await asyncio.to_thread(device.config.read_bytes))
        await asyncio.to_thread(
            write_durably, device.config, json.dumps({**body, **settings}, indent=1).encode()
        )


def _engine(root: Path) -> PrivateEngine:
    return PrivateEngine(engine_folder(root.resolve()), live_restore=True)


def _stop_engine(engine: PrivateEngine) -> None:
    for _ in range(2):
        with contextlib.suppress(BlackstartError):
            engine.stop()
            return


__all__ = ["AGENTS", "DEFAULT_LIMITS", "SERVICE", "TERMINAL", "Bench", "Say"]
