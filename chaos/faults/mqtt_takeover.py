"""Somebody with the device's own certificate, who throws it off the broker."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any, ClassVar

from chaos.faults._each import of_each
from chaos.faults._mqtt import MqttFault
from chaos.faults.base import FaultError, Ground, Instant, register
from chaos.proxies.mqtt import MqttWay
from chaos.scenario.model import FaultUse
from reference.pki.names import device_name
from reference.stack import Device
from reference.support.mqtt import Protocol
from reference.support.mqtt_connection import Connection, Dialogue

KEEPALIVE_S = 20
LOSS_S = 5.0
"""How long the broker may take to throw the device off."""


@register
class MqttTakeover(Instant, MqttFault):
    """See `about`. The session is clean: what the broker kept for the device is gone. The other one leaves at once."""

    name: ClassVar[str] = "mqtt-takeover"
    about: ClassVar[str] = (
        "Another connection with the device's certificate and client id takes its session over."
    )
    shown_by: ClassVar[str] = "that the broker took the other connection, and ended the device's"

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self.thrown_off: dict[str, list[str]] = {}

    async def begin(self) -> None:
        for device, way in self.ways():
            await self._take_over(device, way)

    async def _take_over(self, device: Device, way: MqttWay) -> None:
        if way.tls is None:
            raise FaultError("there is no certificate to take a session over with", where=way.name)
        host, _, port = way.upstream.rpartition(":")
        stack = self.ground.stack
        how = Dialogue(
            host, int(port), device_name(stack.tenant, device.client_id), (), Protocol(stack.mqtt_version),
            KEEPALIVE_S, 1, 0, 1,
        )  # fmt: skip
        before, began = way.sessions, time.monotonic()
        other = Connection(how, way.tls.client_context(), lambda _: None)
        try:
            await other.open()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOSS_S):
                    for session in before:
                        await session.over.wait()
        finally:
            other.end("it has done what it came for")
            await other.close()
        lost = [
            session for session in before if session.over.is_set() and session.how in ("broker", "device")
        ]
        if lost:
            after_ms = round((time.monotonic() - began) * 1000)
            self.thrown_off[device.client_id] = [
                f"{device.client_id} lost its connection after {after_ms} ms"
            ]

    async def fired(self) -> str:
        return of_each(self.ground.chosen(self.use.device), self.thrown_off, ", ")
