"""Packets that come late, while others pass them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from chaos.faults._mqtt import PacketFault, PacketParams
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Duration


class DelayParams(PacketParams):
    """Which packets, and for how long."""

    delay: Annotated[Duration, Field(gt=0)]
    """How long each is held back."""


@register
class MqttDelay(PacketFault):
    """See `about`."""

    name: ClassVar[str] = "mqtt-delay"
    about: ClassVar[str] = "MQTT packets of a kind are held back for a while, in order; all others pass by."
    shown_by: ClassVar[str] = "how many packets the proxy held back"
    params: ClassVar[type[Params]] = DelayParams
    sort = "mqtt_delay"
    done = "delayed"

    def more(self) -> Mapping[str, object]:
        given: DelayParams = self.given
        return {"delay": given.delay}
