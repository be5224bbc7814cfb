"""The conversation with the devices: sends what waits, lets what they say be stored, answers, and watches deadlines.

Whatever is lost on the way (a command, a reply, a status) is sent again by whoever keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from reference.core.errors import BlackstartError, ServiceError
from reference.core.job import JobStatus
from reference.core.limits import DEFAULT_SERVICE_LIMITS, ServiceLimits
from reference.protocol import topics
from reference.protocol.envelope import SigningKey, sign
from reference.protocol.topics import Kind, Topic
from reference.service import ingest, records
from reference.service.clock import Clock, monotonic_ms, wall_ms
from reference.service.inbox import Inbox
from reference.service.ingest import Ingested
from reference.service.link import Link
from reference.service.metrics import Metrics
from reference.service.readiness import BROKER, DATABASE, Readiness
from reference.service.records import JobRecord, Waiting
from reference.service.store import Store
from reference.support.mqtt import Connected, Disconnected, Message, StaysDown

__all__ = ["Conversation", "Timing", "wall_ms"]
log = logging.getLogger(__name__)
Work = Callable[[], Awaitable[None]]

BATCH = 200
"""Commands taken out of the outbox in one transaction."""
REPLY_EXPIRY_S = 60
"""A reply that was not delivered by then is of no use: the device has asked again."""
SENDING = 500
"""Messages that may be on their way to the broker at once."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the conversation looks, in seconds."""

    look_s: float = 1.0
    """For due commands and deadlines, when nothing wakes it earlier."""
    look_most_s: float = 5.0
    """The same while the database is gone, after some tries."""
    store_retry_s: tuple[float, ...] = (0.05, 0.2, 1.0)
    """Waits between the tries to store a message: one more try than waits."""
    probe_s: float = 10.0
    """A database that nothing was written to for so long is written to, to see whether it can be; in an outage it is
    at each look for deadlines."""
    elapsed_ms: Callable[[], int] = monotonic_ms
    """The clock that durations are measured with."""


