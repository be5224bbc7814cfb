"""`MqttLink`: one lasting MQTT link for asyncio, on paho, with acknowledgement in the hands of the application.

Each connection gets a paho client of its own and is over when that client is: acknowledgements, packet ids and
queues of an old connection cannot leak into the next one. Sessions are clean unless MQTT 5 is spoken and a session
expiry is given; what must not be lost is sent again end to end, not by the broker (design: "Delivery is ours").
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from reference.core.errors import BlackstartError
from reference.support.mqtt_connection import (
    CONNECT_TIMEOUT_S,
    Connection,
    Dialogue,
    LinkError,
    Message,
    NotConnectedError,
    Protocol,
    PublishTimeoutError,
    RefusedError,
    TlsFiles,
    TooManyInFlightError,
    publish_properties,
)

__all__ = [
    "CONNECT_TIMEOUT_S",
    "Backoff",
    "Connected",
    "Disconnected",
    "Event",
    "LinkError",
    "Message",
    "MqttLink",
    "NotConnectedError",
    "Protocol",
    "PublishTimeoutError",
    "RefusedError",
    "StaysDown",
    "TlsFiles",
    "TooManyInFlightError",
]

log = logging.getLogger(__name__)

STEADY_S = 5.0
"""A connection that lasted this long was a good one: the backoff starts anew."""
OUTAGE_S = 30.0
"""Without a connection for this long, the reader is told (`StaysDown`), and again at every doubling of it."""
RENEWED = "the certificate was renewed"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts to connect, in seconds: doubling, capped, and scaled by 0.5 to 1 at random."""

    first_s: float = 0.2
    limit_s: float = 30.0

    def wait_s(self, failures: int) -> float:
        """The wait after the `failures`-th failure in a row."""
        full = min(self.limit_s, self.first_s * 2.0 ** min(failures - 1, 32))
        return full * random.uniform(0.5, 1.0)  # noqa: S311 (spreads a fleet, protects nothing)


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has accepted us and every subscription."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection that was announced by `Connected` is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class StaysDown:
    """There has been no connection for `down_s` seconds; `reason` is why the last attempt failed."""

    reason: str
    down_s: float


Event = Connected | Disconnected | StaysDown | Message


