"""A layer that is damaged on its way."""

from __future__ import annotations

from chaos.faults._registry import LayerFault, layers
from chaos.faults.base import register
from chaos.proxies.registry import Act, Corrupted, Handle


@register
class CorruptedLayer(LayerFault):
    """See `about`."""

    name = "registry-corrupted"
    about = "A bit of one byte of a layer is another, at a place that the seed draws."
    shown_by = "bytes of layers that were changed"

    def act(self) -> Act:
        """See the base."""
        return Corrupted(self.chance.getrandbits(64))

    def told(self, handle: Handle) -> str:
        """See the base."""
        return f"{layers(handle.hits)} sent with a byte changed, {handle.bytes} bytes in all"
