"""A command that is too old."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.faults._hostile import HOUR_MS, NEWER, AsksFor, HostileCommand, service_key
from chaos.faults.base import register
from chaos.scenario.quantities import Duration
from reference.core.errors import Reason
from reference.protocol.envelope import sign
from reference.stack import Device


class ExpiredParams(AsksFor):
    """Which version, and for how long it has been too old."""

    ago: Duration = HOUR_MS
    """Devices allow for a clock that is a little off: minutes are not enough."""


@register
class CommandExpired(HostileCommand):
    """Signed by the service, for this device, and out of date."""

    name = "command-expired"
    about = "A command arrives that the service has signed for this device, and that expired some time ago."
    params = ExpiredParams
    refused_for = Reason.EXPIRED
    given: ExpiredParams

    async def made(self, device: Device) -> tuple[Sequence[bytes], tuple[str, ...]]:
        """See the base."""
        command = await self.command(
            self.given.to, client_id=device.client_id, generation=NEWER, lives_ms=-self.given.ago
        )
        return [sign(command, service_key(self.ground))], (command.job_id,)
