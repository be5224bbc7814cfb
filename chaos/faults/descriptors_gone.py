"""The agent may open no more files."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import resource
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from chaos.faults.base import Family, Fault, FaultError, Ground, Params, register
from chaos.scenario.model import FaultUse
from reference.stack.device import Device

_LOOK_S = 0.02
_FAILED = re.compile(rb"Too many open files|EMFILE|Errno 24\b")


class FewLeft(Params):
    """How many."""

    leave: Annotated[int, Field(ge=0, le=1000)] = 0
    """So many more may be opened."""


@register
class DescriptorsGone(Fault):
    """RLIMIT_NOFILE of the running agent is what it has open, and `leave`."""

    name = "descriptors-gone"
    family = Family.PARTS
    about = (
        "The agent's limit of open files is lowered to what it has open and a few (`leave`), while it runs."
    )
    shown_by = "lines of its log that say so (EMFILE), or that the few that were left were seen to be in use"
    params = FewLeft

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._hurt: dict[str, _Hurt] = {}

    async def begin(self) -> None:
        """Lower it."""
        for device in self.ground.chosen(self.use.device):
            if device.agent is None or not device.agent.alive:
                raise FaultError(f"no agent runs on {device.client_id}")
            pid = self.ground.guard.process(device.agent.pid)
            self._hurt[device.client_id] = _Hurt(device, pid, self.given.leave)

    async def heal(self) -> None:
        """As it was before. An agent that has ended over it is started again, as whoever keeps it up in the field does."""
        for hurt in self._hurt.values():
            if await hurt.heal() and self.ground.power(hurt.device).on:
                await self.ground.start_agent(hurt.device)

    async def fired(self) -> str:
        """Somebody wanted to open one, and could not."""
        said = [await asyncio.to_thread(hurt.told) for hurt in self._hurt.values()]
        return "; ".join(said) if said and all(said) else ""


class _Hurt:
    """One agent whose limit is low."""

    def __init__(self, device: Device, pid: int, leave: int) -> None:
        self.device = device
        self._pid = pid
        self._leave = leave
        self._log_bytes = device.log.stat().st_size if device.log.exists() else 0
        self._before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        self._limit = self._number_after(leave)
        self._used_up = 0
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (self._limit, self._before[1]))
        self._watching = asyncio.create_task(self._watch())

    async def heal(self) -> bool:
        """Raise the limit again; whether there is nobody any more that it could be raised for."""
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
        agent = self.device.agent
        if agent is None or agent.pid != self._pid:
            return False
        with contextlib.suppress(ProcessLookupError):
            if agent.alive:
                resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._before)
        return not agent.alive

    def told(self) -> str:
        """In words; empty when nobody has met it."""
        try:
            lines = self.device.log.read_bytes()[self._log_bytes :].splitlines()
        except OSError:
            lines = []
        failed = sum(bool(_FAILED.search(line)) for line in lines)
        if not failed and not self._used_up:
            return ""
        agent = self.device.agent
        ended = (
            ", and it has ended" if agent is not None and agent.pid == self._pid and not agent.alive else ""
        )
        return (
            f"{self.device.client_id}'s agent had {self._before[0]} descriptors, then {self._limit}: "
            f"{failed} lines of its log say that opening failed, {self._used_up} looks found all in use{ended}"
        )

    def _number_after(self, leave: int) -> int:
        """The limit (of numbers, not of how many) below which so many are free."""
        used, limit = self._used(), 0
        while leave > 0 or limit in used:
            leave -= limit not in used
            limit += 1
        return limit

    def _used(self) -> set[int]:
        with contextlib.suppress(OSError):
            return {int(entry.name) for entry in Path(f"/proc/{self._pid}/fd").iterdir()}
        return set()

    async def _watch(self) -> None:
        while True:
            used = await asyncio.to_thread(self._used)
            self._used_up += self._leave > 0 and used >= set(range(self._limit))
            await asyncio.sleep(_LOOK_S)
