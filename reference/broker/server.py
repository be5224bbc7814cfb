"""amqtt with the parts replaced that are not safe among strangers, or lose messages under traffic.

What is replaced, and why (amqtt 0.12):
- `_create_ssl_context`: amqtt hard-codes CERT_OPTIONAL.
- `init_from_connect`: every CONNECT is judged by its certificate *before* a session is looked up or made. amqtt
  checks late, against the certificate of the old connection, and a refused CONNECT wipes the session.
- `_topic_filtering`: plugins are awaited in the middle of a loop over the subscriptions, which another client's
  SUBSCRIBE changes meanwhile: "dictionary changed size", and the message is lost for the rest. Ours never suspends.
- sessions: clean only; an older connection of the same client is closed first and a session goes with its
  connection. amqtt leaves the old connection open, and its reaper can remove the session of a fresh one.
- the length of packets: amqtt takes 256 MB from anybody who may connect, and keeps several copies of it.
- retained messages and last wills: none. amqtt sends retained ones to clients that have not subscribed, and
  publishes wills past the topic rights.
"""

# ruff: noqa: ARG002 (the signatures are those of the methods that are replaced)

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.protocol import handler as amqtt_handler
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

from reference.broker import rights
from reference.core.errors import InputError
from reference.pki import Peer, peer_of

if TYPE_CHECKING:
    from amqtt.adapters import ReaderAdapter, WriterAdapter
    from amqtt.broker import BrokerContext
    from amqtt.plugins.manager import PluginManager
    from amqtt.session import Session

log = logging.getLogger(__name__)

LISTENER = "default"
CONNECT_TIMEOUT_S = 10.0
"""A connection that has not sent its CONNECT after this long is closed."""
SHUTDOWN_TIMEOUT_S = 1.0
PACKET_BYTES = 128 * 1024
"""Twice the longest message of the protocol."""
_PEER = "blackstart.peer"


class BoundedHeader(MQTTFixedHeader):
    """The beginning of a packet that is not longer than any that we have a use for. MQTT itself allows 256 MB."""

    @classmethod
    async def from_stream(cls, reader: ReaderAdapter) -> Self | None:
        """None also for one that is too long: nothing of it is read, and the connection ends."""
        header = await super().from_stream(reader)
        if header is not None and header.remaining_length > PACKET_BYTES:
            log.warning("connection closed: a packet is too long", extra={"bytes": header.remaining_length})
            return None
        return header


amqtt_handler.MQTTFixedHeader = BoundedHeader  # type: ignore[attr-defined,unused-ignore]
"""The loop that reads packets has no other place for a bound."""


class RefusedError(MQTTError):  # type: ignore[misc,unused-ignore]
    """A CONNECT that is not let in. amqtt closes the connection on an MQTTError."""


def certified_peer(ssl_object: ssl.SSLObject | None) -> Peer:
    """Who the verified certificate of a TLS connection speaks for. Raises `InputError` when it is nobody."""
    certificate = ssl_object.getpeercert() if ssl_object is not None else None
    names: dict[str, list[str]] = {"commonName": [], "organizationName": []}
    subject = certificate.get("subject", ()) if certificate else ()
    for relative in subject:
        for key, value in (pair for pair in relative if isinstance(pair, tuple)):
            names.setdefault(key, []).append(value)
    if len(names["commonName"]) != 1 or len(names["organizationName"]) != 1:
        raise InputError("no certificate with one common name and one organisation", where="certificate")
    return peer_of(names["commonName"][0], names["organizationName"][0])


def serial_of(ssl_object: ssl.SSLObject | None) -> int | None:
    """The serial number of the certificate of a TLS connection."""
    certificate = ssl_object.getpeercert() if ssl_object is not None else None
    number = certificate.get("serialNumber") if certificate else None
    return int(number, 16) if isinstance(number, str) else None


def admit(session: Session, revoked: AbstractSet[int] = frozenset()) -> Peer:
    """Who a CONNECT comes from, when it may come in. Raises `InputError` saying why not."""
    peer = certified_peer(session.ssl_object)
    if serial_of(session.ssl_object) in revoked:
        raise InputError(f"the certificate of {peer.mqtt_id!r} is revoked", where="certificate")
    if session.client_id != peer.mqtt_id:
        raise InputError(
            f"client id {str(session.client_id)[:80]!r} is not the certificate's name {peer.mqtt_id!r}",
            where="CONNECT",
        )
    if not session.clean_session:
        raise InputError(
            "a session that outlives its connection was asked for; only clean ones are", where="CONNECT"
        )
    if session.will_flag:
        raise InputError("a last will was given; none are taken", where="CONNECT")
    return peer


