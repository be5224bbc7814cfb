"""The service over a broker that is not there: the real application, a link in memory, a device's voice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from reference.core.errors import Reason
from reference.core.job import JobStatus, Report
from reference.core.limits import ServiceLimits
from reference.core.model import Image, Outcome, Phase
from reference.protocol import topics
from reference.protocol.envelope import generate_key, key_ring, open_envelope, public_key
from reference.protocol.models import Birth, CancelCommand, Reply, StatusMessage, UpdateCommand
from reference.protocol.topics import Kind
from reference.service.app import Parts, create_app
from reference.service.auth import DevelopmentIssuer, Role
from reference.service.conversation import Timing, wall_ms
from reference.service.enrolment import Enrolment
from reference.service.store import Store
from reference.support.mqtt import Connected, Disconnected, Event, Message, NotConnectedError

DIGEST = "sha256:" + "cd" * 32
OLD_DIGEST = "sha256:" + "ab" * 32
KEY = generate_key()
KEYS = key_ring(public_key(KEY))
PATIENCE_S = 5.0
FAST = ServiceLimits(resend_first_ms=40, resend_limit_ms=80)
SLOW = ServiceLimits(resend_first_ms=3_600_000, resend_limit_ms=3_600_000)
"""Nothing is sent twice within a test."""


DATABASES: dict[Path, str] = {}
"""By data folder, the database that the fixture `database_url` made for it."""


class FakeLink:
    """A link that is one in all but the wire. Messages sent while it is down are refused, like the real one's."""

    def __init__(self, *, connected: bool = True) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.sent: list[tuple[str, bytes]] = []
        self.confirmed = 0
        self._connected = connected
        self._news = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._connected

    async def start(self) -> None:
        if self._connected:
            self.events.put_nowait(Connected())

    async def stop(self) -> None:
        self._connected = False

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
        content_type: str | None = None,
    ) -> None:
        if not self._connected:
            raise NotConnectedError("there is no connection to the broker", where="fake")
        self.sent.append((topic, payload))
        self._news.set()

    def connect(self) -> None:
        self._connected = True
        self.events.put_nowait(Connected())

    def disconnect(self) -> None:
        self._connected = False
        self.events.put_nowait(Disconnected("pulled"))

    async def bring(self, topic: str, payload: bytes) -> None:
        """A message from a device; returns when the service has confirmed it to the broker."""
        done = asyncio.Event()

        def confirm() -> None:
            self.confirmed += 1
            done.set()

        self.events.put_nowait(Message(topic, payload, False, confirm))
        await asyncio.wait_for(done.wait(), PATIENCE_S)

    async def wait_for(self, topic: str, count: int) -> list[bytes]:
        """What was sent there, once there are `count` of them."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [payload for where, payload in self.sent if where == topic]) < count:
                self._news.clear()
                await self._news.wait()
        return found


@dataclass
class Device:
    """Speaks as a device would."""

    link: FakeLink
    tenant: str = "acme"
    client: str = "press-1"
    epoch: str = "epoch-1"
    sequence: int = 0
    running: Image = field(default_factory=lambda: Image("localhost:5000/opc", OLD_DIGEST, "1.0"))

    async def birth(
        self, floor: int | None = 0, epoch: str | None = None, open_job_id: str | None = None
    ) -> str:
        """Announce it; the nonce."""
        nonce = uuid.uuid4().hex
        message = Birth(
            nonce=nonce, journal_epoch=epoch or self.epoch, generation=floor, running_digest=self.running.digest,
            running_version=self.running.version, agent_version="0.1.0", open_job_id=open_job_id,
        )  # fmt: skip
        await self.link.bring(topics.birth(self.tenant, self.client), message.to_bytes())
        return nonce

    def report(self, job_id: str, generation: int, status: JobStatus, **more: Any) -> Report:
        self.sequence += 1
        phase = Phase.PULLING if status is JobStatus.IN_PROGRESS else Phase.IDLE
        return replace(Report(job_id, generation, self.sequence, status, phase), **more)

    async def tell(self, report: Report, epoch: str | None = None) -> None:
        message = StatusMessage.from_core(report, epoch or self.epoch, self.running, at_ms=wall_ms())
        await self.link.bring(topics.status(self.tenant, self.client), message.to_bytes())

    async def commands(self, count: int) -> list[UpdateCommand]:
        found = await self.link.wait_for(topics.update(self.tenant, self.client), count)
        return [open_envelope(data, KEYS, self.tenant, self.client, UpdateCommand) for data in found]

    async def command_of(self, job_id: str) -> UpdateCommand:
        """The command of this job, once it was sent; those of others may be sent again meanwhile."""
        async with asyncio.timeout(10):
            while True:
                found = next((c for c in await self.commands(1) if c.job_id == job_id), None)
                if found is not None:
                    return found
                await asyncio.sleep(0.01)

    async def cancels(self, count: int) -> list[CancelCommand]:
        found = await self.link.wait_for(topics.cancel(self.tenant, self.client), count)
        return [open_envelope(data, KEYS, self.tenant, self.client, CancelCommand) for data in found]

    async def replies(self, count: int) -> list[Reply]:
        found = await self.link.wait_for(topics.topic(self.tenant, self.client, Kind.REPLIES), count)
        return [open_envelope(data, KEYS, self.tenant, self.client, Reply) for data in found]

    def replied(self) -> int:
        where = topics.replies(self.tenant, self.client)
        return sum(topic == where for topic, _ in self.link.sent)


@dataclass
class Service:
    """A service that runs, and its callers."""

    http: httpx.AsyncClient
    link: FakeLink
    store: Store
    issuer: DevelopmentIssuer

    def headers(self, role: Role = Role.ADMINISTRATOR, tenant: str = "acme") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.issue(tenant, role)}"}

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.http.get(path, headers=self.headers(**more))

    async def post(self, path: str, body: object = None, **more: Any) -> httpx.Response:
        return await self.http.post(path, json=body, headers=self.headers(**more))

    async def prepare(self, tenant: str = "acme", client: str = "press-1") -> None:
        """A client and a version."""
        assert (await self.post("/api/v1/clients", {"clientId": client}, tenant=tenant)).status_code == 201
        await self.add_version(tenant=tenant)

    async def add_version(self, version: str = "2.0", tenant: str = "acme") -> None:
        body = {"version": version, "repository": "localhost:5000/opc", "digest": DIGEST}
        assert (await self.post("/api/v1/versions", body, tenant=tenant)).status_code == 201

    async def order(self, version: str = "2.0", client: str = "press-1") -> str:
        """Order an update; the job's id."""
        answer = await self.post(f"/api/v1/clients/{client}/update", {"targetVersion": version})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    async def client(self, client: str = "press-1") -> dict[str, Any]:
        found: dict[str, Any] = (await self.get(f"/api/v1/clients/{client}")).json()
        return found

    async def job_becomes(self, job_id: str, status: JobStatus) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            # The API is polled, as callers do.
            while (found := await self.job(job_id))["status"] != status.value:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def running(
    data: Path,
    link: FakeLink | None = None,
    *,
    limits: ServiceLimits = FAST,
    now_ms: Callable[[], int] = wall_ms,
    elapsed_ms: Callable[[], int] | None = None,
    database: str | None = None,
    enrolment: Enrolment | None = None,
    probe_s: float = 10.0,
) -> AsyncIterator[Service]:
    """The application, its lifespan included, over the data of `data`, and `database` where that is another one.

    `elapsed_ms`: the clock of durations; without it the wall's, so that a test that moves one moves both.
    """
    link = link or FakeLink()
    url = database or DATABASES.get(data)
    store = Store.open(url, data) if url else Store.open(data / "service.db")
    issuer = DevelopmentIssuer.open(data)
    timing = Timing(
        look_s=0.02,
        look_most_s=0.1,
        store_retry_s=(0.01, 0.01),
        probe_s=probe_s,
        elapsed_ms=elapsed_ms or now_ms,
    )
    app = create_app(
        Parts(
            store,
            link,
            KEY,
            issuer,
            limits=limits,
            timing=timing,
            now_ms=now_ms,
            enrolment=enrolment or Enrolment(),
        )
    )
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            yield Service(http, link, store, issuer)


def succeeded() -> dict[str, Any]:
    """What the last report of a good update adds."""
    return {"outcome": Outcome.SUCCEEDED, "downtime_ms": 17, "phase": Phase.CLEANING_UP}


def rolled_back() -> dict[str, Any]:
    """What the last report of a bad one adds."""
    return {
        "outcome": Outcome.ROLLED_BACK, "reason": Reason.CANDIDATE_EXITED, "message": "exit code 1",
        "phase": Phase.CLEANING_UP, "downtime_ms": 80,
    }  # fmt: skip