class MqttLink:
    """A link that keeps itself up. `start()` it on the loop, read `events`, `publish()`, `stop()` it.

    `subscriptions` are topic filters, taken at QoS 1 at every connect. At most `max_in_flight` published messages
    await confirmation, and at most `max_waiting` received ones wait in `events`: more are dropped without an
    acknowledgement, which makes their sender send again.

    Of MQTT 5, and ignored under 3.1.1: the broker keeps the session, and what comes for it, for `session_expiry_s`
    seconds after a connection (0: sessions are clean), and at most `receive_maximum` messages are unacknowledged.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        tls: TlsFiles | None,
        *,
        subscriptions: Sequence[str] = (),
        protocol: Protocol = Protocol.V311,
        keepalive_s: int = 20,
        backoff: Backoff | None = None,
        max_in_flight: int = 1_000,
        max_waiting: int = 10_000,
        session_expiry_s: int = 0,
        receive_maximum: int = 1_000,
        outage_s: float = OUTAGE_S,
    ) -> None:
        self._how = Dialogue(
            host, port, client_id, tuple(subscriptions), protocol, keepalive_s, max_in_flight, session_expiry_s,
            min(receive_maximum, max_waiting),
        )  # fmt: skip
        self._tls = tls
        self._backoff = backoff if backoff is not None else Backoff()
        self._max_waiting = max_waiting
        self._outage_s = outage_s
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_trouble = ""
        self._down_since: float | None = None
        self._say_down_at_s = outage_s
        self._dropped = 0
        # A connection with renewed files waits here for the keeper; at any time only one of the two opens one,
        # because the broker throws the older of two connections of one client off.
        self._successor: Connection | None = None
        self._succeeded = asyncio.Event()
        self._opening = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether messages can be published now, as far as is known."""
        return self._connection is not None

    @property
    def outage(self) -> StaysDown | None:
        """Since when there is no connection, and why; None while there is one, and before `start()`."""
        if self._down_since is None:
            return None
        return StaysDown(self._last_trouble or "not connected yet", self._now() - self._down_since)

    async def start(self) -> None:
        """Begin to connect, and keep at it until `stop()`. Raises `InputError` when the TLS files are unusable."""
        assert self._task is None, "started once"
        if self._tls is not None:
            self._tls.context()
        self._down_since = self._now()
        self._task = asyncio.create_task(self._keep_connected(), name=f"mqtt {self._how.client_id}")

    async def stop(self) -> None:
        """Say goodbye to the broker and stay away. Nothing is put into `events` afterwards."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if (successor := self._successor) is not None:
            self._successor = None
            successor.end("given up")
            await successor.close()

    async def renew(self, tls: TlsFiles) -> None:
        """Go over to new TLS files: connect with them first, and give the old connection up when that worked.

        Raises `InputError` for files that cannot be used, `LinkError` when the broker was not reached or refuses
        them: the old connection, and the old files, go on then. The reader sees a `Disconnected` and a `Connected`.
        """
        assert self._task is not None, "a running link is renewed"
        tls.context()
        async with self._opening:
            successor = await self._open(tls)
            if self._task is None:  # stopped meanwhile
                successor.end("given up")
                await successor.close()
                return
            self._tls, self._successor = tls, successor
            self._succeeded.set()
            if self._connection is not None:
                self._connection.end(RENEWED)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        timeout_s: float = 5.0,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
        content_type: str | None = None,
    ) -> None:
        """Hand a message to the broker; returns when it has confirmed (qos 1), or it is sent (qos 0).

        `expiry_s` (seconds that the broker keeps it), `correlation` and `content_type` travel with it under MQTT 5
        and are left out under 3.1.1.

        Raises `NotConnectedError`, `TooManyInFlightError` (nothing was sent), `PublishTimeoutError` (it may have
        been), `RefusedError` (the broker took it and will not deliver it: MQTT 5 only, 3.1.1 cannot say so);
        `InputError` for a topic that is none. Nothing is kept for later: who needs it to arrive tries again.
        """
        connection = self._connection
        if connection is None:
            raise NotConnectedError("there is no connection to the broker", where=self._address)
        if len(connection.in_flight) >= self._how.max_in_flight:
            raise TooManyInFlightError(
                f"{self._how.max_in_flight} messages await the broker's confirmation", where=self._address
            )
        properties = None
        if self._how.protocol is Protocol.V5:
            properties = publish_properties(expiry_s, correlation, content_type)
        confirmed = connection.send(topic, payload, qos, properties)
        if confirmed is None:
            raise NotConnectedError("the connection is gone", where=self._address)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(confirmed)
        except TimeoutError:
            raise PublishTimeoutError(f"not confirmed after {timeout_s:g} s", where=self._address) from None

    def _deliver(self, message: Message) -> None:
        if self.events.qsize() >= self._max_waiting:
            self._dropped += 1
            if self._dropped == 1:
                log.warning("messages dropped unacknowledged: the reader is too slow", extra=self._log_fields)
            return
        if self._dropped:
            log.warning("messages were dropped", extra={**self._log_fields, "count": self._dropped})
            self._dropped = 0
        self.events.put_nowait(message)

    @property
    def _address(self) -> str:
        return f"mqtt{'s' if self._tls else ''}://{self._how.host}:{self._how.port}"

    @property
    def _log_fields(self) -> dict[str, str]:
        return {"broker": self._address, "client_id": self._how.client_id}

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            began = self._now()
            try:
                why = await self._one_connection()
            except BlackstartError as error:
                why = error.what
            except (
                Exception
            ) as error:  # a link that dies of a mistake of ours would be offline for ever, in silence
                log.exception("the MQTT link failed unexpectedly", extra=self._log_fields)
                why = repr(error)
            if self._successor is not None:
                failures = 0
                continue
            # A connection that broke at once counts as a failure: two agents under one name throw each other off.
            failures = 1 if self._now() - began > STEADY_S else failures + 1
            self._trouble(why)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._backoff.wait_s(failures)):
                    await self._succeeded.wait()

    def _trouble(self, why: str) -> None:
        """Log a new reason once; tell the reader of an outage that lasts."""
        if why != self._last_trouble:
            self._last_trouble = why
            log.warning("no connection to the broker", extra={**self._log_fields, "why": why})
        outage = self.outage
        if outage is not None and outage.down_s >= self._say_down_at_s:
            self._say_down_at_s = outage.down_s * 2
            log.error(
                "the broker stays away", extra={**self._log_fields, "why": why, "down_s": outage.down_s}
            )
            self.events.put_nowait(outage)

    async def _one_connection(self) -> str:
        """Connect, subscribe, stay until the end; why it ended. Raises `BlackstartError` when it never began."""
        async with self._opening:
            connection, self._successor = self._successor, None
            self._succeeded.clear()
            if connection is None:
                connection = await self._open(self._tls)
        try:
            self._connection, self._down_since = connection, None
            log.info("connected to the broker", extra=self._log_fields)
            self.events.put_nowait(Connected())
            connection.begin()
            return await asyncio.shield(connection.ended)  # a cancelled await would cancel the future, too
        finally:
            self._connection, self._down_since, self._say_down_at_s = None, self._now(), self._outage_s
            why = connection.ended.result() if connection.ended.done() else "stopped"
            self.events.put_nowait(Disconnected(why))
            connection.end("given up")
            await connection.close()

    async def _open(self, tls: TlsFiles | None) -> Connection:
        connection = Connection(self._how, tls.context() if tls is not None else None, self._deliver)
        try:
            await connection.open()
        except BaseException:
            connection.end("given up")
            await connection.close()
            raise
        return connection
