"""The management service dies."""

from __future__ import annotations

from chaos.faults._parts import StackPartKilled
from chaos.faults.base import register


@register
class ServiceKilled(StackPartKilled):
    """SIGKILL; back on the same port when it is healed."""

    name = "service-killed"
    about = "The management service gets SIGKILL, and is started again on the same port after `for`."
    shown_by = "its process is gone, and its port refuses connections"
    part = "service"

    def port(self) -> int:
        """See the base."""
        return self.ground.stack.service_port

    async def start(self) -> None:
        """See the base."""
        await self.ground.stack.start_service()
