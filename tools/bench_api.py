"""`make bench-api`: what the API and the way to the devices cost, beside floors measured in the same run.

POST update       200 a second, each for another client, from the instant it was due to its 202,
                  against a bare FastAPI endpoint with one durable insert on the same database
command           to each of 100 devices that are online, at a steady 50 a second and as one burst: from the instant the
                  POST was due, and from its 202, to the device having verified the command, against a bare message
                  of the same size through the same broker to the same device
memory            of the service, before and after the updates and at its end
registry          push and pull of 100 MB, against Debian's docker-registry

Twice: SQLite with the embedded broker, PostgreSQL with Mosquitto. What is not installed is named and left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from reference.pki.authority import DevelopmentCA
from reference.pki.names import SERVICE_NAME
from reference.pki.signing import command_signing_key
from reference.protocol import topics
from reference.protocol.envelope import key_ring, load_public_key
from reference.protocol.models import UpdateCommand
from reference.protocol.topics import Kind
from reference.stack import Stack
from reference.support.mqtt import Message, MqttLink, Protocol, TlsFiles
from reference.support.processes import start_module
from tests.service.fleet import TENANT, FakeDevice
from tests.support.postgres import Postgres, available
from tools.bench_load import Request, Sent, order, post_all
from tools.machine import machine

RATE = 200.0
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))
DEVICES, ROUNDS = 100, int(os.environ.get("BENCH_ROUNDS", "5"))
STEADY_RATE, BURST_RATE = 50.0, 1_000_000.0
"""Commands a second."""
VERSION, SECOND = "1.0.0", "2.0.0"
DIGESTS = {VERSION: "sha256:" + "a" * 64, SECOND: "sha256:" + "b" * 64}
REGISTER_LANES = 16
ONLINE_S = 60.0
BARE, BARE_ID_BYTES, BARE_BYTES = b"bare-", 24, 1_100
"""A message that is no command, as long as one."""

Row = dict[str, object]
KEYS = ("what", "on", "p50", "p95", "unit", "floor", "floor_p95", "ratio")


@dataclass(frozen=True, slots=True)
class Variant:
    """One pair of parts."""

    name: str
    broker: str
    database: str | None


@dataclass(frozen=True, slots=True)
class Reached:
    """How long commands took to their devices. A command is published when its order is answered."""

    from_post: Sent
    from_answer: Sent


class Listening(FakeDevice):
    """A fake device that notes when it had verified a command."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.taken: dict[str, float] = {}
        self.bare: dict[bytes, float] = {}

    def _hear(self, message: Message) -> None:
        if message.payload.startswith(BARE):
            self.bare[message.payload[:BARE_ID_BYTES]] = time.monotonic()
        else:
            super()._hear(message)

    def _take(self, command: UpdateCommand) -> None:
        self.taken.setdefault(command.job_id, time.monotonic())
        super()._take(command)


def main() -> None:
    """Measure, and print one table, or JSON with `--json`."""
    rows: list[Row] = []
    left_out: list[str] = []
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    with _variants(left_out) as variants:
        for variant in variants:
            with tempfile.TemporaryDirectory(
                prefix="blackstart-bench-", dir=os.environ.get("BENCH_DIR")
            ) as folder:
                rows += asyncio.run(_measure(variant, Path(folder)))
    rows += _registry(left_out)
    ran_on = f"{machine()}, {load}"
    if "--json" in sys.argv:
        print(json.dumps({"machine": ran_on, "rows": rows, "left_out": left_out}, indent=1))
        return
    table = Table(box=None, pad_edge=False, title=ran_on, title_justify="left")
    for title in ("WHAT", "ON", "p50", "p95", "UNIT", "FLOOR p50", "FLOOR p95", "RATIO p95"):
        table.add_column(title, justify="left" if title in ("WHAT", "ON", "UNIT") else "right")
    for row in rows:
        if "p95" in row:
            table.add_row(*(str(row.get(key, "-")) for key in KEYS))
    Console(width=140).print(table)
    for row in rows:
        if "note" in row:
            print(f"{row['what']}, {row['on']}: {row['note']}")
    for what in left_out:
        print(f"left out: {what}")


@contextlib.contextmanager
def _variants(left_out: list[str]) -> Iterator[list[Variant]]:
    found = [Variant("SQLite + amqtt", "amqtt", None)]
    mosquitto = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not (available() and mosquitto):
        left_out.append("PostgreSQL + Mosquitto: not both are installed")
        yield found
        return
    server = Postgres()
    try:
        server.start()
        yield [*found, Variant("PostgreSQL + Mosquitto", "mosquitto", server.create_database("template0"))]
    finally:
        server.stop()


