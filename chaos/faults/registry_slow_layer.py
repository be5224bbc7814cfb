"""Layers that come slowly."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chaos.faults._registry import LayerFault, LayerParams, layers
from chaos.faults.base import register
from chaos.proxies.registry import Act, Handle, Slowed
from chaos.scenario.quantities import Size

LEAST_S = 0.05
"""Bytes that waited for less were not slowed down by anything that would be noticed."""


class SlowLayerParams(LayerParams):
    """How slow."""

    rate: Annotated[Size, Field(ge=1, le=50 << 20)] = 64 << 10
    """A second, for each layer; at most 50MiB."""


@register
class SlowLayer(LayerFault):
    """See `about`."""

    name = "registry-slow-layer"
    about = "Layers come slowly: so many bytes a second each."
    shown_by = "bytes that were slowed down, and for how long"
    params = SlowLayerParams

    def act(self) -> Act:
        """See the base."""
        return Slowed(self.given.rate)

    def told(self, handle: Handle) -> str:
        """See the base."""
        # At a high rate it is the waiting itself that takes its time, not the rate.
        if handle.waited_s < LEAST_S or handle.bytes / self.given.rate < LEAST_S / 2:
            return ""
        waited_ms = round(handle.waited_s * 1000)
        return f"{handle.bytes} bytes of {layers(handle.hits)} slowed down, by {waited_ms} ms in all"
