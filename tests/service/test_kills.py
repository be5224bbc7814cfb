"""The service killed, and killed again, while devices update: nothing is lost, nothing happens twice.

Real processes: the service, the embedded broker, the database. What is not real: the devices, and the service's first
half second (`tests/service/forker.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from reference.core.job import JobStatus
from reference.pki import DevelopmentCA
from reference.pki.signing import command_signing_key
from reference.protocol.envelope import key_ring, load_private_key, public_key
from reference.protocol.topics import Kind
from reference.service.auth import issue_token
from reference.stack import free_port
from reference.support.processes import ROOT, start_module
from tests.service.fleet import TENANT, Caller, FakeDevice
from tests.support.postgres import Postgres

DEVICES = 20
PATIENCE_S = 60.0
SEED = int(os.environ.get("BLACKSTART_KILLS_SEED", "20260729"))


@dataclass
class Target:
    """The service as a process that is killed and started again, on one port."""

    arguments: list[str]
    log: Path
    port: int
    forker: asyncio.subprocess.Process | None = None
    pid: int | None = None
    starts: list[float] = field(default_factory=list)

    async def open(self) -> None:
        with self.log.open("ab") as log:
            self.forker = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.service.forker", stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=log, cwd=ROOT,
            )  # fmt: skip

    async def _line(self) -> dict[str, Any]:
        assert self.forker is not None and self.forker.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self.forker.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        found: dict[str, Any] = json.loads(line)
        return found

    async def fork(self) -> None:
        assert self.forker is not None and self.forker.stdin is not None
        self.forker.stdin.write(json.dumps(self.arguments).encode() + b"\n")
        while "pid" not in (said := await self._line()):  # a ready line of one that was killed unheard
            continue
        self.pid = said["pid"]

    async def start(self) -> None:
        began = time.monotonic()
        await self.fork()
        while "ready" not in await self._line():
            continue
        self.starts.append(time.monotonic() - began)

    async def kill(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while Path(f"/proc/{self.pid}").exists():  # noqa: ASYNC240, ASYNC110
                await asyncio.sleep(0.002)
        self.pid = None

    async def close(self) -> None:
        if self.pid is not None:
            await self.kill()
        if self.forker is not None and self.forker.returncode is None:
            self.forker.kill()
            await self.forker.wait()


@dataclass
class Field:
    """Everything: what is killed, and what must come through it."""

    target: Target
    devices: list[FakeDevice]
    callers: list[Caller]
    http: httpx.AsyncClient
    headers: dict[str, str]

    async def until_at_rest(self) -> None:
        """Nobody orders any more; every job ends and every report is acknowledged."""
        for caller in self.callers:
            caller.stopping = True
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    open_jobs = [
                        job for status in ("QUEUED", "IN_PROGRESS") for job in await self.jobs(status=status)
                    ]
                    heard = not any(device.outbox for device in self.devices)
                    if heard and not open_jobs and all(caller.done for caller in self.callers):
                        return
                await asyncio.sleep(0.05)

    async def jobs(self, **query: str) -> list[dict[str, Any]]:
        answer = await self.http.get("/api/v1/jobs", params={"limit": "1000", **query}, headers=self.headers)
        answer.raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        assert len(items) < 1000
        return items

    async def judge(self) -> dict[str, int]:
        """What was ordered, what the service says, and what the devices did are one story."""
        counts = {"orders": 0, "answered": 0, "unanswered": 0, "jobs": 0, "installs": 0, "commands": 0}
        for device, caller in zip(self.devices, self.callers, strict=True):
            jobs = {job["generation"]: job for job in await self.jobs(client=device.client)}
            ids = {job["jobId"] for job in jobs.values()}
            answered = caller.answered
            assert set(answered) <= ids, "an order that was answered is lost"
            assert len(set(answered)) == len(answered), "two orders were answered with one job"
            assert set(answered) == ids, "jobs that nobody ordered: the same key made two"
            assert sorted(jobs) == list(range(1, len(jobs) + 1)), "a generation was left out or given twice"
            for generation, job in jobs.items():
                said = device.ends.get(generation)
                assert said is not None and said.job_id == job["jobId"], "ended without the device"
                assert job["status"] == said.status.value and JobStatus(job["status"]).terminal, job
                assert device.installs[generation] == 1, "one install for each generation"
            assert set(device.installs) == set(jobs)
            client = (await self.http.get(f"/api/v1/clients/{device.client}", headers=self.headers)).json()
            assert client["runningDigest"] == device.running.digest
            for name, count in (
                ("orders", caller.orders), ("answered", len(answered)), ("unanswered", caller.unanswered),
                ("jobs", len(jobs)), ("installs", device.installs.total()), ("commands", device.heard[Kind.UPDATE.value]),
            ):  # fmt: skip
                counts[name] += count
        return counts


@asynccontextmanager
async def field_of(folder: Path, database: str | None) -> AsyncIterator[Field]:
    """Broker, service, devices and callers, all at work."""
    ca = DevelopmentCA.open_or_create(folder / "ca")
    server, service = ca.issue_server("broker"), ca.issue_service()
    signing = command_signing_key(folder / "signing").private
    broker = await start_module(
        "reference.broker", "--port", "0", "--ca", str(server.ca), "--cert", str(server.cert), "--key",
        str(server.key), "--log-level", "ERROR", log_path=folder / "broker.log",
    )  # fmt: skip
    port = free_port()
    data = folder / "service"
    data.mkdir()
    target = Target([], folder / "service.log", port)
    try:
        broker_port = int(str((await broker.ready())["port"]))
        target.arguments = [
            "--data", str(data), "--port", str(port), "--broker-host", "127.0.0.1", "--broker-port", str(broker_port),
            "--ca", str(service.ca), "--cert", str(service.cert), "--key", str(service.key), "--signing-key", str(signing),
            *(["--database", database] if database else []),
        ]  # fmt: skip
        await target.open()
        await target.start()
        headers = {"Authorization": f"Bearer {issue_token(data, TENANT, 'Administrator')}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as http:
            await _register(http, headers)
            keys = key_ring(public_key(load_private_key(signing)))
            stream = random.Random(SEED)
            devices = [
                FakeDevice(
                    f"d{n:02}",
                    broker_port,
                    ca.issue_device(TENANT, f"d{n:02}"),
                    keys,
                    random.Random(stream.random()),
                )
                for n in range(DEVICES)
            ]
            callers = [Caller(device.client, http, headers) for device in devices]
            works = [*(one.run() for one in devices), *(one.run() for one in callers)]
            tasks = [asyncio.create_task(work) for work in works]
            try:
                yield Field(target, devices, callers, http, headers)
                ended = [task for task in tasks[:DEVICES] if task.done()]
                assert not ended, ended
                for task in tasks[DEVICES:]:
                    assert task.done() and task.exception() is None, task
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await target.close()
        await broker.kill()


async def _register(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for n in range(DEVICES):
        answer = await http.post("/api/v1/clients", json={"clientId": f"d{n:02}"}, headers=headers)
        assert answer.status_code == 201, answer.text
    for version in ("2.0", "2.1"):
        digest = "sha256:" + version.replace(".", "") * 32
        body = {"version": version, "repository": "localhost:5000/opc", "digest": digest}
        assert (await http.post("/api/v1/versions", json=body, headers=headers)).status_code == 201


async def _kill_often(ground: Field, kills: int, most_s: float, stream: random.Random) -> None:
    """Each life ends after a random time, up to `most_s`; some before they have begun."""
    for _ in range(kills):
        await asyncio.sleep(stream.uniform(0.02, most_s))
        await ground.target.kill()
        if stream.random() < 0.15:
            # Again, while it is starting.
            await ground.target.fork()
            await asyncio.sleep(stream.uniform(0, 0.25))
            await ground.target.kill()
        await ground.target.start()


async def _play(folder: Path, database: str | None, kills: int, most_s: float) -> None:
    began = time.monotonic()
    async with field_of(folder, database) as ground:
        await _kill_often(ground, kills, most_s, random.Random(SEED))
        await ground.until_at_rest()
        counts = await ground.judge()
    assert counts["jobs"] >= DEVICES, counts
    starts = sorted(ground.target.starts)
    print(
        f"\n{kills} kills, seed {SEED}, {DEVICES} devices: {counts}, {time.monotonic() - began:.0f} s, "
        f"from fork to ready p50 {starts[len(starts) // 2] * 1000:.0f} ms"
    )


async def test_a_hundred_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    await _play(tmp_path, None, 100, 0.25)


async def test_kills_over_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    try:
        await _play(tmp_path, url, 12, 0.5)
    finally:
        postgres.drop_database(url)


async def test_a_database_that_is_killed_under_load(tmp_path: Path, own_postgres: Postgres) -> None:
    url = own_postgres.create_database(template=None)
    stream = random.Random(SEED)
    async with field_of(tmp_path, url) as ground:
        for _ in range(5):
            await asyncio.sleep(stream.uniform(0.2, 0.8))
            await asyncio.to_thread(own_postgres.kill)
            await asyncio.sleep(stream.uniform(0, 0.3))
            await asyncio.to_thread(own_postgres.start)
        pid = ground.target.pid
        await ground.until_at_rest()
        counts = await ground.judge()
        assert ground.target.pid == pid and counts["jobs"] >= DEVICES, "the service itself lives on"
        print(f"\n5 kills of the database, seed {SEED}: {counts}")
