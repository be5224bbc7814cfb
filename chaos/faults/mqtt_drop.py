"""Packets that are lost between broker and device, while the connection stays."""

from __future__ import annotations

from typing import ClassVar

from chaos.faults._mqtt import PacketFault
from chaos.faults.base import register


@register
class MqttDrop(PacketFault):
    """See `about`."""

    name: ClassVar[str] = "mqtt-drop"
    about: ClassVar[str] = (
        "MQTT packets of a kind are lost on the device's way to the broker; the connection stays."
    )
    shown_by: ClassVar[str] = "how many packets the proxy did not pass on"
    sort = "mqtt_drop"
    done = "dropped"
