"""One MQTT connection, from CONNECT to its end, and the words in which it speaks. `reference.support.mqtt` keeps a
link up out of these.

paho's thread only hands things over to the event loop; all state here is touched on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from reference.core.errors import BlackstartError, InputError, Reason

CONNECT_TIMEOUT_S = 5.0
"""For each of: TCP and TLS, the answer to CONNECT, the answer to SUBSCRIBE."""
DISCONNECT_TIMEOUT_S = 2.0
STUCK_S = 30.0
"""A broker that may hand over no more, because nothing was acknowledged for this long, is connected to anew: it then
hands over again what was not acknowledged."""


class Protocol(StrEnum):
    """Versions of MQTT. amqtt speaks 3.1.1 only, and never answers the other: it has to be said, not tried."""

    V311 = "3.1.1"
    V5 = "5"


class LinkError(BlackstartError):
    """A message could not be handed to the broker. The link goes on trying to be there for the next one."""

    default = Reason.UNAVAILABLE


class NotConnectedError(LinkError):
    """There is no connection, or it broke before the broker confirmed: the message may have arrived or not."""


class RefusedError(LinkError):
    """The broker said no: to the connection, a subscription, or (MQTT 5 only) a message. `code` is its reason code."""

    def __init__(self, what: str, code: int, *, where: str = "") -> None:
        super().__init__(what, where=where)
        self.code = code


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
class Message:
    """Something arrived. The broker is told so only by `ack()`; call it on the event loop, once it is durable.

    `ack()` does nothing when the connection that brought the message is gone: the sender sends again. The last three
    are MQTT 5's; None when the sender, or the protocol, did not say them.
    """

    topic: str
    payload: bytes
    retained: bool
    ack: Callable[[], None] = field(compare=False, repr=False)
    correlation: bytes | None = None
    content_type: str | None = None
    expiry_s: int | None = None
    """Seconds that the broker would have kept it still."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """How to connect, but for the certificate: the same at every connect."""

    host: str
    port: int
    client_id: str
    subscriptions: tuple[str, ...]
    protocol: Protocol
    keepalive_s: int
    max_in_flight: int
    session_expiry_s: int
    receive_maximum: int

    def properties(self) -> Properties | None:
        """What CONNECT says under MQTT 5 (section 3.1.2.11)."""
        if self.protocol is not Protocol.V5:
            return None
        said = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        said.ReceiveMaximum = self.receive_maximum
        if self.session_expiry_s:
            said.SessionExpiryInterval = self.session_expiry_s
        return said


class Connection:
    """One connection. Futures belong to the loop; the callbacks run in paho's thread."""

    def __init__(
        self, dialogue: Dialogue, tls: ssl.SSLContext | None, deliver: Callable[[Message], None]
    ) -> None:
        self._dialogue = dialogue
        self._deliver = deliver
        self._held: list[Message] | None = []
        self._unacknowledged = 0
        self._acknowledged = 0
        self._loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = self._loop.create_future()
        self.subscribed: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.in_flight: dict[int, asyncio.Future[None]] = {}
        self._detail = ""
        self.client = client = _new_client(dialogue, tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_log = self._on_log

    async def open(self) -> None:
        """Connect and subscribe. Raises `LinkError` when that failed: close() it then, too."""
        await self._connect()
        await _answer(self.accepted, "the broker does not answer")
        if self._dialogue.subscriptions:
            self.client.subscribe([(topic, 1) for topic in self._dialogue.subscriptions])
            await _answer(self.subscribed, "the broker does not answer to the subscription")

    def begin(self) -> None:
        """Hand over what has arrived and what arrives. A lasting session brings its messages before SUBACK."""
        held, self._held = self._held, None
        for message in held or ():
            self._deliver(message)

    def send(
        self, topic: str, payload: bytes, qos: int, properties: Properties | None
    ) -> asyncio.Future[None] | None:
        """Start to publish; what settles at the confirmation. None: the connection is gone.

        Raises `TooManyInFlightError`, or `InputError` for a topic that is none.
        """
        try:
            info = self.client.publish(topic, payload, qos, properties=properties)
        except ValueError as error:
            raise InputError(f"cannot be published: {error}", where=topic[:200]) from error
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # no packet id is free
            raise TooManyInFlightError("every packet id is in use")
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.end(f"publish failed: {paho.error_string(info.rc)}")
            return None
        # Kept until confirmed even when the caller gives up: paho keeps it too, and the bound must count it.
        future = self.in_flight[info.mid] = self._loop.create_future()
        return future

    def end(self, why: str) -> None:
        """This connection is over, for the first reason given; whoever waits for something of it is told."""
        if self.ended.done():
            return
        self.ended.set_result(why)
        gone = NotConnectedError(f"the connection is gone: {why}")
        for future in (self.accepted, self.subscribed, *self.in_flight.values()):
            _settle(future, gone)
        self.in_flight.clear()

    async def close(self) -> None:
        """DISCONNECT if it can be said, and the end of paho's thread. What a lasting session holds stays held."""
        client = self.client

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

    async def _connect(self) -> None:
        """TCP and TLS, which block in paho, in a thread of their own: a stuck one must not hold up anybody."""
        how = self._dialogue
        version5 = how.protocol is Protocol.V5

        def connect() -> None:
            if version5:
                clean = how.session_expiry_s == 0
                self.client.connect(
                    how.host, how.port, how.keepalive_s, clean_start=clean, properties=how.properties()
                )
            else:
                self.client.connect(how.host, how.port, how.keepalive_s)
            if self.ended.done():  # given up meanwhile
                self.client.disconnect()

        try:
            await _in_thread(connect, f"mqtt {how.client_id}")
        except ssl.SSLCertVerificationError as error:
            raise NotConnectedError(f"the broker's certificate is refused: {error.verify_message}") from error
        except (OSError, ValueError) as error:
            raise NotConnectedError(f"{type(error).__name__}: {error}") from error
        self.client.loop_start()

    def _post(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(call)

    # In paho's thread.

    def _on_connect(
        self, _c: paho.Client, _u: object, _f: paho.ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        why = _refusal("the connection", [code])
        self._post(lambda: _settle(self.accepted, why))

    def _on_subscribe(
        self, _c: paho.Client, _u: object, _mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        why = _refusal("a subscription", codes)
        self._post(lambda: _settle(self.subscribed, why))

    def _on_disconnect(
        self, _c: paho.Client, _u: object, _f: paho.DisconnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        why = self._detail or str(code)
        self._post(lambda: self.end(why))

    def _on_publish(
        self, _c: paho.Client, _u: object, mid: int, code: ReasonCode, _p: Properties | None
    ) -> None:
        why = _refusal("the message", [code])
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
        mid, qos, said = message.mid, message.qos, message.properties
        arrived = Message(
            topic,
            bytes(message.payload),
            bool(message.retain),
            lambda: self._ack(mid, qos),
            getattr(said, "CorrelationData", None),
            getattr(said, "ContentType", None),
            getattr(said, "MessageExpiryInterval", None),
        )
        self._post(lambda: self._arrived(arrived, qos))

    # On the loop.

    def _published(self, mid: int, why: RefusedError | None) -> None:
        future = self.in_flight.pop(mid, None)
        if future is not None:
            _settle(future, why)

    def _arrived(self, message: Message, qos: int) -> None:
        if self.ended.done():
            return
        self._unacknowledged += qos > 0
        if self._unacknowledged == self._dialogue.receive_maximum:
            self._loop.call_later(STUCK_S, self._unstick, self._acknowledged)
        if self._held is None:
            self._deliver(message)
        elif len(self._held) < self._dialogue.receive_maximum:
            self._held.append(message)

    def _ack(self, mid: int, qos: int) -> None:
        if not self.ended.done():
            self._acknowledged += 1
            self._unacknowledged -= qos > 0
            self.client.ack(mid, qos)

    def _unstick(self, acknowledged: int) -> None:
        full = self._unacknowledged >= self._dialogue.receive_maximum
        if full and self._acknowledged == acknowledged:
            self.end(f"no message was acknowledged for {STUCK_S:g} s, and the broker hands over no more")


def publish_properties(
    expiry_s: int | None, correlation: bytes | None, content_type: str | None
) -> Properties | None:
    """What PUBLISH says under MQTT 5 (section 3.3.2.3); None when there is nothing to say."""
    said = b""
    if expiry_s is not None:
        said += b"\x02" + min(max(expiry_s, 1), 2**32 - 1).to_bytes(4, "big")
    if content_type is not None:
        said += b"\x03" + _counted(content_type.encode())
    if correlation is not None:
        said += b"\x09" + _counted(correlation)
    return _Packed(said) if said else None


class _Packed(Properties):
    """Properties as their bytes. paho's own, which know every property of every packet, cost more than all the rest of
    a publish."""

    def __init__(self, said: bytes) -> None:
        length, rest = b"", len(said)
        while not length or rest:  # a Variable Byte Integer: section 1.5.5
            rest, low = divmod(rest, 128)
            length += bytes([low | (128 if rest else 0)])
        object.__setattr__(self, "_packed", length + said)

    def pack(self) -> bytes:
        """For the packet."""
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed

    def __str__(self) -> str:
        return "packed"


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _refusal(what: str, codes: Sequence[ReasonCode]) -> RefusedError | None:
    refused = [code for code in codes if code.is_failure]
    if not refused:
        return None
    return RefusedError(f"the broker refuses {what}: {', '.join(map(str, refused))}", int(refused[0].value))


def _settle(future: asyncio.Future[None], why: LinkError | None) -> None:
    if future.done():
        return
    if why is None:
        future.set_result(None)
    else:
        future.set_exception(why)
        future.exception()  # looked at: nobody may be waiting for this one


async def _answer(answer: asyncio.Future[None], otherwise: str) -> None:
    try:
        # Not wait_for(): before Python 3.12 it swallows a cancellation that meets the answer.
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.shield(answer)
    except TimeoutError:
        raise NotConnectedError(f"{otherwise} within {CONNECT_TIMEOUT_S:g} s") from None


def _new_client(how: Dialogue, tls: ssl.SSLContext | None) -> paho.Client:
    version5 = how.protocol is Protocol.V5
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=how.client_id,
        clean_session=None if version5 else True,
        protocol=MQTTProtocolVersion.MQTTv5 if version5 else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(how.max_in_flight)
    client.max_queued_messages_set(0)  # publish() counts
    if tls is not None:
        client.tls_set_context(tls)
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
