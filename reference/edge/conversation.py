"""What the device says and hears. The rules are `reference.core.delivery`; here is only how they meet MQTT.

A message is acknowledged to the broker (PUBACK) after the journal holds what it changed, never before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from reference.core import delivery
from reference.core.delivery import Verdict
from reference.core.errors import BlackstartError, CommandError, JournalError, Reason
from reference.core.job import Report
from reference.core.model import Command, Image, Phase
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.settings import EdgeSettings
from reference.protocol import topics
from reference.protocol.envelope import CommandRefusedError, PublicKey, open_envelope
from reference.protocol.models import (
    JOB_ID_PATTERN,
    MAX_TEXT,
    Birth,
    CancelCommand,
    ReasonSpec,
    Reply,
    StatusMessage,
    UpdateCommand,
)
from reference.support.mqtt import Connected, Disconnected, Message, MqttLink, StaysDown

log = logging.getLogger("reference.edge")

BIRTH_AGAIN_S = 3.0
DRIFT_S = 1.0
"""What runs has to differ from what was told for this long before it is news."""
UNANSWERED_SENDS = 3
"""After so many sends without an acknowledgement a report is followed by a birth."""
PUBLISH_TIMEOUT_S = 10.0
IDLE_S = 1.0
CORRELATIONS_KEPT = 32
"""Jobs whose request's id is remembered after the record has forgotten them."""


def _on_its_own(record: UpdateRecord) -> ReasonSpec | None:
    """Why the device did something without a job: between jobs the record keeps nothing else."""
    if record.phase is not Phase.IDLE or record.reason is None:
        return None
    return ReasonSpec(code=record.reason.value, message=record.message[:MAX_TEXT])


def agent_version() -> str:
    """Of this agent, as installed."""
    try:
        return version("blackstart")
    except PackageNotFoundError:
        return "unknown"


