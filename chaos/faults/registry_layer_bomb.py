"""A layer that is small on its way and enormous when it is unpacked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chaos.faults._registry_hostile import HostileVersion
from chaos.faults._registry_images import HostileLayer, bomb
from chaos.faults.base import Params, register
from chaos.scenario.model import VersionName
from chaos.scenario.quantities import Size


class BombParams(Params):
    """Which version it is, and how large.

    As it is, a device refuses it for growing too much (`image_unsafe`); where `file` is above a device's largest file
    (1 GiB unless configured), for that (`image_too_large`).
    """

    version: VersionName = "2.0.0-bomb"
    """The update has to ask for it."""
    unpacked: Annotated[Size, Field(ge=1, le=8 << 30)] = 512 << 20
    """The whole layer, unpacked: zeros."""
    file: Annotated[Size, Field(ge=1 << 20, le=8 << 30)] = 16 << 20
    """Each file in it."""


@register
class LayerBomb(HostileVersion):
    """See `about`."""

    name = "registry-layer-bomb"
    about = "A version is published whose layer unpacks to about a thousand times its size: the update has to ask for it."
    shown_by = "how often that layer was sent"
    params = BombParams

    def layer(self) -> HostileLayer:
        """See the base."""
        return bomb(self.given.unpacked, self.given.file)

    async def fired(self) -> str:
        """See the base."""
        times, sent = self.served
        if not times:
            return ""
        return f"{sent} bytes of a layer that unpacks to {self.given.unpacked} were sent, in {times} answers"
