"""A layer that ends early."""

from __future__ import annotations

from chaos.faults._registry import LayerFault, LayerParams, layers
from chaos.faults.base import register
from chaos.proxies.registry import Act, Handle, Truncated
from chaos.scenario.quantities import Fraction


class TruncatedParams(LayerParams):
    """Where it ends."""

    at: Fraction = 0.5
    """Of what was asked for."""


@register
class TruncatedLayer(LayerFault):
    """See `about`."""

    name = "registry-truncated"
    about = "The connection ends in the middle of a layer, before as much has come as was announced."
    shown_by = "bytes of layers that were announced and never came"
    params = TruncatedParams

    def act(self) -> Act:
        """See the base."""
        return Truncated(self.given.at)

    def told(self, handle: Handle) -> str:
        """See the base."""
        return f"{layers(handle.hits)} cut off, {handle.bytes} bytes that were announced did not come"
