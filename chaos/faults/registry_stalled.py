"""A layer that begins, and then nothing more comes."""

from __future__ import annotations

from chaos.faults._registry import LayerFault, LayerParams, layers
from chaos.faults.base import register
from chaos.proxies.registry import Act, Handle, Stalled
from chaos.scenario.quantities import Fraction


class StalledParams(LayerParams):
    """Where it stands still."""

    at: Fraction = 0.5
    """Of what was asked for."""


@register
class StalledLayer(LayerFault):
    """See `about`."""

    name = "registry-stalled"
    about = "A layer begins to come, and then nothing more does, on a connection that stays open; healed, it goes on."
    shown_by = "layers that stood still"
    params = StalledParams

    def act(self) -> Act:
        """See the base."""
        return Stalled(self.given.at)

    def told(self, handle: Handle) -> str:
        """See the base."""
        return f"{layers(handle.hits)} stood still, {handle.bytes} bytes were kept back"
