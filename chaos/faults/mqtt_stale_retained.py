"""An old command that comes back as a retained message."""

from __future__ import annotations

import random
from typing import Any, ClassVar, Literal

from chaos.faults._mqtt import MqttFault
from chaos.faults.base import FaultError, Ground, Params, register
from chaos.proxies.mqtt import Injected, MqttWay
from chaos.scenario.model import FaultUse
from reference.protocol import topics
from reference.stack import Device


class StaleRetainedParams(Params):
    """When it first comes."""

    at: Literal["now", "subscribe"] = "now"
    """At once, and at each subscription while it is in force; or only at these."""


@register
class MqttStaleRetained(MqttFault):
    """See `about`. The bytes are those that came to the device then, signature and all."""

    name: ClassVar[str] = "mqtt-stale-retained"
    about: ClassVar[str] = (
        "The first command that the device ever had comes again, as a message that the broker kept."
    )
    shown_by: ClassVar[str] = "how often the device acknowledged it (PUBACK)"
    params: ClassVar[type[Params]] = StaleRetainedParams

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self.sent: list[tuple[Device, MqttWay, list[Injected]]] = []

    async def begin(self) -> None:
        given: StaleRetainedParams = self.given
        for device, way in self.ways():
            old = way.first.get("command")
            if old is None:
                raise FaultError(
                    f"{device.client_id} has had no command yet that could be old", where=self.name,
                    todo="Let a version be installed first: `bench.begins`, or an update before the fault.",
                )  # fmt: skip
            topic = self._topic(device)
            told = [way.retain(topic, old)]
            if given.at == "now":
                told.append(way.inject_publish(topic, old, retain=True))
            self.sent.append((device, way, told))

    async def heal(self) -> None:
        for device, way, _ in self.sent:
            way.forget_retained(self._topic(device))

    async def fired(self) -> str:
        found = []
        for device, _, told in self.sent:
            taken = sum(one.acknowledged for one in told)
            if not taken:
                return ""
            sent = sum(one.sent for one in told)
            found.append(
                f"{device.client_id}: the old command came {sent} times, and was acknowledged {taken} times"
            )
        return ", ".join(found)

    def _topic(self, device: Device) -> str:
        return topics.update(self.ground.stack.tenant, device.client_id)
