"""Packets that are overtaken by those that were sent after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from chaos.faults._mqtt import PacketFault, PacketParams
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Duration


class ReorderParams(PacketParams):
    """Which packets, and how far."""

    window: Annotated[int, Field(ge=1, le=100)] = 1
    """A packet is held until so many of its kind have passed it."""
    longest: Duration = 0
    """It is held for so long at most, whether it was overtaken or not; 0: until then, or until it is healed."""


@register
class MqttReorder(PacketFault):
    """See `about`."""

    name: ClassVar[str] = "mqtt-reorder"
    about: ClassVar[str] = "An MQTT packet of a kind is held until the next ones of its kind have passed it."
    shown_by: ClassVar[str] = "how many packets were overtaken"
    params: ClassVar[type[Params]] = ReorderParams
    sort = "mqtt_reorder"
    done = "overtaken"

    def more(self) -> Mapping[str, object]:
        given: ReorderParams = self.given
        return {"window": given.window, "delay": given.longest}