class GuardedHandler(BrokerProtocolHandler):
    """Reads a CONNECT and judges it."""

    revoked: AbstractSet[int] = frozenset()
    """Serial numbers of certificates that are not let in. Each broker has a subclass of its own for them."""

    @classmethod
    async def init_from_connect(
        cls,
        reader: ReaderAdapter,
        writer: WriterAdapter,
        plugins_manager: PluginManager[BrokerContext],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> tuple[BrokerProtocolHandler, Session]:
        """The handler and a new, unregistered session. Raises `RefusedError`, and nothing else, when not let in."""
        address = writer.get_peer_info()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                handler, session = await super().init_from_connect(reader, writer, plugins_manager, loop)
            session.attributes[_PEER] = admit(session, cls.revoked)
            return handler, session
        except InputError as error:
            log.warning("connection refused", extra={"peer": address, "why": str(error)})
            refusal = ConnackPacket.build(0, NOT_AUTHORIZED)
            await refusal.to_stream(writer)
            raise RefusedError(str(error)) from None
        # Bytes that are no CONNECT end in any exception: IndexError, UnicodeError, struct.error...
        except Exception as error:
            log.warning("connection refused", extra={"peer": address, "why": f"no valid CONNECT: {error!r}"})
            raise RefusedError(f"no valid CONNECT: {error!r}") from None

    def handle_read_timeout(self) -> None:
        """Nothing came for the keep-alive time (one and a half of it, as set at CONNECT): MQTT-3.1.2-24."""
        client_id = self.session.client_id if self.session else None
        log.info("connection silent for too long", extra={"client_id": client_id})
        if self._disconnect_waiter is not None and not self._disconnect_waiter.done():
            self._disconnect_waiter.set_result(None)


class GuardedBroker(Broker):
    """The broker: one TLS listener on a socket that is bound already."""

    def __init__(self, listening: socket.socket, ca: Path, cert: Path, key: Path) -> None:
        self._listening = listening
        host, port = listening.getsockname()[:2]
        listener = ListenerConfig(
            type=ListenerType.TCP, bind=f"{host}:{port}", ssl=True, cafile=ca, certfile=cert, keyfile=key
        )
        super().__init__(BrokerConfig(listeners={LISTENER: listener}, plugins={}))
        self._handler: type[GuardedHandler] = type("Handler", (GuardedHandler,), {})

    async def revoke(self, serials: AbstractSet[int]) -> None:
        """Let nobody in any more whose certificate has one of these serial numbers, and close what is open."""
        self._handler.revoked = frozenset(serials)
        for session, handler in list(self._sessions.values()):
            if serial_of(session.ssl_object) in serials:
                log.warning("connection closed: revoked", extra={"client_id": session.client_id})
                await handler.handle_connection_closed()
                await self._stop_handler(handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listening.getsockname()[1])

    @staticmethod
    def _create_ssl_context(listener: ListenerConfig) -> ssl.SSLContext:
        """Nobody without a certificate of our authority gets as far as MQTT. Raises `InputError`."""
        return server_context(
            Path(str(listener.cafile)), Path(str(listener.certfile)), Path(str(listener.keyfile))
        )

    async def _create_server_instance(
        self,
        listener_name: str,
        listener_type: ListenerType,
        address: str | None,
        port: int,
        ssl_context: ssl.SSLContext | None,
    ) -> asyncio.Server:
        connected = partial(self.stream_connected, listener_name=listener_name)
        return await asyncio.start_server(connected, sock=self._listening, ssl=ssl_context)

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        try:
            handler, session = await self._handler.init_from_connect(
                reader, writer, self.plugins_manager, self._loop
            )
        except RefusedError:
            await _close(writer)
            raise
        assert session.client_id is not None, "admitted by its client id"
        session.keep_alive += session.keep_alive // 2
        await self._take_over(session.client_id)
        session.parent = 0
        return handler, session

    async def _take_over(self, client_id: str) -> None:
        """Close an older connection of the same client, certificate and all: MQTT-3.1.4-2."""
        _, older = self._sessions.get(client_id, (None, None))
        if older is not None:
            log.info("older connection closed", extra={"client_id": client_id})
            await older.handle_connection_closed()
            await self._stop_handler(older)
        await self._delete_session(client_id)

    async def _authenticate(self, session: Session, _: ListenerConfig) -> bool:
        return _PEER in session.attributes

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        client_id = client_session.client_id
        assert client_id is not None, "admitted by its client id"
        log.info("connected", extra={"client_id": client_id})
        try:
            await super()._client_message_loop(client_session, handler)
        finally:
            await self._stop_handler(handler)
            client_session.transitions.disconnect()
            # By identity: amqtt compares sessions by client id, and a newer one may have taken this one's place.
            if self._sessions.get(client_id, (None, None))[0] is client_session:
                await self._delete_session(client_id)
            log.info("disconnected", extra={"client_id": client_id})

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        peer: Peer | None = session.attributes.get(_PEER)
        if peer is None:
            return False
        match action:
            case Action.PUBLISH:
                allowed = rights.may_publish(peer, topic)
            case Action.SUBSCRIBE:
                allowed = rights.may_subscribe(peer, topic)
            case Action.RECEIVE:
                return rights.may_receive(peer, topic)
            case _:
                return False
        if not allowed:
            log.warning(
                "not allowed", extra={"client_id": session.client_id, "action": str(action), "topic": topic}
            )
        return allowed

    async def retain_message(
        self,
        source_session: Session | None,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Nothing is kept: who subscribes later has to ask."""
        client_id = source_session.client_id if source_session else None
        log.warning("retained message not kept", extra={"client_id": client_id, "topic": topic_name})

    async def close(self) -> None:
        """Stop listening and close every connection, in `SHUTDOWN_TIMEOUT_S` seconds at most."""
        try:
            await asyncio.wait_for(self.shutdown(), SHUTDOWN_TIMEOUT_S)
        except TimeoutError:
            log.warning("connections were still closing")
        except (AMQTTError, MQTTError, NoDataError, OSError) as error:
            log.warning("shutdown was not clean", extra={"why": repr(error)})


async def _close(writer: WriterAdapter) -> None:
    try:
        await asyncio.wait_for(writer.close(), SHUTDOWN_TIMEOUT_S)
    except (OSError, TimeoutError):
        log.debug("the peer was gone already")


def server_context(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """TLS that demands a client certificate of `ca`. Raises `InputError` for files that cannot be used."""
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(str(cert), str(key))
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the broker's certificate files cannot be used: {error}",
            where=f"{ca}, {cert}, {key}",
            todo="Give three readable PEM files that belong together.",
        ) from error
    return context


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to `host`:`port` (0: a free one). Raises `InputError` when the port cannot be had."""
    try:
        return socket.create_server((host, port), backlog=512)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen: {error}", where=f"{host}:{port}", todo="Choose another port."
        ) from error
