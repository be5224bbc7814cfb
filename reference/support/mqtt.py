"""`MqttLink`: one lasting MQTT link for asyncio, on paho, with acknowledgement in the hands of the application.

Each connection gets a paho client of its own and is over when that client is: acknowledgements, packet ids and
queues of an old connection cannot leak into the next one. Sessions are clean; what must not be lost is sent again
end to end, not by the broker (design: "Delivery is ours").

paho's thread only hands things over to the event loop; all state here is touched on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from reference.core.errors import BlackstartError, InputError, Reason

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
"""For each of: TCP and TLS, the answer to CONNECT, the answer to SUBSCRIBE."""
DISCONNECT_TIMEOUT_S = 2.0
STEADY_S = 5.0
"""A connection that lasted this long was a good one: the backoff starts anew."""


class Protocol(StrEnum):
    """Versions of MQTT. amqtt speaks 3.1.1 only."""

    V311 = "3.1.1"
    V5 = "5"


class LinkError(BlackstartError):
    """A message could not be handed to the broker. The link goes on trying to be there for the next one."""

    default = Reason.UNAVAILABLE


class NotConnectedError(LinkError):
    """There is no connection, or it broke before the broker confirmed: the message may have arrived or not."""


class PublishTimeoutError(LinkError):
    """The broker has not confirmed in time: the message may have arrived or not."""


class TooManyInFlightError(LinkError):
    """As many messages as are allowed await the broker's confirmation: try again later."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for mutual TLS: whom to trust, and who we are."""

    ca: Path
    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """A context that verifies the broker's certificate and host name. Raises `InputError`."""
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(str(self.cert), str(self.key))
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"the TLS files cannot be used: {error}",
                where=f"{self.ca}, {self.cert}, {self.key}",
                todo="Give three readable PEM files; certificate and key must belong together.",
            ) from error
        return context


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
class Message:
    """Something arrived. The broker is told so only by `ack()`; call it on the event loop, once it is durable.

    `ack()` does nothing when the connection that brought the message is gone: the sender sends again.
    """

    topic: str
    payload: bytes
    retained: bool
    ack: Callable[[], None] = field(compare=False, repr=False)


Event = Connected | Disconnected | Message


