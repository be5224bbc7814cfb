"""What devices say, stored: several at a time, each device's words in order, and kept in a file where that fails.

A status is acknowledged to its device only after the transaction that stores it. One that the database cannot take is
not, so that the device keeps it; it is spooled as well, and stored when the database is back.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable

from sqlalchemy import Connection

from reference.core.errors import CommandError, InputError, ServiceError
from reference.core.limits import ServiceLimits
from reference.protocol import topics
from reference.protocol.models import Birth, StatusMessage, parse_birth, parse_status
from reference.protocol.topics import Kind, Topic
from reference.service import ingest
from reference.service.clock import Clock
from reference.service.ingest import Ingested
from reference.service.metrics import Metrics
from reference.service.readiness import DATABASE, Readiness
from reference.service.spool import Spool, Spooled
from reference.service.store import Store
from reference.support.logging import correlated
from reference.support.mqtt import Message

log = logging.getLogger(__name__)
Answer = Callable[[Topic, Ingested], Awaitable[None]]
STORING = 16
"""Messages that are being stored at once, each of another device."""
WAITING = 200
"""Messages that wait behind each of those; further ones wait in the link."""


class Inbox:
    """`start` it, `take` messages, `replay` what was spooled, `stop` it. `answer` is called once they are stored."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        readiness: Readiness,
        clock: Clock,
        limits: ServiceLimits,
        retry_s: tuple[float, ...],
        answer: Answer,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._readiness = readiness
        self._clock = clock
        self._limits = limits
        self._retry_s = retry_s
        self._answer = answer
        self._spool = Spool(store.folder, limits.spooled_many)
        self._spooling = asyncio.Lock()
        self._lines: list[asyncio.Queue[Message]] = []
        self._workers: list[asyncio.Task[None]] = []

    @property
    def spooled(self) -> int:
        """Statuses that wait in the file."""
        return len(self._spool)

    def start(self) -> None:
        """Begin to store."""
        self._lines = [asyncio.Queue(WAITING) for _ in range(STORING)]
        self._workers = [asyncio.create_task(self._work(line), name="inbox") for line in self._lines]

    async def stop(self) -> None:
        """Stop at once: what is not stored was not acknowledged."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def take(self, message: Message) -> None:
        """Store a message in its device's turn. Waits while too many wait already."""
        device = message.topic.rpartition("/")[0].encode()
        await self._lines[zlib.crc32(device) % STORING].put(message)

    async def replay(self) -> None:
        """Store what was spooled. Raises ServiceError when the database cannot take it yet."""
        async with self._spooling:
            kept = await asyncio.to_thread(self._spool.waiting)
        stored = []
        try:
            for one in kept:
                await self._store_one(one.topic, one.payload, self._store.write)
                stored.append(one)
        finally:
            async with self._spooling:
                await asyncio.to_thread(self._spool.forget, stored)
            self._metrics.spooled.set(len(self._spool))
        if stored:
            log.warning("spooled statuses were stored", extra={"count": len(stored)})

    async def _work(self, line: asyncio.Queue[Message]) -> None:
        while True:
            message = await line.get()
            try:
                await self._store_one(message.topic, message.payload, self._patiently)
            except ServiceError as error:
                await self._keep(message, error)
            except Exception:
                # Nothing that one message meets may keep the others from being stored.
                log.critical(
                    "a defect in the conversation", exc_info=True, extra={"topic": message.topic[:200]}
                )
            finally:
                # To the broker it is done either way: what was not stored is not acknowledged to the device, and a
                # message that the broker holds back would only stop the others behind it.
                message.ack()

    async def _store_one(
        self,
        address: str,
        payload: bytes,
        write: Callable[[Callable[[Connection], Ingested]], Awaitable[Ingested]],
    ) -> None:
        read = self._read(address, payload)
        if read is None:
            return
        topic, said = read
        with correlated(said.correlation_id if isinstance(said, StatusMessage) else None):
            found = await write(lambda connection: self._ingest(connection, topic, said))
            self._metrics.messages.labels(topic.kind.value, found.verdict).inc()
            if found.verdict in ("replaced", "wrong_epoch", ingest.UNKNOWN_CLIENT):
                extra = {"topic": address, "verdict": found.verdict, "epoch": said.journal_epoch}
                log.warning("a message counts for nothing", extra=extra)
            await self._answer(topic, found)

    def _read(self, address: str, payload: bytes) -> tuple[Topic, Birth | StatusMessage] | None:
        try:
            topic = topics.parse_topic(address)
            return topic, parse_birth(payload) if topic.kind is Kind.BIRTH else parse_status(payload)
        except (CommandError, InputError) as error:
            self._metrics.messages.labels("unreadable", error.reason.value).inc()
            log.warning("a message is not understood", extra={"topic": address[:200], "why": str(error)})
            return None

    def _ingest(self, connection: Connection, topic: Topic, said: Birth | StatusMessage) -> Ingested:
        now = self._clock.now()
        if isinstance(said, Birth):
            return ingest.take_birth(connection, topic.tenant_id, topic.client_id, said, now, self._limits)
        return ingest.take_status(connection, topic.tenant_id, topic.client_id, said, now)

    async def _patiently(self, work: Callable[[Connection], Ingested]) -> Ingested:
        """Try it again for a moment; in an outage that has lasted, once. Raises ServiceError."""
        down = not self._readiness.part(DATABASE).ok
        lasted = down and self._readiness.for_ms(DATABASE) > 1000 * sum(self._retry_s)
        for wait_s in () if lasted else self._retry_s:
            try:
                return await self._store.write(work)
            except ServiceError:
                await asyncio.sleep(wait_s)
        return await self._store.write(work)

    async def _keep(self, message: Message, error: ServiceError) -> None:
        """It was not stored. A device announces itself again when it gets no answer; a status is kept."""
        kept = False
        kind = message.topic.rpartition("/")[2]
        if kind == Kind.STATUS.value:
            async with self._spooling:
                kept = await asyncio.to_thread(self._spool.keep, Spooled(message.topic, message.payload))
            self._metrics.spooled.set(len(self._spool))
        self._metrics.messages.labels(kind, "not_stored").inc()
        log.critical(
            "a message could not be stored and stays with the device",
            extra={"topic": message.topic, "spooled": kept, "why": str(error)},
        )
