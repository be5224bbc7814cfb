"""The conversation with the devices: sends what waits, stores what they say, answers, and watches deadlines.

Order matters in one place: a status is acknowledged only after the transaction that stores it. Whatever is lost on
the way (a command, a reply, a status) is sent again by whoever keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from reference.core.errors import BlackstartError, CommandError, InputError, ServiceError
from reference.core.job import JobStatus
from reference.core.limits import DEFAULT_SERVICE_LIMITS, ServiceLimits
from reference.protocol import topics
from reference.protocol.envelope import SigningKey, sign
from reference.protocol.models import Birth, StatusMessage, parse_birth, parse_status
from reference.protocol.topics import Kind, Topic
from reference.service import ingest, records
from reference.service.ingest import Ingested
from reference.service.link import Link
from reference.service.metrics import Metrics
from reference.service.records import JobRecord, Waiting
from reference.service.store import Store
from reference.support.mqtt import Connected, Disconnected, Message

log = logging.getLogger(__name__)
Work = Callable[[], Awaitable[None]]

BATCH = 200
"""Commands taken out of the outbox in one transaction."""
SENDING = 500
"""Messages that may be on their way to the broker at once."""


def wall_ms() -> int:
    """Wall time in ms since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the conversation looks, in seconds."""

    look_s: float = 1.0
    """For due commands and deadlines, when nothing wakes it earlier."""
    store_retry_s: tuple[float, ...] = (0.05, 0.2, 1.0)
    """Waits between the tries to store a message: one more try than waits."""


class Conversation:
    """`start` it, `wake` it when something was put into the outbox, `stop` it."""

    def __init__(
        self,
        store: Store,
        link: Link,
        key: SigningKey,
        metrics: Metrics,
        *,
        limits: ServiceLimits = DEFAULT_SERVICE_LIMITS,
        timing: Timing | None = None,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._store = store
        self._link = link
        self._key = key
        self._metrics = metrics
        self._limits = limits
        self._timing = timing if timing is not None else Timing()
        self._now_ms = now_ms
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[bool]] = set()
        self._room = asyncio.Semaphore(SENDING)

    @property
    def connected(self) -> bool:
        """Whether the broker is there, as far as is known."""
        return self._link.connected

    def wake(self) -> None:
        """Look into the outbox now."""
        self._wake.set()

    async def start(self) -> None:
        """Raises InputError when the link cannot even be tried."""
        await self._link.start()
        self._loops = [
            asyncio.create_task(self._listen(), name="listen"),
            asyncio.create_task(self._forever(self._send_due), name="send"),
            asyncio.create_task(self._forever(self._watch_deadlines), name="deadlines"),
        ]

    async def stop(self) -> None:
        """Stop at once: all that was promised is in the database."""
        tasks = [*self._loops, *self._sending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.stop()

    # ---- from the devices

    async def _listen(self) -> None:
        while True:
            event = await self._link.events.get()
            match event:
                case Connected():
                    self._metrics.broker_connected.set(1)
                    await self._guarded(self._all_due)
                    self.wake()
                case Disconnected(reason=reason):
                    self._metrics.broker_connected.set(0)
                    log.warning("the broker is gone", extra={"why": reason})
                case Message():
                    await self._guarded(partial(self._message, event))
                    # To the broker it is done either way: what was not stored is not acknowledged to the device,
                    # and a message that the broker holds back would only stop the others behind it.
                    event.ack()

    async def _message(self, message: Message) -> None:
        try:
            topic = topics.parse_topic(message.topic)
            said = parse_birth(message.payload) if topic.kind is Kind.BIRTH else parse_status(message.payload)
        except (CommandError, InputError) as error:
            self._metrics.messages.labels("unreadable", error.reason.value).inc()
            log.warning(
                "a message is not understood", extra={"topic": message.topic[:200], "why": str(error)}
            )
            return
        now_ms = self._now_ms()

        def take(connection: Connection) -> Ingested:
            if isinstance(said, Birth):
                return ingest.take_birth(
                    connection, topic.tenant_id, topic.client_id, said, now_ms, self._limits
                )
            return ingest.take_status(connection, topic.tenant_id, topic.client_id, said, now_ms)

        found = await self._stored(take, topic, said)
        if found is None:
            return
        self._metrics.messages.labels(topic.kind.value, found.verdict).inc()
        if found.verdict in ("replaced", "wrong_epoch", ingest.UNKNOWN_CLIENT):
            extra = {"topic": message.topic, "verdict": found.verdict, "epoch": said.journal_epoch}
            log.warning("a message is not answered", extra=extra)
        if found.before is not None and found.after is not None:
            self.count(found.before, found.after)
        await self._spawn(partial(self._answer, topic, found))

    async def _stored(
        self, take: Callable[[Connection], Ingested], topic: Topic, said: Birth | StatusMessage
    ) -> Ingested | None:
        """Store it, trying again; None when that never worked: then the device keeps it and says it again."""
        error: ServiceError | None = None
        for wait_s in (*self._timing.store_retry_s, None):
            try:
                return await self._store.write(take)
            except ServiceError as caught:
                error = caught
                if wait_s is not None:
                    await asyncio.sleep(wait_s)
        self._metrics.messages.labels(topic.kind.value, "not_stored").inc()
        log.critical(
            "a message could not be stored and stays with the device",
            extra={"tenant": topic.tenant_id, "client": topic.client_id, "said": said.model_dump(mode="json"),
                   "why": str(error)},
        )  # fmt: skip
        return None

    async def _answer(self, topic: Topic, found: Ingested) -> None:
        if found.reply is not None:
            address = topics.replies(topic.tenant_id, topic.client_id)
            await self._publish(address, sign(found.reply, self._key))
        for waiting in found.commands:
            await self._send(waiting)

    # ---- to the devices

    async def _send_due(self) -> None:
        self._wake.clear()
        taken = 0
        if self._link.connected and await self._store.read(records.next_due_ms) is not None:
            ready, taken = await self._store.write(self._take_due)
            for waiting in ready:
                await self._spawn(partial(self._send, waiting))
        if taken < BATCH:
            pause_s = await self._pause_s()
            # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes with the timeout.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _pause_s(self) -> float:
        due_ms = await self._store.read(records.next_due_ms)
        if due_ms is None or not self._link.connected:
            return self._timing.look_s
        return min(self._timing.look_s, max(due_ms - self._now_ms(), 1) / 1000)

    def _take_due(self, connection: Connection) -> tuple[tuple[Waiting, ...], int]:
        now_ms = self._now_ms()
        rows = records.list_due(connection, now_ms, BATCH)
        return ingest.prepare(connection, rows, now_ms, self._limits), len(rows)

    async def _all_due(self) -> None:
        now_ms = self._now_ms()
        await self._store.write(lambda connection: records.make_all_due(connection, now_ms))

    async def _send(self, waiting: Waiting) -> None:
        kind = Kind.UPDATE if waiting.kind == "update" else Kind.CANCEL
        self._metrics.sends.labels(waiting.kind).inc()
        await self._publish(topics.topic(waiting.tenant, waiting.client, kind), waiting.payload)

    async def _publish(self, topic: str, payload: bytes) -> None:
        try:
            await self._link.publish(topic, payload)
        except BlackstartError as error:
            log.warning("a message was not sent, it will be again", extra={"topic": topic, "why": str(error)})

    # ---- deadlines

    async def _watch_deadlines(self) -> None:
        await asyncio.sleep(self._timing.look_s)
        now_ms, limits = self._now_ms(), self._limits
        silent = await self._store.read(lambda c: records.list_silent_jobs(c, now_ms, limits, 10 * BATCH))
        if silent:
            for before, after in await self._store.write(
                lambda c: ingest.end_overdue(c, silent, now_ms, limits)
            ):
                self.count(before, after)

    def count(self, before: JobRecord, after: JobRecord) -> None:
        """Note what a job has come to in the metrics and the log."""
        job = after.job
        if before.job.status is JobStatus.QUEUED and job.status is JobStatus.IN_PROGRESS:
            self._metrics.accepted_seconds.observe(max(after.updated_ms - after.created_ms, 0) / 1000)
        if job.status.terminal and not before.job.status.terminal:
            reason = job.reason.value if job.reason else ""
            outcome = job.outcome.value if job.outcome else ""
            self._metrics.jobs_ended.labels(job.status.value, outcome, reason).inc()
            log.info(
                "job ended",
                extra={"job": job.id, "tenant": after.tenant, "client": after.client, "status": job.status.value,
                       "outcome": outcome, "reason": reason},
            )  # fmt: skip

    # ---- keeping at it

    async def _spawn(self, work: Work) -> None:
        """Run `work` beside the others, as soon as there is room: one slow publish holds up nobody."""
        await self._room.acquire()
        task = asyncio.create_task(self._guarded(work))
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[bool]) -> None:
        self._sending.discard(task)
        self._room.release()

    async def _forever(self, work: Work) -> None:
        while True:
            if not await self._guarded(work):
                await asyncio.sleep(self._timing.look_s)

    async def _guarded(self, work: Work) -> bool:
        """Whether it went well. Nothing that one message or one look meets may end the conversation."""
        try:
            await work()
        except ServiceError as error:
            log.critical("the conversation is held up", extra={"why": str(error)})
            return False
        except Exception:
            log.critical("a defect in the conversation", exc_info=True)
            return False
        return True
