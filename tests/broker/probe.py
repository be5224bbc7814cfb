"""A client that says exactly what it is told, in whichever version: what the link would never do, too."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from reference.pki import CertificateFiles
from reference.support.mqtt import Protocol
from tests.broker import raw

DEADLINE_S = 5.0


class Probe:
    """Connected once made. `received` holds (topic, payload) of all that came."""

    def __init__(
        self,
        port: int,
        client_id: str,
        ca: CertificateFiles,
        files: CertificateFiles | None,
        version: Protocol,
    ) -> None:
        five = version is Protocol.V5
        self.received: list[tuple[str, bytes]] = []
        self.connected: queue.Queue[ReasonCode] = queue.Queue()
        self._subscribed: queue.Queue[list[ReasonCode]] = queue.Queue()
        self.confirmed: dict[int, ReasonCode] = {}
        self.closed = False
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if five else True,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self.client.max_inflight_messages_set(1_000)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_publish = self._on_publish
        self.client.on_message = self._on_message
        self.client.on_disconnect = self._on_disconnect
        self.client.tls_set_context(raw.context(ca, files))
        self.client.connect("127.0.0.1", port, 30)
        self.client.loop_start()

    def _on_connect(
        self, _c: paho.Client, _u: object, _f: paho.ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        self.connected.put(code)

    def _on_subscribe(
        self, _c: paho.Client, _u: object, _m: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        self._subscribed.put(codes)

    def _on_publish(
        self, _c: paho.Client, _u: object, mid: int, code: ReasonCode, _p: Properties | None
    ) -> None:
        self.confirmed[mid] = code

    def _on_message(self, _c: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def _on_disconnect(
        self, _c: paho.Client, _u: object, _f: paho.DisconnectFlags, _code: ReasonCode, _p: Properties | None
    ) -> None:
        self.closed = True

    def subscribe(self, filters: Sequence[str]) -> list[bool]:
        """Whether each was granted."""
        self.client.subscribe([(one, 1) for one in filters])
        return [not code.is_failure for code in self._subscribed.get(timeout=DEADLINE_S)]

    def publish(self, topic: str, payload: bytes) -> int:
        """At QoS 1, without waiting; its packet id."""
        return self.client.publish(topic, payload, 1).mid

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def until(what: Callable[[], bool]) -> None:
    """Wait for it; fails when it does not become true in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
