"""The broker dies."""

from __future__ import annotations

from chaos.faults._parts import StackPartKilled
from chaos.faults.base import register


@register
class BrokerKilled(StackPartKilled):
    """SIGKILL; back on the same port when it is healed."""

    name = "broker-killed"
    about = "The broker gets SIGKILL, and is started again on the same port after `for`."
    shown_by = "its process is gone, and its port refuses connections"
    part = "broker"

    def port(self) -> int:
        """See the base."""
        return self.ground.stack.broker_port

    async def start(self) -> None:
        """See the base."""
        await self.ground.stack.start_broker()