async def _measure(variant: Variant, folder: Path) -> list[Row]:
    """All of one pair of parts."""
    _say(f"{variant.name}: setting up")
    requests = int(RATE * SECONDS)
    floor_database = variant.database or f"sqlite:///{folder / 'floor.db'}"
    floor = await _floor(floor_database, folder, [order(f"c-{n}", VERSION) for n in range(requests)])
    stack = Stack(folder / "stack", broker=variant.broker, database=variant.database)
    async with stack, stack.api() as api:
        await stack.register(VERSION, "127.0.0.1:1/opc-client", DIGESTS[VERSION])
        await stack.register(SECOND, "127.0.0.1:1/opc-client", DIGESTS[SECOND])
        headers = {"Authorization": f"Bearer {stack.token()}"}
        quiet = [f"quiet-{n}" for n in range(requests)]
        _say(f"{variant.name}: registering {requests} clients")
        await _register(stack, [*quiet, *(f"edge-{n}" for n in range(DEVICES))])
        memory = [_memory_mb(stack)]
        _say(f"{variant.name}: {requests} updates at {RATE:g} a second")
        sent = await post_all(stack.service_port, [order(c, VERSION) for c in quiet], RATE, headers)
        _all(sent, 202)
        memory.append(_memory_mb(stack))
        rows: list[Row] = [_row("POST update at 200/s", variant, sent, floor)]
        async with _online(stack) as devices:
            _say(f"{variant.name}: {DEVICES} devices online")
            steady = await _reach(stack, api, devices, STEADY_RATE)
            burst = await _reach(stack, api, devices, BURST_RATE)
            memory.append(_memory_mb(stack))
            bare_steady, bare_burst = await _bare(stack, devices)
        for what, reached, bare in (("50/s", steady, bare_steady), ("burst of 100", burst, bare_burst)):
            rows.append(_row(f"POST to device acting, {what}", variant, reached.from_post, bare))
            rows.append(_row(f"202 to device acting, {what}", variant, reached.from_answer, bare))
    before, after, end = memory
    note = f"{before:.0f} MB before the updates, {after:.0f} after {requests} of them, {end:.0f} at the end"
    rows.append({"what": "memory of the service", "on": variant.name, "mb": memory, "note": note})
    return rows


def _memory_mb(stack: Stack) -> float:
    """Resident memory of the service's process."""
    status = Path(f"/proc/{stack.pid_of('service')}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmRSS"))) / 1024


async def _floor(database: str, folder: Path, requests: list[Request]) -> Sent:
    process = await start_module("tools.bench_floor", database, log_path=folder / "floor.log")
    try:
        port = (await process.ready()).get("port")
        assert isinstance(port, int)
        sent = await post_all(port, requests, RATE, {})
    finally:
        await process.stop()
    _all(sent, 202)
    return sent


async def _register(stack: Stack, clients: list[str]) -> None:
    """Many at once: a registration is an API call like any other."""
    waiting = iter(clients)

    async def lane() -> None:
        async with stack.api() as api:
            for client in waiting:
                answer = await api.post("/api/v1/clients", json={"clientId": client})
                assert answer.status_code == 201, answer.text

    async with asyncio.TaskGroup() as group:
        for _ in range(REGISTER_LANES):
            group.create_task(lane())


@contextlib.asynccontextmanager
async def _online(stack: Stack) -> AsyncIterator[list[Listening]]:
    """Devices with certificates of their own, each known to the service."""
    authority = DevelopmentCA.open_or_create(stack.data / "ca")
    keys = key_ring(load_public_key(command_signing_key(stack.data / "signing").public))
    devices = []
    for number in range(DEVICES):
        client = f"edge-{number}"
        stack.allow(client)
        files = authority.issue_device(stack.tenant, client)
        devices.append(Listening(client, stack.broker_port, files, keys, random.Random(number)))
    await asyncio.sleep(1.0)
    running = [asyncio.create_task(device.run()) for device in devices]
    try:
        async with asyncio.timeout(ONLINE_S):
            while not all(device.known for device in devices):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield devices
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _reach(stack: Stack, api: httpx.AsyncClient, devices: list[Listening], rate: float) -> Reached:
    """Rounds of one update to each device; a round begins when every job of the one before has ended."""
    headers = {"Authorization": f"Bearer {stack.token()}"}
    from_post, from_answer = Sent(), Sent()
    for number in range(ROUNDS):
        version = (VERSION, SECOND)[number % 2]
        sent = await post_all(stack.service_port, [order(d.client, version) for d in devices], rate, headers)
        _all(sent, 202)
        jobs = {
            json.loads(body)["jobId"]: (at, at + took_ms / 1000)
            for body, at, took_ms in zip(sent.bodies, sent.begun, sent.latencies_ms, strict=True)
        }
        async with asyncio.timeout(ONLINE_S):
            while True:
                taken = dict(itertools.chain.from_iterable(d.taken.items() for d in devices))
                if jobs.keys() <= taken.keys() and await _none_open(api):
                    break
                await asyncio.sleep(0.05)
        from_post.latencies_ms += [(taken[job] - due) * 1000 for job, (due, _) in jobs.items()]
        # The device may be faster than the one who reads the answer.
        from_answer.latencies_ms += [
            max(taken[job] - answered, 0.0) * 1000 for job, (_, answered) in jobs.items()
        ]
    return Reached(from_post, from_answer)