class Conversation:
    """`start` it, `wake` it when something was put into the outbox, `stop` it.

    `readiness` says which parts are there, and since when.
    """

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
        self._clock = Clock(now_ms, self._timing.elapsed_ms)
        self.readiness = Readiness(now_ms, limits.outage_remind_ms, self._timing.elapsed_ms)
        store.watch(self._database_is)
        self._inbox = Inbox(
            store, metrics, self.readiness, self._clock, limits, self._timing.store_retry_s, self._answer
        )
        self._wake = asyncio.Event()
        self._restored = True
        self._loops: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[bool]] = set()
        self._room = asyncio.Semaphore(SENDING)

    @property
    def connected(self) -> bool:
        """Whether the broker is there, as far as is known."""
        return self._link.connected

    @property
    def spooled(self) -> int:
        """Statuses that wait in a file for the database."""
        return self._inbox.spooled

    def wake(self) -> None:
        """Look into the outbox now."""
        self._wake.set()

    def sending_ms(self) -> int | None:
        """Steady time, for a command that is given to `send` once it is committed. None: let the outbox send it, as
        the broker is not there, or too much is on its way to it."""
        if not (self._link.connected and self._restored) or len(self._sending) >= SENDING:
            return None
        return self._clock.steady_ms()

    def send(self, command: Waiting) -> None:
        """Send what has just been committed, noted as sent: without another look into the outbox for it."""
        self._begin(partial(self._send, command))

    async def start(self) -> None:
        """Raises InputError when the link cannot even be tried."""
        await self._link.start()
        self._inbox.start()
        self._loops = [
            asyncio.create_task(self._listen(), name="listen"),
            asyncio.create_task(self._forever(self._send_due), name="send"),
            asyncio.create_task(self._forever(self._watch), name="watch"),
        ]

    async def stop(self) -> None:
        """Stop at once: all that was promised is in the database."""
        tasks = [*self._loops, *self._sending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._inbox.stop()
        await self._link.stop()

    def _database_is(self, trouble: str | None) -> None:
        self.readiness.tell(DATABASE, trouble)
        self._metrics.part_up.labels(DATABASE).set(trouble is None)

    # ---- from the devices

    async def _listen(self) -> None:
        while True:
            event = await self._link.events.get()
            match event:
                case Connected():
                    self._broker_is(None)
                    # A connection that is lost loses what was on its way: all of it is sent again.
                    self._restored = False
                    self.wake()
                case Disconnected(reason=reason) | StaysDown(reason=reason):
                    self._broker_is(reason or "not connected")
                case StaysDown(reason=reason):
                    self._broker_is(reason)
                case Message():
                    await self._inbox.take(event)

    def _broker_is(self, trouble: str | None) -> None:
        self.readiness.tell(BROKER, trouble)
        self._metrics.broker_connected.set(trouble is None)
        self._metrics.part_up.labels(BROKER).set(trouble is None)

    async def _answer(self, topic: Topic, found: Ingested) -> None:
        for before, after in found.changed:
            self.count(before, after)
        await self._spawn(partial(self._reply, topic, found))

    async def _reply(self, topic: Topic, found: Ingested) -> None:
        if found.reply is not None:
            address = topics.replies(topic.tenant_id, topic.client_id)
            await self._publish(address, sign(found.reply, self._key), expiry_s=REPLY_EXPIRY_S)
        for waiting in found.commands:
            await self._send(waiting)

    # ---- to the devices

    async def _send_due(self) -> None:
        self._wake.clear()
        taken = 0
        if self._link.connected:
            if not self._restored:
                self._restored = True
                await self._restore()
            ready, taken = await self._store.write(self._take_due) if await self._is_due() else ((), 0)
            for waiting in ready:
                await self._spawn(partial(self._send, waiting))
        if taken < BATCH:
            pause_s = await self._pause_s()
            # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes with the timeout.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _restore(self) -> None:
        """The way to the devices is there again: all that waits is due now."""
        now = self._clock.now()

        def restore(connection: Connection) -> None:
            records.make_all_due(connection)
            records.make_told(connection, now.steady_ms)

        try:
            await self._store.write(restore)
        except ServiceError:
            self._restored = False
            raise

    async def _is_due(self) -> bool:
        due_ms = await self._store.read(records.next_due_ms)
        return due_ms is not None and due_ms <= self._clock.steady_ms()

    async def _pause_s(self) -> float:
        due_ms = await self._store.read(records.next_due_ms)
        if due_ms is None or not self._link.connected:
            return self._timing.look_s
        return min(self._timing.look_s, max(due_ms - self._clock.steady_ms(), 1) / 1000)

    def _take_due(self, connection: Connection) -> tuple[tuple[Waiting, ...], int]:
        now = self._clock.now()
        rows = records.list_due(connection, now.steady_ms, BATCH)
        return ingest.prepare(connection, rows, now, self._limits), len(rows)

    async def _send(self, waiting: Waiting) -> None:
        kind = Kind.UPDATE if waiting.kind == "update" else Kind.CANCEL
        self._metrics.sends.labels(waiting.kind).inc()
        correlation = waiting.correlation_id.encode() if waiting.correlation_id is not None else None
        left_ms = waiting.expires_ms - self._clock.now().wall_ms
        topic = topics.topic(waiting.tenant, waiting.client, kind)
        await self._publish(topic, waiting.payload, expiry_s=max(left_ms // 1000, 1), correlation=correlation)

    async def _publish(
        self, topic: str, payload: bytes, *, expiry_s: int, correlation: bytes | None = None
    ) -> None:
        try:
            await self._link.publish(
                topic, payload, expiry_s=expiry_s, correlation=correlation, content_type=topics.ENVELOPE_TYPE
            )
        except BlackstartError as error:
            log.warning("a message was not sent, it will be again", extra={"topic": topic, "why": str(error)})

    # ---- deadlines and outages

    async def _watch(self) -> None:
        await asyncio.sleep(self._timing.look_s)
        self.readiness.remind()
        try:
            await self._store.probe(self._timing.probe_s)
        except ServiceError:
            # It is told by the store's watcher. The next look comes as soon as any: others wait for the end of this.
            return
        await self._end_overdue()
        if self._inbox.spooled:
            await self._inbox.replay()

    async def _end_overdue(self) -> None:
        now, limits, most = self._clock.now(), self._limits, 10 * BATCH
        broker = self.readiness.part(BROKER)
        hearing_ms = self.readiness.for_ms(BROKER) if broker.ok else 0

        def look(connection: Connection) -> tuple[list[JobRecord], list[JobRecord]]:
            silent = records.list_silent_jobs(connection, now.steady_ms, limits, most)
            return silent, records.list_superseded(connection, most)

        def end(connection: Connection) -> list[tuple[JobRecord, JobRecord]]:
            ended = ingest.end_overdue(connection, silent, now, hearing_ms, limits)
            return ended + ingest.end_superseded(connection, superseded, now)

        silent, superseded = await self._store.read(look)
        if silent or superseded:
            for before, after in await self._store.write(end):
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
        self._begin(work).add_done_callback(lambda _: self._room.release())

    def _begin(self, work: Work) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._guarded(work))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _forever(self, work: Work) -> None:
        failures = 0
        while True:
            failures = 0 if await self._guarded(work) else failures + 1
            if failures:
                longest_s = min(self._timing.look_most_s, self._timing.look_s * 2 ** min(failures - 1, 16))
                await asyncio.sleep(longest_s * random.uniform(0.5, 1))  # noqa: S311 (spreads load)

    async def _guarded(self, work: Work) -> bool:
        """Whether it went well. Nothing that one look meets may end the conversation."""
        try:
            await work()
        except ServiceError as error:
            # An outage is logged as one, when it begins and now and then: not by each look.
            level = logging.CRITICAL if self.readiness.part(DATABASE).ok else logging.DEBUG
            log.log(level, "the conversation is held up", extra={"why": str(error)})
            return False
        except Exception:
            log.critical("a defect in the conversation", exc_info=True)
            return False
        return True
