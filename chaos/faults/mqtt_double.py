"""Packets that come twice."""

from __future__ import annotations

from typing import ClassVar

from chaos.faults._mqtt import PacketFault
from chaos.faults.base import register


@register
class MqttDouble(PacketFault):
    """See `about`. The second copy is marked as a duplicate, as MQTT has it."""

    name: ClassVar[str] = "mqtt-double"
    about: ClassVar[str] = "MQTT packets of a kind come twice on the device's way to the broker."
    shown_by: ClassVar[str] = "how many packets the proxy passed on a second time"
    sort = "mqtt_double"
    done = "doubled"