async def _none_open(api: httpx.AsyncClient) -> bool:
    """Whether the last job of every device that is online has ended."""
    wanted = {"prefix": "edge-", "limit": "1", "lastJobStatus": ["QUEUED", "IN_PROGRESS"]}
    answer = await api.get("/api/v1/clients", params=wanted)
    answer.raise_for_status()
    return not answer.json()["items"]


async def _bare(stack: Stack, devices: list[Listening]) -> tuple[Sent, Sent]:
    """The floor of `_reach`, steady and as bursts. It ends the service, whose place at the broker it takes."""
    await stack.stop_part("service")
    files = DevelopmentCA.open_or_create(stack.data / "ca").issue_service()
    protocol = Protocol(stack.mqtt_version)
    tls = TlsFiles(files.ca, files.cert, files.key)
    link = MqttLink("127.0.0.1", stack.broker_port, SERVICE_NAME, tls, protocol=protocol)
    await link.start()
    try:
        async with asyncio.timeout(ONLINE_S):
            while not link.connected:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return await _bare_rounds(link, devices, STEADY_RATE), await _bare_rounds(link, devices, BURST_RATE)
    finally:
        await link.stop()


async def _bare_rounds(link: MqttLink, devices: list[Listening], rate: float) -> Sent:
    found: list[float] = []
    for number in range(ROUNDS):
        start, due = time.monotonic(), dict[bytes, float]()
        async with asyncio.timeout(ONLINE_S), asyncio.TaskGroup() as group:
            for place, device in enumerate(devices):
                at = start + place / rate
                if (wait := at - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                name = (BARE + f"{rate:g}-{number}-{place}".encode()).ljust(BARE_ID_BYTES)
                due[name] = at
                where = topics.topic(TENANT, device.client, Kind.UPDATE)
                group.create_task(link.publish(where, name.ljust(BARE_BYTES)))
            while len(heard := _heard(devices, due)) < len(devices):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        found += [(heard[name] - at) * 1000 for name, at in due.items()]
    return Sent(latencies_ms=found)


def _heard(devices: list[Listening], wanted: Iterable[bytes]) -> dict[bytes, float]:
    found = dict(itertools.chain.from_iterable(device.bare.items() for device in devices))
    return {name: found[name] for name in wanted if name in found}


def _registry(left_out: list[str]) -> list[Row]:
    """The registry's own benchmark, with its own floor."""
    if shutil.which("docker-registry") is None:
        left_out.append("registry: docker-registry is not installed")
        return []
    _say("registry: 100 MB")
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench_registry", "--json"], capture_output=True, text=True, check=False
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        left_out.append(f"registry: its benchmark failed: {done.stderr[-500:]}")
        return []
    rows: list[Row] = [
        {
            "what": f"registry, {found['megabytes']} MB {what}", "on": "median", "unit": "ms",
            "p50": found[what]["ours_ms"], "p95": "-", "floor": found[what]["other_ms"], "ratio": found[what]["ratio"],
        }
        for what in ("push", "pull")
    ]  # fmt: skip
    memory = found["memory"]
    note = (
        f"peak {memory['ours_peak_kib'] // 1024} MB, grown by {memory['ours_growth_kib'] // 1024} MB; "
        f"docker-registry {memory['other_peak_kib'] // 1024} MB"
    )
    return [*rows, {"what": "memory of the registry", "on": "all rounds", "note": note}]


def _row(what: str, variant: Variant, sent: Sent, floor: Sent) -> Row:
    p95, least = sent.percentile(0.95), floor.percentile(0.95)
    return {
        "what": what, "on": variant.name, "unit": "ms", "p50": round(sent.percentile(0.5), 1), "p95": round(p95, 1),
        "floor": round(floor.percentile(0.5), 1), "floor_p95": round(least, 1), "ratio": round(p95 / least, 1),
    }  # fmt: skip


def _all(sent: Sent, status: int) -> None:
    if set(sent.statuses) != {status}:
        odd = next(body for body in sent.bodies if b'"jobId"' not in body)
        raise SystemExit(f"bench-api: not every answer was {status}: {dict(sent.statuses)}, {odd[:300]!r}")


def _say(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    main()
