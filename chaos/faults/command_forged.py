"""A stranger commands."""

from __future__ import annotations

import json
from collections.abc import Sequence

from chaos.faults._hostile import NEWER, AsksFor, HostileCommand, service_key
from chaos.faults.base import register
from reference.core.errors import Reason
from reference.protocol.envelope import generate_key, public_key, sign
from reference.stack import Device


@register
class CommandForged(HostileCommand):
    """Right in every word; once under the stranger's own key id, once under the service's."""

    name = "command-forged"
    about = "A command that is right in every word arrives, signed by a stranger; then the same, which says it is the service's key."
    params = AsksFor
    refused_for = Reason.BAD_SIGNATURE
    given: AsksFor

    async def made(self, device: Device) -> tuple[Sequence[bytes], tuple[str, ...]]:
        """See the base."""
        command = await self.command(self.given.to, client_id=device.client_id, generation=NEWER)
        forged = sign(command, generate_key())
        envelope = json.loads(forged)
        envelope["signatures"][0]["keyid"] = public_key(service_key(self.ground)).keyid
        return (forged, json.dumps(envelope).encode()), (command.job_id,)
