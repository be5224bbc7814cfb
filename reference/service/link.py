"""The port to the broker: all that the conversation asks of MQTT. `reference.support.mqtt.MqttLink` is one."""

from __future__ import annotations

import asyncio
from typing import Protocol

from reference.support.mqtt import Event


class Link(Protocol):
    """Delivery is promised by nobody here: what must arrive stays in the outbox and is sent again."""

    events: asyncio.Queue[Event]

    @property
    def connected(self) -> bool:
        """Whether messages can be published now, as far as is known."""

    async def start(self) -> None:
        """Begin to connect, subscribe to what the service listens to, and keep at it."""

    async def stop(self) -> None:
        """Say goodbye. Nothing is put into `events` afterwards."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
        content_type: str | None = None,
    ) -> None:
        """Hand a message to the broker. Raises BlackstartError when that failed or is not known to have worked.

        The last three (`expiry_s` in seconds) travel with it where MQTT 5 is spoken, and are left out elsewhere.
        """