class _Attempt:
    """One connection, from CONNECT to its end. Futures belong to the loop; the callbacks run in paho's thread."""

    def __init__(self, link: MqttLink, client: paho.Client) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self.client = client
        self.accepted: asyncio.Future[None] = self._loop.create_future()
        self.subscribed: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.in_flight: dict[int, asyncio.Future[None]] = {}
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_log = self._on_log
        self._detail = ""

    def _post(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(call)

    # In paho's thread.

    def _on_connect(
        self, _c: paho.Client, _u: object, _f: paho.ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        why = f"the broker refuses the connection: {code}" if code.is_failure else None
        self._post(lambda: _settle(self.accepted, why))

    def _on_subscribe(
        self, _c: paho.Client, _u: object, _mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        why = f"the broker refuses a subscription: {', '.join(refused)}" if refused else None
        self._post(lambda: _settle(self.subscribed, why))

    def _on_disconnect(
        self, _c: paho.Client, _u: object, _f: paho.DisconnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        why = self._detail or str(code)
        self._post(lambda: self.end(why))

    def _on_publish(
        self, _c: paho.Client, _u: object, mid: int, code: ReasonCode, _p: Properties | None
    ) -> None:
        why = f"the broker refuses the message: {code}" if code.is_failure else None
        self._post(lambda: self._published(mid, why))

    def _on_log(self, _c: paho.Client, _u: object, level: int, text: str) -> None:
        # The only place where paho says what the socket or TLS said; its reason code is "unspecified error" then.
        if level == paho.MQTT_LOG_ERR:
            self._detail = text

    def _on_message(self, _c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        payload, retained, mid, qos = bytes(message.payload), bool(message.retain), message.mid, message.qos
        arrived = Message(topic, payload, retained, lambda: self._ack(mid, qos))
        self._post(lambda: self._arrived(arrived))

    # On the loop.

    def _published(self, mid: int, why: str | None) -> None:
        future = self.in_flight.pop(mid, None)
        if future is not None:
            _settle(future, why)

    def _arrived(self, message: Message) -> None:
        if not self.ended.done():
            self._link.deliver(message)

    def _ack(self, mid: int, qos: int) -> None:
        if not self.ended.done():
            self.client.ack(mid, qos)

    def end(self, why: str) -> None:
        """This connection is over, for the first reason given; whoever waits for something of it is told."""
        if self.ended.done():
            return
        self.ended.set_result(why)
        for future in (self.accepted, self.subscribed, *self.in_flight.values()):
            _settle(future, f"the connection is gone: {why}")
        self.in_flight.clear()


def _settle(future: asyncio.Future[None], why: str | None) -> None:
    if future.done():
        return
    if why is None:
        future.set_result(None)
    else:
        future.set_exception(NotConnectedError(why))
        future.exception()  # looked at: nobody may be waiting for this one


class MqttLink:
    """A link that keeps itself up. `start()` it on the loop, read `events`, `publish()`, `stop()` it.

    `subscriptions` are topic filters, taken at QoS 1 at every connect. At most `max_in_flight` published messages
    await confirmation, and at most `max_waiting` received ones wait in `events`: more are dropped without an
    acknowledgement, which makes their sender send again.
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
    ) -> None:
        self._host = host
        self._port = port
        self._client_id = client_id
        self._tls = tls
        self._subscriptions = tuple(subscriptions)
        self._protocol = protocol
        self._keepalive_s = keepalive_s
        self._backoff = backoff if backoff is not None else Backoff()
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._attempt: _Attempt | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_trouble = ""
        self._dropped = 0

    @property
    def connected(self) -> bool:
        """Whether messages can be published now, as far as is known."""
        return self._attempt is not None

    async def start(self) -> None:
        """Begin to connect, and keep at it until `stop()`. Raises `InputError` when the TLS files are unusable."""
        assert self._task is None, "started once"
        if self._tls is not None:
            self._tls.context()
        self._task = asyncio.create_task(self._keep_connected(), name=f"mqtt {self._client_id}")

    async def stop(self) -> None:
        """Say goodbye to the broker and stay away. Nothing is put into `events` afterwards."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, timeout_s: float = 5.0) -> None:
        """Hand a message to the broker; returns when it has confirmed (qos 1), or it is sent (qos 0).

        Raises `NotConnectedError`, `TooManyInFlightError` (nothing was sent), `PublishTimeoutError` (it may have
        been); `InputError` for a topic that is none. Nothing is kept for later: who needs it to arrive tries again.
        """
        attempt = self._attempt
        if attempt is None:
            raise NotConnectedError("there is no connection to the broker", where=self._address)
        if len(attempt.in_flight) >= self._max_in_flight:
            raise TooManyInFlightError(
                f"{self._max_in_flight} messages await the broker's confirmation", where=self._address
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            info = attempt.client.publish(topic, payload, qos)
        except ValueError as error:
            raise InputError(f"cannot be published: {error}", where=topic[:200]) from error
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # no packet id is free
            raise TooManyInFlightError("every packet id is in use", where=self._address)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            attempt.end(f"publish failed: {paho.error_string(info.rc)}")
            raise NotConnectedError("the connection is gone", where=self._address)
        # Kept until confirmed even when the caller gives up: paho keeps it too, and the bound must count it.
        attempt.in_flight[info.mid] = future
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(future)
        except TimeoutError:
            raise PublishTimeoutError(f"not confirmed after {timeout_s:g} s", where=self._address) from None

    def deliver(self, message: Message) -> None:
        """For the connection in progress: put what arrived before the reader."""
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
        return f"mqtt{'s' if self._tls else ''}://{self._host}:{self._port}"

    @property
    def _log_fields(self) -> dict[str, str]:
        return {"broker": self._address, "client_id": self._client_id}

    async def _keep_connected(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                why = await self._one_connection()
            except BlackstartError as error:
                why = error.what
            except (
                Exception
            ) as error:  # a link that dies of a mistake of ours would be offline for ever, in silence
                log.exception("the MQTT link failed unexpectedly", extra=self._log_fields)
                why = repr(error)
            # A connection that broke at once counts as a failure: two agents under one name throw each other off.
            failures = 1 if loop.time() - began > STEADY_S else failures + 1
            if why != self._last_trouble:
                self._last_trouble = why
                log.warning("no connection to the broker", extra={**self._log_fields, "why": why})
            await asyncio.sleep(self._backoff.wait_s(failures))

    async def _one_connection(self) -> str:
        """Connect, subscribe, stay until the end; why it ended. Raises `BlackstartError` when it never began."""
        attempt = _Attempt(self, self._new_client())
        try:
            await self._connect(attempt)
            await self._await(attempt.accepted, "the broker does not answer")
            if self._subscriptions:
                attempt.client.subscribe([(topic, 1) for topic in self._subscriptions])
                await self._await(attempt.subscribed, "the broker does not answer to the subscription")
            self._attempt = attempt
            log.info("connected to the broker", extra=self._log_fields)
            self.events.put_nowait(Connected())
            return await asyncio.shield(attempt.ended)  # a cancelled await would cancel the future, too
        finally:
            if self._attempt is attempt:
                self._attempt = None
                why = attempt.ended.result() if attempt.ended.done() else "stopped"
                self.events.put_nowait(Disconnected(why))
            attempt.end("given up")
            await _close(attempt.client)

    async def _await(self, answer: asyncio.Future[None], otherwise: str) -> None:
        try:
            # Not wait_for(): before Python 3.12 it swallows a cancellation that meets the answer.
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.shield(answer)
        except TimeoutError:
            raise NotConnectedError(f"{otherwise} within {CONNECT_TIMEOUT_S:g} s") from None

    async def _connect(self, attempt: _Attempt) -> None:
        """TCP and TLS, which block in paho, in a thread of their own: a stuck one must not hold up anybody."""

        def connect() -> None:
            attempt.client.connect(self._host, self._port, self._keepalive_s)
            if attempt.ended.done():  # given up meanwhile
                attempt.client.disconnect()

        try:
            await _in_thread(connect, f"mqtt {self._client_id}")
        except ssl.SSLCertVerificationError as error:
            raise NotConnectedError(f"the broker's certificate is refused: {error.verify_message}") from error
        except (OSError, ValueError) as error:
            raise NotConnectedError(f"{type(error).__name__}: {error}") from error
        attempt.client.loop_start()

    def _new_client(self) -> paho.Client:
        version5 = self._protocol is Protocol.V5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if version5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if version5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(self._max_in_flight)
        client.max_queued_messages_set(0)  # publish() counts
        if self._tls is not None:
            client.tls_set_context(self._tls.context())
        return client


async def _in_thread(call: Callable[[], object], name: str) -> None:
    """Run a blocking call in a daemon thread. When the awaiting task is cancelled the thread is left to itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            call()
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    await done


async def _close(client: paho.Client) -> None:
    """DISCONNECT if it can be said, and the end of paho's thread."""

    def close() -> None:
        client.disconnect()
        # paho forgets its thread when that ends, which may be between its two looks at it.
        with contextlib.suppress(AttributeError):
            client.loop_stop()
        # Without the cycle through the callbacks its sockets are closed now, not by the garbage collector.
        client.on_connect = client.on_disconnect = client.on_subscribe = None
        client.on_message = client.on_publish = client.on_log = None

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
            await _in_thread(close, "mqtt close")
