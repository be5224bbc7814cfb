"""One listener: a client's way to the broker, packet by packet, and the handle to hurt it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from chaos.proxies.mqtt.flow import close
from chaos.proxies.mqtt.packets import Packet, PacketType, Stream
from chaos.proxies.mqtt.session import CLOSE_S, Cut, Injected, Session, Streams
from chaos.proxies.mqtt.tls import Tls
from chaos.proxies.mqtt.toxics import Toxic, ToxicError, ToxicOrder
from reference.core.errors import BlackstartError, ServiceError

log = logging.getLogger(__name__)

DIAL_S = 5.0


_Event = Literal["connect", "connected", "publish", "acknowledged", "disconnected"]


class Seen(NamedTuple):
    """What the tap tells, in the history's words. `ours` is there, and true, where we injected it; else None."""

    event: _Event
    data: Mapping[str, object]


Tap = Callable[[Seen], None]


@dataclass(slots=True)
class Counters:
    """Of one listener, over all its connections."""

    connections: int = 0
    packets: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    """On the wire, by direction."""
    bytes: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    not_mqtt_bytes: int = 0
    """Passed on as they came, because they were no packets."""
    refused: int = 0
    """Connections without a certificate that opens this way, or without a broker at the other end."""


class Gate:
    """The next packet that is wanted stands still, and all behind it in its direction."""

    def __init__(self, wanted: Callable[[Packet], bool], nth: int = 1) -> None:
        self.reached = asyncio.Event()
        """It stands there."""
        self.packet: Packet | None = None
        self._wanted = wanted
        self._left = nth
        self._open = asyncio.Event()

    def release(self) -> None:
        """Let it go; one that has not come will not stand still. Again is success."""
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether it was released."""
        return self._open.is_set()

    def stops(self, packet: Packet) -> bool:
        """Whether this is the packet."""
        if self.is_open or self.packet is not None or not self._wanted(packet):
            return False
        self._left -= 1
        if self._left:
            return False
        self.packet = packet
        return True

    async def stand(self) -> None:
        """Until it is released."""
        self.reached.set()
        await self._open.wait()


class MqttWay:
    """One listener and all that passes through it. Made by `MqttProxy.way`."""

    def __init__(self, name: str, upstream: str, listen: str, tls: Tls | None, seed: int) -> None:
        self.name = name
        self.tap: Tap | None = None
        """Called for what is put on the wire; quick, in the event loop."""
        self.counters = Counters()
        self.first: dict[str, bytes] = {}
        """The first payload of each kind that ever passed."""
        self.tls = tls
        self._upstream = upstream
        self._listen = listen
        self._seed = seed
        self._server: asyncio.Server | None = None
        self._sessions: list[Session] = []
        self._running: set[asyncio.Task[None]] = set()
        self._toxics: list[Toxic] = []
        self._gates: list[Gate] = []
        self._retained: dict[str, tuple[bytes, Injected]] = {}

    # ---- where it is

    @property
    def listen(self) -> str:
        """`host:port` of this end."""
        return self._listen

    @property
    def port(self) -> int:
        """Of this end; the same over disabling and enabling."""
        return int(self._listen.rpartition(":")[2])

    @property
    def upstream(self) -> str:
        """`host:port` of the broker."""
        return self._upstream

    @property
    def enabled(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The connections that are open, the oldest first."""
        return tuple(self._sessions)

    async def enable(self) -> None:
        """Listen; again is success. Raises ServiceError."""
        if self._server is not None:
            return
        host, _, port = self._listen.rpartition(":")
        context = self.tls.server_context() if self.tls is not None else None
        limits = (DIAL_S, CLOSE_S) if context is not None else (None, None)
        try:
            self._server = await asyncio.start_server(
                self._accept, host, int(port), ssl=context, ssl_handshake_timeout=limits[0],
                ssl_shutdown_timeout=limits[1],
            )  # fmt: skip
        except (OSError, ValueError, OverflowError) as error:
            raise ServiceError(f"cannot listen: {error}", where=self._listen) from None
        self._listen = f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def disable(self) -> None:
        """Refuse whoever comes, and cut whoever is there; again is success."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for session in self.sessions:
            session.cut("end")
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.sleep(0)  # Sockets are closed in the loop's next turn.

    async def lead(self, listen: str, upstream: str) -> None:
        """Another place to listen at, another broker. It is disabled then."""
        await self.disable()
        self._listen, self._upstream = listen, upstream

    # ---- packets

    def hold(self, wanted: Callable[[Packet], bool], *, nth: int = 1) -> Gate:
        """The n-th packet from now on that `wanted` accepts stands still, before all toxics, until it is released."""
        gate = Gate(wanted, nth)
        self._gates = [known for known in self._gates if not known.is_open]
        self._gates.append(gate)
        return gate

    def hold_kind(self, kind: str, to: str, *, nth: int = 1) -> Gate:
        """The same for a PUBLISH of a kind on its way to `device` or `broker`."""

        def wanted(packet: Packet) -> bool:
            return packet.type is PacketType.PUBLISH and (packet.kind, packet.stream.to) == (kind, to)

        return self.hold(wanted, nth=nth)

    def inject(self, stream: Stream, packet: bytes) -> Injected:
        """Put a packet of ours on the wire of every open connection, past all toxics.

        What acknowledges it is kept from the other side. Raises ValueError for what is no packet.
        """
        told = Injected()
        for session in self.sessions:
            session.inject(stream, packet, told)
        return told

    def inject_publish(
        self, topic: str, payload: bytes, *, retain: bool = False, stream: Stream = Stream.DOWNSTREAM
    ) -> Injected:
        """The same with a PUBLISH at QoS 1, in the connection's version of MQTT."""
        told = Injected()
        for session in self.sessions:
            session.inject_publish(stream, topic, payload, told, retain=retain)
        return told

    def retain(self, topic: str, payload: bytes) -> Injected:
        """From now on whoever has subscribed gets this as a retained message, as if the broker had kept it."""
        told = Injected()
        self._retained[topic] = payload, told
        return told

    def forget_retained(self, topic: str) -> None:
        """No longer; again is success."""
        self._retained.pop(topic, None)

    def cut(self, how: Cut = "end") -> int:
        """End every connection (`end`, `reset`), or let it fall silent (`silent`); answers how many those were."""
        open_now = self.sessions
        for session in open_now:
            session.cut(how)
        return len(open_now)

    # ---- toxics

    @property
    def toxics(self) -> tuple[Toxic, ...]:
        """In the order in which packets meet them, those of the upstream first."""
        return tuple(t for stream in Stream for t in self._toxics if t.stream is stream)

    def toxic(self, name: str) -> Toxic:
        """Raises ToxicError."""
        for toxic in self._toxics:
            if toxic.name == name:
                return toxic
        raise ToxicError("toxic not found", 404, where=name)

    def add_toxic(self, order: ToxicOrder) -> Toxic:
        """In force, on every connection, when this returns. Raises ToxicError."""
        toxic = order.make(self._seed + len(self._toxics))
        if any(known.name == toxic.name for known in self._toxics):
            raise ToxicError("toxic already exists", 409, where=toxic.name)
        self._toxics.append(toxic)
        for session in self.sessions:
            for stream in Stream if toxic.for_open_only else (toxic.stream,):
                session.flows[stream].insert(toxic)
        return toxic

    def update_toxic(self, name: str, attributes: Mapping[str, object], toxicity: float | None) -> Toxic:
        """Change what is given; it begins anew on every connection. Raises ToxicError."""
        toxic = self.toxic(name)
        toxic.update(attributes, toxicity)
        for session in self.sessions:
            for flow in session.flows.values():
                if (stage := flow.stage_of(toxic)) is not None:
                    stage.restart()
        return toxic

    def remove_toxic(self, name: str) -> None:
        """What it held goes on, in order. Raises ToxicError."""
        toxic = self.toxic(name)
        self._toxics.remove(toxic)
        for session in self.sessions:
            for flow in session.flows.values():
                if (stage := flow.stage_of(toxic)) is not None:
                    toxic.taken_away(stage)
                    flow.remove(stage)

    # ---- connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio makes one for each connection"
        if not self.enabled:  # It came as the door closed.
            writer.transport.abort()
            return
        self._running.add(task)
        try:
            upstream = await self._dial(writer)
            if upstream is not None:
                await self._serve(Session((reader, writer), upstream, self))
        except asyncio.CancelledError:
            pass  # Disabled. A task of asyncio's server that ends as cancelled is reported as a failure.
        finally:
            self._running.discard(task)
            close(writer)

    async def _dial(self, writer: asyncio.StreamWriter) -> Streams | None:
        """The broker, under the client's own name; None, and why in the log, when that cannot be."""
        host, _, port = self._upstream.rpartition(":")
        try:
            async with asyncio.timeout(DIAL_S):
                if self.tls is None:
                    return await asyncio.open_connection(host, int(port))
                self.tls.check_peer(writer.get_extra_info("ssl_object"))
                return await asyncio.open_connection(
                    host, int(port), ssl=self.tls.client_context(), server_hostname=host,
                    ssl_shutdown_timeout=CLOSE_S,
                )  # fmt: skip
        except (BlackstartError, OSError, TimeoutError) as error:
            self.counters.refused += 1
            log.info("connection not passed on", extra={"way": self.name, "why": str(error) or repr(error)})
            return None

    async def _serve(self, session: Session) -> None:
        self.counters.connections += 1
        self._sessions.append(session)
        for toxic in self._toxics:
            if not toxic.for_open_only:
                session.flows[toxic.stream].insert(toxic)
        await session.run()

    def _published(self, packet: Packet, *, ours: bool) -> None:
        if packet.kind and not ours:
            self.first.setdefault(packet.kind, packet.payload)
        self._tell(
            "publish", to=packet.stream.to, kind=packet.kind, topic=packet.topic, packet=packet.packet_id,
            qos=packet.qos, dup=packet.dup, retain=packet.retain, bytes=packet.size, ours=ours or None,
        )  # fmt: skip

    def _tell(self, event: _Event, **data: object) -> None:
        if self.tap is not None:
            self.tap(Seen(event, data))

    # ---- Onlooker

    async def came(self, packet: Packet | None, data: bytes) -> None:
        """See Onlooker."""
        if packet is None:
            self.counters.not_mqtt_bytes += len(data)
            return
        for gate in tuple(self._gates):
            if gate.stops(packet):
                await gate.stand()

    def goes(
        self, session: Session, packet: Packet | None, data: bytes, stream: Stream, *, ours: bool
    ) -> None:
        """See Onlooker."""
        self.counters.bytes[stream] += len(data)
        if packet is None:
            return
        self.counters.packets[stream] += 1
        match packet.type:
            case PacketType.CONNECT:
                self._tell("connect")
            case PacketType.CONNACK:
                self._tell("connected", code=packet.code)
            case PacketType.PUBLISH:
                self._published(packet, ours=ours)
            case PacketType.PUBACK:
                self._tell("acknowledged", to=stream.to, packet=packet.packet_id)
            case PacketType.SUBACK:
                for topic, (payload, told) in self._retained.items():
                    session.inject_publish(stream, topic, payload, told, retain=True)
            case _:
                pass

    def ended(self, session: Session) -> None:
        """See Onlooker."""
        self._sessions.remove(session)
        if session.dialogue.version is not None:
            self._tell("disconnected", how=session.how)
