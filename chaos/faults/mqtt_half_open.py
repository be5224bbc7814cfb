"""A connection that is dead, and neither end knows."""

from __future__ import annotations

from typing import ClassVar

from chaos.faults._mqtt import ToxicMqttFault
from chaos.faults.base import register
from chaos.proxies.mqtt import Stream, ToxicOrder


@register
class MqttHalfOpen(ToxicMqttFault):
    """See `about`. A device that notices, and connects anew, gets through. Healing it cuts what is still open."""

    name: ClassVar[str] = "mqtt-half-open"
    about: ClassVar[str] = (
        "The device's connection to the broker stays open at both ends, and nothing passes either way, keep-alives too."
    )
    shown_by: ClassVar[str] = "how many packets went into the dead connection"
    sort = "mqtt_half_open"
    done = "swallowed by a connection that stayed open"

    def orders(self) -> list[ToxicOrder]:
        return [self.order(Stream.UPSTREAM, 1.0, {})]
