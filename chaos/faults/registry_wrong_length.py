"""A layer that is of another size than its Content-Length."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chaos.faults._registry import LayerFault, LayerParams, layers
from chaos.faults.base import register
from chaos.proxies.registry import Act, Handle, WrongLength


class WrongLengthParams(LayerParams):
    """How wrong it is."""

    factor: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Content-Length is this many times the bytes that come: below 1 the layer seems to end early, above 1 it does."""


@register
class WrongLengthLayer(LayerFault):
    """See `about`."""

    name = "registry-wrong-length"
    about = "Content-Length of a layer says another number of bytes than comes."
    shown_by = "layers that were announced with a wrong length"
    params = WrongLengthParams

    def act(self) -> Act:
        """See the base."""
        return WrongLength(self.given.factor)

    def told(self, handle: Handle) -> str:
        """See the base."""
        return f"{layers(handle.hits)} announced with a wrong length, wrong by {handle.bytes} bytes in all"
