"""One story's bench: a device with its client running, an observer on it, and the handles to hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx

from reference.core.errors import BlackstartError, ServiceError
from reference.core.model import Phase
from reference.demo.front import Front
from reference.demo.observer import Observer, Seen
from reference.edge.inspect import look
from reference.edge.settings import load_settings
from reference.pki.authority import DevelopmentCA
from reference.pki.names import SERVICE_NAME
from reference.protocol import topics
from reference.stack import HOST, Device, Stack
from reference.stack.probe import ask
from reference.support.files import write_durably
from reference.support.mqtt import Connected, MqttLink, Protocol, TlsFiles

OLD, NEW = "1.0.0", "2.0.0"
POLL_S = 0.05
REST_S = 10.0
"""How long an agent may take to clear up after a job's end."""
JOB_DEADLINE_S = 60.0
TERMINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"}

T = TypeVar("T")


@dataclass(slots=True)
class Bench:
    """What a story works with, and what it finds out."""

    stack: Stack
    device: Device
    api: httpx.AsyncClient
    front: Front
    version: str
    """What is asked for."""
    begins: str | None
    say: Callable[[str], None]
    observer: Observer | None = None
    seen: Seen = field(default_factory=Seen)
    commanded_ms: float = 0.0
    ended_ms: float = 0.0
    job: dict[str, object] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)
    marks: list[tuple[float, str]] = field(default_factory=list)
    """What was done from outside, and when (wall time, ms)."""

    def mark(self, what: str) -> None:
        """Remember that something was done from outside, now."""
        self.marks.append((time.time() * 1000, what))
        self.say(what)

    def observe(self) -> None:
        """Begin to watch the client, if nobody does yet."""
        if self.observer is None:
            kept = self.stack.digests[self.begins] if self.begins is not None else None
            self.observer = Observer(self.device.client_port, self.device.box, kept)
            self.observer.start()

    async def probe(self) -> str | None:
        """The version that answers well now, if one does."""
        answer = await asyncio.to_thread(ask, self.device.client_port)
        return answer.version if answer.good else None

    def repository(self) -> str:
        """Where the good version is kept."""
        return f"{self.stack.registry().host}/opc-client"

    async def command(self) -> str:
        """Ask for the story's version; answers the job's id."""
        self.observe()
        await asyncio.sleep(0.1)  # A floor of good answers before anything happens.
        self.commanded_ms = time.time() * 1000
        self.mark("update")
        answer = await self.api.post(
            f"/api/v1/clients/{self.device.client_id}/update", json={"targetVersion": self.version}
        )
        if answer.status_code != 202:
            raise ServiceError(f"the update was not accepted: {answer.status_code} {answer.text}")
        return str(answer.json()["jobId"])

    def end(self) -> None:
        """The story has no job of its own, and ends here."""
        self.ended_ms = time.time() * 1000

    async def settle(self) -> None:
        """Let the observer see a little more."""
        await asyncio.sleep(0.3)

    async def finish(self, job_id: str) -> None:
        """Wait for the job's end, then let the observer see a little more."""

        async def ended() -> dict[str, object] | None:
            found = await self.look(job_id)
            return found if found.get("status") in TERMINAL else None

        self.job = await until(ended, JOB_DEADLINE_S, f"job {job_id} did not end")
        self.ended_ms = time.time() * 1000
        self.mark(f"job {str(self.job.get('status')).lower()}")
        await self.settle()

    async def rest(self) -> None:
        """Wait until the agent has nothing left to do for its job. One that does not rest is the judge's matter."""
        settings, agent = load_settings(self.device.config), self.device.agent

        async def resting() -> bool | None:
            try:
                found = await asyncio.to_thread(look, settings, "status")
            except BlackstartError:
                return None
            memory = found.get("memory")
            record = memory.get("record") if isinstance(memory, dict) else None
            return (isinstance(record, dict) and record.get("phase") == Phase.IDLE.value) or None

        if agent is not None and agent.alive:
            with contextlib.suppress(ServiceError):
                await until(resting, REST_S, "the agent did not rest")

    async def look(self, job_id: str) -> dict[str, object]:
        """The job as the API shows it; empty while the service does not answer."""
        try:
            answer = await self.api.get(f"/api/v1/jobs/{job_id}")
            found: dict[str, object] = answer.json() if answer.status_code == 200 else {}
        except httpx.HTTPError:
            return {}
        phase = found.get("phase")
        self.say(f"{str(found.get('status', '')).lower()} {phase if phase != 'idle' else ''}".strip())
        return found

    async def reached(self, job_id: str, phase: Phase) -> None:
        """Wait until the service has heard of `phase`."""

        async def there() -> bool | None:
            return (await self.look(job_id)).get("phase") == phase.value or None

        await until(there, JOB_DEADLINE_S, f"job {job_id} never reached {phase.value}")

    async def stop_agent(self) -> None:
        """End the agent as an operator does; the client runs on."""
        if self.device.agent is not None:
            await self.device.agent.stop()
        self.mark("agent stopped")

    async def reconfigure(self, **settings: object) -> None:
        """Change the agent's configuration, and start it again."""
        await self.stop_agent()
        config = json.loads(self.device.config.read_bytes())
        write_durably(self.device.config, json.dumps({**config, **settings}, indent=1).encode())
        await self.stack.start_agent(self.device)

    async def pause_at(self, phase: Phase) -> None:
        """Run the device's agent so that it stands still once `phase` is durable."""
        if self.device.agent is not None:
            await self.device.agent.stop()
        flag = self.device.root / "paused"
        flag.unlink(missing_ok=True)
        arguments = ["--pause-at", phase.value, "--paused", str(flag)]
        await self.stack.start_agent(self.device, *arguments, pausing=True)

    async def paused(self) -> None:
        """Wait until it stands still."""

        async def flag() -> bool | None:
            return (self.device.root / "paused").exists() or None

        await until(flag, JOB_DEADLINE_S, "the agent never came to the phase it was to be killed in")

    async def resume(self) -> None:
        """Let another agent go on from there: the one that stands still is killed."""
        if self.device.agent is not None:
            await self.device.agent.kill()
        await self.stack.start_agent(self.device)
        self.mark("agent started again")

    async def kill_everything(self) -> None:
        """SIGKILL for the agent, the engine and the client at once: processes are gone, the page cache is not."""
        self.mark("killed")
        if self.device.agent is not None:
            await self.device.agent.kill()
        await self.device.box.kill()

    async def boot(self) -> None:
        """What a boot forgets is forgotten; then the agent starts as it would at boot."""
        self.mark("boot")
        await self.device.box.boot()
        await self.stack.start_agent(self.device)

    async def stored_command(self, job_id: str) -> bytes:
        """The very bytes of a job's command, from the service's outbox."""
        return await asyncio.to_thread(_stored_command, self.stack, job_id)

    @contextlib.contextmanager
    def database_taken(self) -> Iterator[None]:
        """Keep the service's database (SQLite) from being written, as a second process would."""
        with closing(sqlite3.connect(database_file(self.stack), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    async def deliver(self, *payloads: bytes) -> None:
        """Publish bytes as commands to the device.

        Only the service may, so it makes room for as long as its certificate is used here.
        """
        await self.stack.stop_part("service")
        try:
            files = DevelopmentCA.open_or_create(self.stack.data / "ca").issue_service()
            tls = TlsFiles(files.ca, files.cert, files.key)
            link = MqttLink(
                HOST, self.stack.broker_port, SERVICE_NAME, tls=tls, subscriptions=(),
                protocol=Protocol(self.stack.mqtt_version),
            )  # fmt: skip
            await link.start()
            try:
                async with asyncio.timeout(10):
                    while not isinstance(await link.events.get(), Connected):
                        pass
                topic = topics.update(self.stack.tenant, self.device.client_id)
                for payload in payloads:
                    await link.publish(topic, payload, timeout_s=5.0)
                    self.notes["delivered"] = int(str(self.notes.get("delivered", 0))) + 1
                    self.mark("bytes delivered")
            finally:
                await link.stop()
        finally:
            await self.stack.start_service()

    def refusals(self) -> list[dict[str, object]]:
        """What the agent's log says of commands: `reason` of the refused ones, `verdict` on the others."""
        found = []
        for line in self.device.log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("message") in ("refused", "command"):
                    found.append(entry)
        return found

    def client_pids(self) -> list[int]:
        """Living client processes."""
        return self.device.box.processes()


def database_file(stack: Stack) -> Path:
    """Where the service keeps its database, when that is SQLite."""
    return next((stack.data / "service").glob("*.db"))


def _stored_command(stack: Stack, job_id: str) -> bytes:
    database = database_file(stack)
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
        row = connection.execute(
            "SELECT payload FROM outbox WHERE job = ? AND kind = 'update'", (job_id,)
        ).fetchone()
    return bytes(row[0])


async def until(check: Callable[[], Awaitable[T | None]], deadline_s: float, otherwise: str) -> T:
    """Poll until `check` answers something. Raises ServiceError when it does not in time."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = await check()
        if found is not None:
            return found
        await asyncio.sleep(POLL_S)
    raise ServiceError(f"{otherwise} within {deadline_s:g} s")
