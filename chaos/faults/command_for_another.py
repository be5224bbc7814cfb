"""Another device's command."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.faults._hostile import NEWER, AsksFor, HostileCommand, service_key
from chaos.faults.base import register
from reference.core.errors import Reason
from reference.protocol.envelope import sign
from reference.stack import Device

ANOTHER = "another-device"


@register
class CommandForAnother(HostileCommand):
    """Signed by the service, for somebody else, on this device's topic."""

    name = "command-for-another"
    about = "A command that the service has signed for another device arrives on this one's topic."
    params = AsksFor
    refused_for = Reason.WRONG_DEVICE
    given: AsksFor

    async def made(self, device: Device) -> tuple[Sequence[bytes], tuple[str, ...]]:  # noqa: ARG002
        """See the base."""
        command = await self.command(self.given.to, client_id=ANOTHER, generation=NEWER)
        return [sign(command, service_key(self.ground))], (command.job_id,)
