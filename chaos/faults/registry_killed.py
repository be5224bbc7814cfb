"""The registry dies."""

from __future__ import annotations

from chaos.faults._parts import StackPartKilled
from chaos.faults.base import register


@register
class RegistryKilled(StackPartKilled):
    """SIGKILL; back on the same port when it is healed."""

    name = "registry-killed"
    about = "The registry gets SIGKILL, and is started again on the same port after `for`."
    shown_by = "its process is gone, and its port refuses connections"
    part = "registry"

    def port(self) -> int:
        """See the base: behind its front, where devices do not see it."""
        handle = self.ground.stack.registry(self.part)
        return int((handle.push_host or handle.host).rpartition(":")[2])

    async def start(self) -> None:
        """See the base. Devices go on reaching it through its front."""
        stack = self.ground.stack
        before = stack.registry(self.part)
        await stack.start_registry(self.part, self.port())
        stack.add_front(self.part, before.host)
