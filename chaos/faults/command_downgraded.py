"""An old order, freshly signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from chaos.faults._hostile import AsksFor, HostileCommand, service_key
from chaos.faults.base import register
from reference.core.errors import Reason
from reference.protocol.envelope import sign
from reference.stack import Device


class DowngradeParams(AsksFor):
    """Which version, as which order. `to`: without it the version that the bench began with."""

    generation: Annotated[int, Field(ge=1)] = 1
    """Not above what the device has taken already."""


@register
class CommandDowngraded(HostileCommand):
    """Signed by the service, for this device, and older than what it has taken."""

    name = "command-downgraded"
    about = (
        "A command for an older version arrives, signed by the service, with a generation that is not newer."
    )
    params = DowngradeParams
    refused_for = Reason.STALE_GENERATION
    given: DowngradeParams

    async def made(self, device: Device) -> tuple[Sequence[bytes], tuple[str, ...]]:
        """See the base."""
        to = self.given.to or self.ground.scenario.bench.begins
        command = await self.command(to, client_id=device.client_id, generation=self.given.generation)
        return [sign(command, service_key(self.ground))], (command.job_id,)
