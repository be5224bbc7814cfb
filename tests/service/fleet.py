"""Devices that are little more than their end of the wire, and callers that never stop ordering.

A device's journal is a few fields in memory: its floor, what it installed, and the reports that nobody has
acknowledged. It speaks over a real link to a real broker, and judges nothing.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace

import httpx

from reference.core.errors import BlackstartError, Reason
from reference.core.job import JobStatus, Report
from reference.core.model import Image, Outcome, Phase
from reference.pki import CertificateFiles
from reference.protocol import topics
from reference.protocol.envelope import PublicKey, open_envelope
from reference.protocol.models import Birth, CancelCommand, Reply, StatusMessage, UpdateCommand
from reference.protocol.topics import Kind
from reference.service.clock import wall_ms
from reference.support.mqtt import Backoff, Connected, Message, MqttLink, TlsFiles

TENANT = "acme"
RESEND_S = 0.4


@dataclass
class FakeDevice:
    """Start it as a task group member with `run`."""

    client: str
    port: int
    files: CertificateFiles
    keys: dict[str, PublicKey]
    random: random.Random
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    floor: int | None = 0
    sequence: int = 0
    nonce: str = ""
    known: bool = False
    """Whether the last birth was answered."""
    running: Image = field(default_factory=lambda: Image("localhost:5000/opc", "sha256:" + "ab" * 32, "1.0"))
    outbox: dict[int, Report] = field(default_factory=dict)
    ends: dict[int, Report] = field(default_factory=dict)
    installs: Counter[int] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _todo: asyncio.Queue[UpdateCommand] = field(default_factory=asyncio.Queue)

    async def run(self) -> None:
        """Until cancelled."""
        tls = TlsFiles(self.files.ca, self.files.cert, self.files.key)
        where = [topics.topic(TENANT, self.client, kind) for kind in (Kind.UPDATE, Kind.CANCEL, Kind.REPLIES)]
        link = MqttLink(
            "127.0.0.1",
            self.port,
            f"{TENANT}.{self.client}",
            tls,
            subscriptions=where,
            backoff=Backoff(0.05, 0.3),
        )
        await link.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(link))
                group.create_task(self._tell(link))
                group.create_task(self._work())
        finally:
            await link.stop()

    async def _listen(self, link: MqttLink) -> None:
        while True:
            match await link.events.get():
                case Connected():
                    await self._announce(link)
                    self._changed.set()
                case Message() as message:
                    self._hear(message)
                    message.ack()
                case _:
                    continue

    async def _announce(self, link: MqttLink) -> None:
        self.nonce, self.known = uuid.uuid4().hex, False
        birth = Birth(
            nonce=self.nonce, journal_epoch=self.epoch, generation=self.floor, running_digest=self.running.digest,
            running_version=self.running.version, agent_version="fake", open_job_id=None,
        )  # fmt: skip
        await _try(link, topics.birth(TENANT, self.client), birth.to_bytes())

    def _hear(self, message: Message) -> None:
        kind = topics.parse_topic(message.topic).kind
        self.heard[kind.value] += 1
        if kind is Kind.REPLIES:
            reply = open_envelope(message.payload, self.keys, TENANT, self.client, Reply)
            if (told := reply.acknowledgement) is not None and told.journal_epoch == self.epoch:
                kept = self.outbox.get(told.generation)
                if kept is not None and kept.sequence <= told.sequence:
                    del self.outbox[told.generation]
            if reply.birth is not None and reply.birth.nonce == self.nonce and self.floor is not None:
                self.floor, self.known = max(self.floor, reply.birth.floor), True
        elif kind is Kind.UPDATE:
            command = open_envelope(message.payload, self.keys, TENANT, self.client, UpdateCommand)
            self._take(command)
        else:
            open_envelope(message.payload, self.keys, TENANT, self.client, CancelCommand)
            self.heard["canceled"] += 1

    def _take(self, command: UpdateCommand) -> None:
        assert self.floor is not None
        generation = command.generation
        if generation in self.ends:
            self._report(self.ends[generation])
        elif generation in self.outbox or generation == self.floor:
            return  # it is being worked on
        elif generation < self.floor:
            refused = Report(command.job_id, generation, 0, JobStatus.REJECTED, Phase.IDLE)
            self._report(replace(refused, reason=Reason.STALE_GENERATION))
        else:
            self.floor = generation
            self._report(Report(command.job_id, generation, 0, JobStatus.IN_PROGRESS, Phase.ACCEPTED))
            self._todo.put_nowait(command)

    def _report(self, report: Report) -> None:
        self.sequence += 1
        report = replace(report, sequence=self.sequence)
        self.outbox[report.generation] = report
        if report.status.terminal:
            self.ends[report.generation] = report
        self._changed.set()

    async def _work(self) -> None:
        while True:
            command = await self._todo.get()
            begun = Report(command.job_id, command.generation, 0, JobStatus.IN_PROGRESS, Phase.PULLING)
            for phase in (Phase.PULLING, Phase.SWITCHING, Phase.VERIFYING):
                await asyncio.sleep(self.random.uniform(0.001, 0.03))
                self._report(replace(begun, phase=phase))
            self.installs[command.generation] += 1
            if self.random.random() < 0.8:
                self.running = command.to_core().image
                self._report(
                    replace(
                        begun, status=JobStatus.SUCCEEDED, phase=Phase.CLEANING_UP, outcome=Outcome.SUCCEEDED
                    )
                )
            else:
                back = replace(begun, status=JobStatus.FAILED, phase=Phase.CLEANING_UP)
                self._report(replace(back, outcome=Outcome.ROLLED_BACK, reason=Reason.CANDIDATE_EXITED))

    async def _tell(self, link: MqttLink) -> None:
        while True:
            self._changed.clear()
            for _, report in sorted(self.outbox.items()):
                message = StatusMessage.from_core(report, self.epoch, self.running, at_ms=wall_ms())
                await _try(link, topics.status(TENANT, self.client), message.to_bytes())
            try:
                async with asyncio.timeout(RESEND_S):
                    await self._changed.wait()
            except TimeoutError:
                if not self.known:
                    await self._announce(link)


async def _try(link: MqttLink, topic: str, payload: bytes) -> None:
    try:
        await link.publish(topic, payload)
    except BlackstartError:
        return  # what matters is sent again


@dataclass
class Caller:
    """Orders one update of its client after the other, each under a key of its own and until it is answered."""

    client: str
    http: httpx.AsyncClient
    headers: dict[str, str]
    answered: list[str] = field(default_factory=list)
    """Jobs of orders that were answered with 202."""
    orders: int = 0
    unanswered: int = 0
    """Requests that may have been carried out, and were not answered."""
    stopping: bool = False
    done: bool = False

    async def run(self) -> None:
        """Until `stopping`, and the last order is answered."""
        while not self.stopping:
            self.orders += 1
            while not await self._order(f"{self.client}-{self.orders}"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        self.done = True

    async def _order(self, key: str) -> bool:
        """Whether it was answered."""
        version = "2.0" if self.orders % 2 else "2.1"
        headers = {**self.headers, "Idempotency-Key": key}
        try:
            answer = await self.http.post(
                f"/api/v1/clients/{self.client}/update", json={"targetVersion": version}, headers=headers
            )
        except httpx.ConnectError:
            return False
        except httpx.HTTPError:
            self.unanswered += 1
            return False
        if answer.status_code == 503:
            self.unanswered += 1
            return False
        if answer.status_code == 202:
            self.answered.append(answer.json()["jobId"])
        else:
            assert answer.status_code == 409, answer.text
            await asyncio.sleep(0.03)  # its last one is still open
        return True
