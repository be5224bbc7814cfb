"""The whole embedded stack on one machine: started and stopped in one place, all on loopback.

    certificate authority, broker, registry, service, and any number of devices, each part a process of its own

All that it keeps is under one folder; a second start goes on with what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from reference.broker.mosquitto_files import add_device as allow_device
from reference.core.errors import BlackstartError, InputError, ServiceError
from reference.core.model import Health
from reference.oci.build import Healthcheck
from reference.pki.authority import DevelopmentCA
from reference.pki.signing import command_signing_key
from reference.registry.users import RegistryUsers, make_user
from reference.service.auth import Role, issue_token
from reference.stack.box import BoxMaker, ProcessBox
from reference.stack.device import Device
from reference.stack.folder import (
    HOST,
    folder_errors,
    free_port,
    kept_port,
    locked,
    read_object,
    read_secret,
    secret,
)
from reference.stack.images import PUBLISHER, build_and_push, to_its_end
from reference.stack.parts import SPOKEN, Agents, RegistryHandle, laid_over
from reference.support.files import write_durably
from reference.support.processes import ManagedProcess, ProcessError, start_module

TENANT = "acme"
DEMO_HEALTH = Health(probe="/healthz", start_period_ms=1_000, window_ms=3_000, stable_for_ms=1_000)
"""Short, for a workload that starts in milliseconds and people who look on."""
REGISTRY_USER = "device"
"""The account of a registry that devices pull with."""

LOCK_WAIT_S = 3.0
"""How long the parts of a stack that was killed may take to end, before the folder counts as in use."""


DEFAULT_AGENTS = Agents()


@dataclass(slots=True)
class Stack:
    """Every part, under `data`. Use as `async with Stack(folder) as stack`."""

    data: Path
    tenant: str = TENANT
    service_port: int = 0
    registry_port: int = 0
    seed: int | None = None
    agents: Agents = DEFAULT_AGENTS
    broker: str = "amqtt"
    """`amqtt` (embedded) or `mosquitto` (installed): what the broker's `--kind` takes."""
    database: str | None = None
    """URL of the service's database; SQLite in the folder without one."""
    box: BoxMaker = ProcessBox
    """What devices run their client on, where they are not given another box."""
    images_on_base: bool = False
    """Whether images have Python in them, as an engine needs it; the process runtime has its own."""
    service_broker_port: int = 0
    """Where the service finds the broker, when something stands between them; 0: at the broker's own port."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of the published versions."""
    devices: dict[str, Device] = field(default_factory=dict)
    _parts: dict[str, ManagedProcess] = field(default_factory=dict)
    _registries: dict[str, RegistryHandle] = field(default_factory=dict)
    broker_port: int = 0
    mqtt_version: str = "3.1.1"
    """What the broker speaks, as it says itself."""
    _lock: int | None = None

    async def __aenter__(self) -> Stack:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything but devices. Raises BlackstartError with the part's log when one does not come up."""
        with folder_errors(self.data):
            await self.begin()
            await all_of(self.start_broker(), self.start_registry("registry", self.registry_port))
            await self.start_service()

    async def begin(self) -> None:
        """Take the folder and choose the ports of broker and registry; what a broker speaks is known by its kind.

        Whoever wants to stand between the parts gets in after this. Any part may be started then, before any other.
        """
        with folder_errors(self.data):
            self.data.mkdir(parents=True, exist_ok=True)
            await self._take_folder()
            for name in ("broker", "registry"):
                if not self._remembered(name):
                    self._remember(name, free_port())
        self.broker_port, self.mqtt_version = self._remembered("broker"), SPOKEN[self.broker]

    @property
    def registry_address(self) -> str:
        """`host:port` of the first registry, once its port is chosen."""
        return f"{HOST}:{self.registry_port or self._remembered('registry')}"

    async def _take_folder(self) -> None:
        """Lock the folder. The parts inherit the lock, so it is held until the last one has ended, too."""
        if self._lock is not None:
            return
        lock = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                while not locked(lock):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, TimeoutError):
                raise InputError(
                    "another blackstart runs on this folder",
                    where=str(self.data),
                    todo="End that one first, or give --data another folder.",
                ) from None
            raise
        self._lock = lock

    async def start_broker(self) -> None:
        """Start the broker, or start it again on the same port. Raises InputError when it is not installed."""
        authority = DevelopmentCA.open_or_create(self.data / "ca")
        server = authority.issue_server("broker")
        said = await self._start_part(
            "broker", "reference.broker", "--kind", self.broker, "--port", str(self._remembered("broker")),
            "--ca", str(server.ca), "--cert", str(server.cert), "--key", str(server.key),
            "--crl", str(authority.revoked), "--data", str(self._broker_data),
        )  # fmt: skip
        self.broker_port, self.mqtt_version = _port(said), str(said.get("mqttVersion") or self.mqtt_version)

    @property
    def _broker_data(self) -> Path:
        return self.data / "broker"

    async def start_service(self) -> None:
        """Start the management service, or start it again on the same port."""
        authority = DevelopmentCA.open_or_create(self.data / "ca")
        files = authority.issue_service()
        signing = command_signing_key(self.data / "signing")
        database = ("--database", self.database) if self.database is not None else ()
        said = await self._start_part(
            "service", self.agents.service,
            "--data", str(self.data / "service"), "--port", str(self.service_port),
            "--broker-host", HOST, "--broker-port", str(self.service_broker_port or self.broker_port),
            "--mqtt-version", self.mqtt_version,
            "--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key),
            "--signing-key", str(signing.private), "--ca-dir", str(self.data / "ca"), *database,
        )  # fmt: skip
        self.service_port = _port(said)

    async def stop_part(self, name: str) -> None:
        """Stop `broker`, `service` or a registry."""
        if (process := self._parts.pop(name, None)) is not None:
            await process.stop()

    async def kill_part(self, name: str) -> None:
        """SIGKILL for `broker`, `service` or a registry."""
        if (process := self._parts.pop(name, None)) is not None:
            await process.kill()

    def pid_of(self, name: str) -> int:
        """Process id of `broker`, `service` or a registry, while it runs."""
        return self._parts[name].pid

    def add_front(self, name: str, host: str, of: str = "registry") -> None:
        """Name something that stands before a registry: devices reach it there, images are pushed to the registry."""
        behind = self._registries[of]
        self._registries[name] = RegistryHandle(
            None, host, behind.pull_password, behind.push_password, behind.host
        )

    async def start_registry(self, name: str, port: int = 0) -> RegistryHandle:
        """Start a registry of that name with one user; its data is kept under the name."""
        folder = self.data / name
        folder.mkdir(parents=True, exist_ok=True)
        users = folder / "users.json"
        secret_files = [folder / f"{account}-password" for account in (REGISTRY_USER, PUBLISHER)]
        known = users.exists() and all(read_secret(path) for path in secret_files)
        pull, push = (secret(path) for path in secret_files)
        if not known:
            device, publisher = make_user(REGISTRY_USER, pull), make_user(PUBLISHER, push, push=True)
            RegistryUsers({REGISTRY_USER: device, PUBLISHER: publisher}).save(users)
        arguments = [
            "--data",
            str(folder / "data"),
            "--users",
            str(users),
            "--port",
            str(port or self._remembered(name)),
        ]
        port = _port(await self._start_part(name, self.agents.registry, *arguments))
        handle = RegistryHandle(self._parts[name], f"{HOST}:{port}", pull, push)
        self._registries[name] = handle
        return handle

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop everything, clients too: a stack leaves no process behind. `at_once`: SIGKILL, for a folder that goes, too."""
        await asyncio.gather(*(self._ended(device) for device in self.devices.values()))
        end = self.kill_part if at_once else self.stop_part
        for name in ("service", *(n for n in self._parts if n not in ("service", "broker")), "broker"):
            with contextlib.suppress(ServiceError):
                await end(name)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def registry(self, name: str = "registry") -> RegistryHandle:
        """The registry of that name."""
        return self._registries[name]

    # ---- devices

    async def add_device(
        self,
        client_id: str,
        limits: Mapping[str, int] | None = None,
        settings: Mapping[str, object] | None = None,
        box: BoxMaker | None = None,
    ) -> Device:
        """Set a device up and register its client; its agent is not started yet.

        `limits` and `settings` are the updater's bounds and the agent's configuration, where they differ; its `client`
        and `engine` field by field.
        """
        device = self.prepare_device(client_id, limits, settings, box)
        await self.register_device(device)
        return device

    def prepare_device(
        self,
        client_id: str,
        limits: Mapping[str, int] | None = None,
        settings: Mapping[str, object] | None = None,
        box: BoxMaker | None = None,
    ) -> Device:
        """Set a device up; the service does not know it yet."""
        root = self.data / "devices" / client_id
        device = Device(self.tenant, client_id, root, self._port_of(client_id), box or self.box)
        with folder_errors(self.data):
            self._write_device(device, limits or {}, settings or {})
        self.devices[client_id] = device
        return device

    async def register_device(self, device: Device) -> None:
        """Have the service know its client. Raises ServiceError."""
        async with self.api() as api:
            answer = await api.post("/api/v1/clients", json={"clientId": device.client_id})
        if answer.status_code not in (200, 201):
            raise ServiceError(f"the client {device.client_id} could not be registered: {answer.text}")

    def allow(self, client_id: str) -> None:
        """Give a device its rights at the broker, where the broker keeps a list of them."""
        if self.broker == "mosquitto":
            allow_device(self._broker_data, self.tenant, client_id)

    def _write_device(
        self, device: Device, limits: Mapping[str, int], settings: Mapping[str, object]
    ) -> None:
        """Its folders, its certificate, and the configurations of its client and its agent."""
        for folder in (device.state_dir, device.run_dir, device.samples.parent):
            folder.mkdir(parents=True, exist_ok=True)
        client_config = device.root / "client.json"
        source = {"kind": "simulated", "seed": 1}
        client = {"port": device.client_port, "host": device.box.listens, "source": source}
        write_durably(client_config, json.dumps(client).encode())
        certificate = DevelopmentCA.open_or_create(self.data / "ca").issue_device(
            self.tenant, device.client_id
        )
        broker = {
            "host": HOST, "port": self.broker_port,
            "ca": str(certificate.ca), "cert": str(certificate.cert), "key": str(certificate.key),
            "mqtt_version": self.mqtt_version,
        }  # fmt: skip
        self.allow(device.client_id)
        registries = [
            {"host": r.host, "plain_http": True, "username": REGISTRY_USER, "password": r.pull_password}
            for r in self._registries.values()
        ]
        mounts = {"/data": str(device.samples.parent), "/etc/opc-client/config.json": str(client_config)}
        config: dict[str, object] = {
            "tenant_id": self.tenant,
            "client_id": device.client_id,
            "state_dir": str(device.state_dir),
            "run_dir": str(device.run_dir),
            "broker": broker,
            "registries": registries,
            "client": {"port": device.client_port, "mounts": mounts},
            "command_keys": [str(command_signing_key(self.data / "signing").public)],
            "limits": dict(limits),
            "seed": self.seed,
        }
        config = laid_over(laid_over(config, device.box.settings()), settings)
        write_durably(device.config, json.dumps(config, indent=1).encode())

    async def start_agent(
        self,
        device: Device,
        *arguments: str,
        pausing: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start (or start again) the device's agent; `environment`: of it alone, beside ours."""
        module = self.agents.pausing if pausing else self.agents.usual
        device.agent = await start_module(
            module, "--config", str(device.config), *arguments, log_path=device.log, keep_open=self._held(),
            env_extra=environment,
        )  # fmt: skip
        await device.agent.ready()

    async def _ended(self, device: Device) -> None:
        with contextlib.suppress(BlackstartError):
            await self.stop_device(device)

    async def stop_device(self, device: Device) -> None:
        """End the agent, then the client."""
        if device.agent is not None and device.agent.alive:
            await device.agent.stop()
        await device.box.clear()

    # ---- versions

    async def publish(
        self,
        version: str,
        defect: str | None = None,
        registry: str = "registry",
        health: Health = DEMO_HEALTH,
        *,
        repository: str = "opc-client",
        architecture: str | None = None,
        policy: Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        healthcheck: Healthcheck | None = None,
        after_ms: int | None = None,
        padding_bytes: int = 0,
    ) -> str:
        """Build, push and register a version of the client; answers its digest. Raises BlackstartError.

        `policy`: of its updates, as the API takes it. `labels`, `healthcheck` and `padding_bytes` (which do not compress):
        of the image. `after_ms`: of the defect.
        """
        work = self.data / "images" / version
        handle = self._registries[registry]
        target = f"{handle.push_host or handle.host}/{repository}:{version}"
        with folder_errors(self.data):
            building = asyncio.to_thread(
                build_and_push, work, version, defect, architecture, target, handle.push_password,
                on_base=self.images_on_base, healthcheck=healthcheck, labels=labels, after_ms=after_ms,
                padding_bytes=padding_bytes,
            )  # fmt: skip
            digest = await to_its_end(building)
        await self.register(version, f"{handle.host}/{repository}", digest, health, policy=policy)
        return digest

    async def register(
        self,
        version: str,
        repository: str,
        digest: str,
        health: Health = DEMO_HEALTH,
        *,
        policy: Mapping[str, object] | None = None,
    ) -> None:
        """Make a version known to the service, whether a registry has it or not. Raises BlackstartError."""
        self.digests[version] = digest
        body: dict[str, object] = {
            "version": version,
            "repository": repository,
            "digest": digest,
            "health": {
                "probe": health.probe,
                "startPeriodMs": health.start_period_ms,
                "windowMs": health.window_ms,
                "stableForMs": health.stable_for_ms,
            },
        }
        if policy:
            body["policy"] = dict(policy)
        async with self.api() as api:
            answer = await api.post("/api/v1/versions", json=body)
        if answer.status_code == httpx.codes.CONFLICT:
            raise InputError(
                f"the version {version} is known here as another image, or at another address of the registry",
                where=str(self.data),
                todo="Has ports.json been lost? Remove the folder, or give --data another one.",
            )
        if answer.status_code not in (200, 201):
            raise ServiceError(f"the version {version} could not be registered: {answer.text}")

    # ---- the API

    @property
    def url(self) -> str:
        """Where the service listens."""
        return f"http://{HOST}:{self.service_port}"

    def token(self, role: Role = Role.ADMINISTRATOR) -> str:
        """A token of the development issuer."""
        return issue_token(self.data / "service", subject="local", tenant=self.tenant, role=role)

    def api(self) -> httpx.AsyncClient:
        """An Administrator's client of the API."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10.0, trust_env=False)

    def _held(self) -> tuple[int, ...]:
        return () if self._lock is None else (self._lock,)

    async def _start_part(self, name: str, module: str, *arguments: str) -> Mapping[str, object]:
        process = await start_module(
            module, *arguments, log_path=self.data / "logs" / f"{name}.log", keep_open=self._held()
        )
        self._parts[name] = process
        try:
            said = dict(await process.ready())
        except ProcessError as error:
            if (
                process.returncode == 2
            ):  # Every part's word for what it was given: a port that is taken, for one.
                raise InputError(error.what, where=error.where) from None
            raise
        self._remember(name, _port(said))
        return said

    def _remembered(self, name: str) -> int:
        """The port that a part had: versions and devices name it, so it stays the same over starts."""
        return kept_port(read_object(self.data / "ports.json").get(name))

    def _remember(self, name: str, port: int) -> None:
        path = self.data / "ports.json"
        write_durably(path, json.dumps({**read_object(path), name: port}).encode())

    def _port_of(self, client_id: str) -> int:
        return (
            kept_port(read_object(self.data / "devices" / client_id / "client.json").get("port"))
            or free_port()
        )


async def all_of(*works: Awaitable[object]) -> None:
    """All to their end, though one fails: what is still being started would not be stopped. Raises the first failure."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _port(said: Mapping[str, object]) -> int:
    """The port that a part says it listens on."""
    port = said.get("port")
    if not isinstance(port, int):
        raise ServiceError("a part did not say its port")
    return port


__all__ = [
    "DEFAULT_AGENTS",
    "DEMO_HEALTH",
    "HOST",
    "TENANT",
    "Agents",
    "Device",
    "Stack",
    "all_of",
    "folder_errors",
    "free_port",
]
