"""`make bench-api`: what the API and the way to the devices cost, beside floors measured in the same run.

POST update       200 a second, each for another client, from the instant it was due to its 202,
                  against a bare FastAPI endpoint with one durable insert on the same database
command           a burst of one update to each of 100 devices that are online: POST sent to the device having verified
                  the command; and the same at a steady 50 a second
registry          push and pull of 100 MB, against Debian's docker-registry

Twice: SQLite with the embedded broker, PostgreSQL with Mosquitto. What is not installed is named and left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from reference.pki.authority import DevelopmentCA
from reference.pki.signing import command_signing_key
from reference.protocol.envelope import key_ring, load_public_key
from reference.protocol.models import UpdateCommand
from reference.stack import Stack
from reference.support.processes import start_module
from tests.service.fleet import FakeDevice
from tests.support.postgres import Postgres, available
from tools.bench_load import Request, Sent, order, post_all

RATE = 200.0
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))
DEVICES, STEADY_RATE, ROUNDS = 100, 50.0, int(os.environ.get("BENCH_ROUNDS", "5"))
VERSION, SECOND = "1.0.0", "2.0.0"
DIGESTS = {VERSION: "sha256:" + "a" * 64, SECOND: "sha256:" + "b" * 64}
REGISTER_LANES = 16
ONLINE_S = 60.0

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Variant:
    """One pair of parts."""

    name: str
    broker: str
    database: str | None


class Listening(FakeDevice):
    """A fake device that notes when it had verified a command."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.taken: dict[str, float] = {}

    def _take(self, command: UpdateCommand) -> None:
        self.taken.setdefault(command.job_id, time.monotonic())
        super()._take(command)


def main() -> None:
    """Measure, and print one table, or JSON with `--json`."""
    rows: list[Row] = []
    left_out: list[str] = []
    with _variants(left_out) as variants:
        for variant in variants:
            with tempfile.TemporaryDirectory(
                prefix="blackstart-bench-", dir=os.environ.get("BENCH_DIR")
            ) as folder:
                rows += asyncio.run(_measure(variant, Path(folder)))
    rows += _registry(left_out)
    machine = _machine()
    if "--json" in sys.argv:
        print(json.dumps({"machine": machine, "rows": rows, "left_out": left_out}, indent=1))
        return
    table = Table(box=None, pad_edge=False, title=machine, title_justify="left")
    for title in ("WHAT", "ON", "p50", "p95", "UNIT", "FLOOR p50", "FLOOR p95", "RATIO p95"):
        table.add_column(title, justify="left" if title in ("WHAT", "ON", "UNIT") else "right")
    for row in rows:
        keys = ("what", "on", "p50", "p95", "unit", "floor", "floor_p95", "ratio")
        table.add_row(*(str(row.get(key, "-")) for key in keys))
    Console(width=140).print(table)
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
        _say(f"{variant.name}: {requests} updates at {RATE:g} a second")
        sent = await post_all(stack.service_port, [order(c, VERSION) for c in quiet], RATE, headers)
        _all(sent, 202)
        rows: list[Row] = [_row("POST update at 200/s", variant, sent, floor)]
        async with _online(stack) as devices:
            _say(f"{variant.name}: {DEVICES} devices online")
            rows.append(
                await _reach(stack, api, devices, variant, 1_000_000.0, "command to device, burst of 100")
            )
            rows.append(await _reach(stack, api, devices, variant, STEADY_RATE, "command to device, 50/s"))
    return rows


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


async def _reach(
    stack: Stack, api: httpx.AsyncClient, devices: list[Listening], variant: Variant, rate: float, what: str
) -> Row:
    """Rounds of one update to each device; a round begins when every job of the one before has ended."""
    headers = {"Authorization": f"Bearer {stack.token()}"}
    found: list[float] = []
    for number in range(ROUNDS):
        version = (VERSION, SECOND)[number % 2]
        sent = await post_all(stack.service_port, [order(d.client, version) for d in devices], rate, headers)
        _all(sent, 202)
        jobs = {json.loads(body)["jobId"]: at for body, at in zip(sent.bodies, sent.begun, strict=True)}
        async with asyncio.timeout(ONLINE_S):
            while True:
                taken = dict(itertools.chain.from_iterable(d.taken.items() for d in devices))
                if jobs.keys() <= taken.keys() and await _none_open(api):
                    break
                await asyncio.sleep(0.05)
        found += [(taken[job] - at) * 1000 for job, at in jobs.items()]
    measured = Sent(latencies_ms=found)
    return {
        "what": what, "on": variant.name, "unit": "ms", "p50": round(measured.percentile(0.5), 1),
        "p95": round(measured.percentile(0.95), 1),
    }  # fmt: skip


async def _none_open(api: httpx.AsyncClient) -> bool:
    answer = await api.get("/api/v1/jobs", params={"status": "IN_PROGRESS", "limit": 1})
    answer.raise_for_status()
    if answer.json()["items"]:
        return False
    answer = await api.get("/api/v1/clients", params={"idPrefix": "edge-", "limit": 200})
    return answer.status_code == 200


def _registry(left_out: list[str]) -> list[Row]:
    """The registry's own benchmark, with its own floor."""
    if shutil.which("docker-registry") is None:
        left_out.append("registry: docker-registry is not installed")
        return []
    _say("registry: 100 MB")
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench_registry", "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        left_out.append(f"registry: its benchmark failed: {done.stderr[-500:]}")
        return []
    found: list[Row] = json.loads(done.stdout)["rows"]
    return found


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


def _machine() -> str:
    described = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in described if line.startswith("model name")), "?")
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def _say(what: str) -> None:
    print(what, file=sys.stderr)


if __name__ == "__main__":
    main()