class Conversation:
    """Speaks for one agent over one link."""

    def __init__(
        self, settings: EdgeSettings, link: MqttLink, agent: Agent, keys: Mapping[str, PublicKey]
    ) -> None:
        # Once: it reads files, and a birth has to work when no more can be opened.
        self._agent_version = agent_version()
        self._settings = settings
        self._link = link
        self._agent = agent
        self._keys = keys
        self._hosts = {registry.host for registry in settings.registries}
        self._nonce: str | None = None
        self._born_at = 0.0
        self._sent_at: dict[int, float] = {}
        self._sends: Counter[int] = Counter()
        self._reported_at = time.monotonic()
        self._told_digest: str | None = None
        self._told_hold: bool | None = None
        self._drifted_at: float | None = None
        self._connected = asyncio.Event()
        self._beat_at = 0.0
        self._correlations: dict[str, str] = {}

    @property
    def connected(self) -> bool:
        """Whether the broker has us now."""
        return self._connected.is_set()

    async def run(self) -> None:
        """Go on for ever; a cancel ends it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._tell())

    async def _listen(self) -> None:
        while True:
            event = await self._link.events.get()
            match event:
                case Connected():
                    self._sent_at.clear()
                    self._be_born()
                    self._connected.set()
                case Disconnected(reason):
                    self._connected.clear()
                    self._nonce = None
                    log.warning("disconnected", extra={"detail": reason})
                case StaysDown(reason, down_s):
                    log.error("the broker stays down", extra={"detail": reason, "seconds": round(down_s)})
                case Message():
                    self._hear(event)

    def _be_born(self) -> None:
        """Announce ourselves, with a new nonce, at the next turn."""
        self._nonce, self._born_at = secrets.token_hex(16), 0.0
        self._beat_at = time.monotonic() + self._heartbeat_s()
        self._sends.clear()

    def _heartbeat_s(self) -> float:
        """Until the next sign of life: spread by a fifth each way, so that a fleet does not speak in step."""
        return self._settings.heartbeat_ms / 1000 * random.uniform(0.8, 1.2)  # noqa: S311 - spreads, protects nothing

    def _hear(self, message: Message) -> None:
        try:
            self._obey(message)
        except JournalError as error:
            # Not acknowledged: the sender keeps it and will send it again.
            log.error(
                "a message could not be journaled", extra={"reason": error.reason, "detail": str(error)}
            )
            return
        except BlackstartError as error:
            log.warning(
                "refused", extra={"topic": message.topic, "reason": error.reason, "detail": str(error)}
            )
        message.ack()

    def _obey(self, message: Message) -> None:
        topic = topics.parse_topic(message.topic)
        tenant, client = self._settings.tenant_id, self._settings.client_id
        if (topic.tenant_id, topic.client_id) != (tenant, client):
            raise CommandError(
                "it came on another device's topic", reason=Reason.WRONG_DEVICE, where=message.topic
            )
        match topic.kind:
            case topics.Kind.UPDATE:
                self._update(message.payload)
            case topics.Kind.CANCEL:
                cancel = open_envelope(message.payload, self._keys, tenant, client, CancelCommand)
                log.info("cancel", extra={"job": cancel.job_id, "correlation": cancel.correlation_id})
                memory = delivery.receive_cancel(self._agent.memory, cancel.job_id, cancel.generation)
                self._agent.change(memory)
            case topics.Kind.REPLIES:
                self._reply(open_envelope(message.payload, self._keys, tenant, client, Reply))
            case _:
                raise CommandError("it is not for a device", where=message.topic)

    def _update(self, payload: bytes) -> None:
        memory = self._agent.memory
        tenant, client = self._settings.tenant_id, self._settings.client_id
        try:
            command = open_envelope(payload, self._keys, tenant, client, UpdateCommand).to_core()
        except CommandRefusedError as error:
            # A job whose name cannot go over the wire cannot be answered, and must not sit in the outbox for ever.
            if re.fullmatch(JOB_ID_PATTERN, error.job_id):
                memory, _ = delivery.reject(memory, error.job_id, error.generation, error.reason, str(error))
                self._agent.change(memory)
            raise
        self._remember(command)
        host = command.image.repository.split("/", 1)[0]
        if host not in self._hosts:
            message = f"the registry {host} is not on this device's list ({', '.join(sorted(self._hosts))})"
            if memory.record.floor is not None:
                memory, _ = delivery.reject(
                    memory, command.job_id, command.generation, Reason.HOST_NOT_ALLOWED, message
                )
                self._agent.change(memory)
            raise CommandError(message, reason=Reason.HOST_NOT_ALLOWED, where="image.repository")
        memory, verdict = delivery.receive(memory, command, self._agent.now_ms(), self._agent.limits)
        self._agent.change(memory)
        extra = {"job": command.job_id, "generation": command.generation, "verdict": verdict}
        if verdict is Verdict.REJECTED:
            told = [report.reason for report in memory.outbox if report.job_id == command.job_id]
            extra["reason"] = told[-1] if told else None
        log.info("command", extra={**extra, "correlation": command.correlation_id})
        if verdict is Verdict.NOT_READY:
            self._born_at = 0.0

    def _remember(self, command: Command) -> None:
        """Which request a job began with: its last reports come when the record has forgotten it."""
        if command.correlation_id is not None:
            self._correlations[command.job_id] = command.correlation_id
        while len(self._correlations) > CORRELATIONS_KEPT:
            self._correlations.pop(next(iter(self._correlations)))

    def _correlation(self, job_id: str) -> str | None:
        record = self._agent.memory.record
        for command in (record.job, record.queued):
            if command is not None and command.job_id == job_id:
                self._remember(command)
        return self._correlations.get(job_id)

    def _reply(self, reply: Reply) -> None:
        memory = self._agent.memory
        if (answer := reply.birth) is not None and answer.replaced:
            if delivery.given_up(memory, self._nonce, answer.nonce, answer.journal_epoch):
                self._agent.replaced()
        elif answer is not None:
            nonce = self._nonce
            memory = delivery.receive_birth_answer(
                memory, nonce, answer.nonce, answer.journal_epoch, answer.floor
            )
            self._agent.change(memory)
            if answer.nonce == nonce:
                self._nonce = None
        elif (told := reply.acknowledgement) is not None:
            memory = delivery.receive_acknowledgement(memory, told.journal_epoch, told.job_id, told.sequence)
            self._agent.change(memory)

    async def _tell(self) -> None:
        while True:
            await self._connected.wait()
            with contextlib.suppress(BlackstartError):
                self._notice()
                self._remind()
                await self._announce()
                await self._report()
            await self._agent.outbox_changed(IDLE_S)

    def _notice(self) -> None:
        """Announce ourselves again when the service cannot know us, or what runs, any more.

        A service that does not acknowledge may have been restored from a backup, and knows another epoch. What runs
        may have changed without a job: the duty brought a version back after a boot.
        """
        if self._nonce is not None:
            return
        if time.monotonic() >= self._beat_at or (self._told_hold not in (None, self._agent.hold)):
            self._be_born()
            return
        running = self._agent.running
        digest = running.digest if running is not None else None
        if digest == self._told_digest or self._agent.memory.record.job is not None:
            self._drifted_at = None
        elif self._drifted_at is None:
            self._drifted_at = time.monotonic()
        drifted = self._drifted_at is not None and time.monotonic() - self._drifted_at >= DRIFT_S
        if drifted or any(sends >= UNANSWERED_SENDS for sends in self._sends.values()):
            self._be_born()

    def _remind(self) -> None:
        """Say that a job still runs when it has had nothing new to say for long."""
        if time.monotonic() - self._reported_at >= self._agent.limits.remind_ms / 1000:
            self._reported_at = time.monotonic()
            self._agent.change(delivery.remind(self._agent.memory))

    async def _announce(self) -> None:
        """Say who we are until it is answered; not before we have looked what runs."""
        now = time.monotonic()
        if (
            not self._agent.has_looked
            or self._nonce is None
            or (self._born_at and now - self._born_at < BIRTH_AGAIN_S)
        ):
            return
        record, running = self._agent.memory.record, self._agent.running
        birth = Birth(
            nonce=self._nonce,
            journal_epoch=record.epoch,
            generation=record.floor,
            running_digest=running.digest if running is not None else None,
            running_version=running.version if running is not None else None,
            previous_digest=record.previous.image.digest if record.previous is not None else None,
            previous_version=record.previous.image.version if record.previous is not None else None,
            open_job_id=record.job.job_id if record.job is not None else None,
            hold=self._agent.hold,
            reason=_on_its_own(record),
            agent_version=self._agent_version,
        )
        self._born_at, self._told_digest, self._drifted_at = now, birth.running_digest, None
        self._told_hold = birth.hold
        await self._publish(topics.Kind.BIRTH, birth.to_bytes())

    async def _report(self) -> None:
        memory, now = self._agent.memory, time.monotonic()
        ago = {sequence: round((now - at) * 1000) for sequence, at in self._sent_at.items()}
        for report in delivery.to_send(memory, ago, self._agent.limits):
            running = self._agent.running
            at_ms = time.time_ns() // 1_000_000
            self._sent_at[report.sequence] = time.monotonic()
            try:
                status = self._status(report, running, at_ms)
            except ValueError as error:  # journaled, so it would end every agent to come: the others go on
                log.error("a report cannot be sent", extra={"job": report.job_id, "detail": str(error)})
                continue
            self._sends[report.sequence] += 1
            self._reported_at = time.monotonic()
            self._told_digest = running.digest if running is not None else None
            await self._publish(topics.Kind.STATUS, status, self._correlation(report.job_id))
        waiting = {report.sequence for report in self._agent.memory.outbox}
        self._sends = Counter({n: sends for n, sends in self._sends.items() if n in waiting})
        self._sent_at = {sequence: at for sequence, at in self._sent_at.items() if sequence in waiting}

    def _status(self, report: Report, running: Image | None, at_ms: int) -> bytes:
        """Raises ValueError for what cannot go over the wire."""
        record, correlation_id = self._agent.memory.record, self._correlation(report.job_id)
        previous = record.previous.image if record.previous is not None else None
        log.info(
            "report",
            extra={"job": report.job_id, "status": report.status, "correlation": correlation_id},
        )
        return StatusMessage.from_core(
            report, record.epoch, running, at_ms, previous=previous, correlation_id=correlation_id
        ).to_bytes()

    async def _publish(self, kind: topics.Kind, payload: bytes, correlation_id: str | None = None) -> None:
        topic = topics.topic(self._settings.tenant_id, self._settings.client_id, kind)
        correlation = correlation_id.encode() if correlation_id is not None else None
        await self._link.publish(
            topic,
            payload,
            timeout_s=PUBLISH_TIMEOUT_S,
            correlation=correlation,
            content_type=topics.MESSAGE_TYPE,
        )
