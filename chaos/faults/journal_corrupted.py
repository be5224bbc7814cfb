"""The updater's journal is damaged while the updater is off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
from pathlib import Path
from typing import Any, Literal

from chaos.faults.base import Family, FaultError, Ground, Instant, Params, register
from chaos.scenario.model import FaultUse
from reference.core.errors import BlackstartError
from reference.edge.inspect import journal_path, look
from reference.edge.journal import Journal
from reference.edge.settings import load_settings
from reference.stack.device import Device

_ROW = re.compile(rb'"epoch":\s*"')
"""In the body of the one row that matters: SQLite does not notice a wrong letter there, the row's checksum does."""


class Damage(Params):
    """What is done to the file."""

    how: Literal["flipped", "truncated", "zeroed", "lost"] = "flipped"
    """A letter of a row is another one; half of the file is missing; it is full of zeros; it is not there."""


@register
class JournalCorrupted(Instant):
    """SIGKILL for the agent, damage, and the agent is started again."""

    name = "journal-corrupted"
    family = Family.PARTS
    about = "The agent is killed, its journal is damaged (`how`), and the agent is started again."
    shown_by = "a journal with another epoch, and the damaged file that the agent has set aside"
    params = Damage

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._epochs: dict[str, str] = {}
        self._aside: dict[str, set[str]] = {}
        self._starting: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Damage it."""
        for device in self.ground.chosen(self.use.device):
            path = self.ground.guard.path(journal_path(load_settings(device.config)))
            if device.agent is not None:
                await device.agent.kill()
            self._aside[device.client_id] = _set_aside(path)
            try:
                self._epochs[device.client_id] = await asyncio.to_thread(self._damage, path)
            finally:
                # The damage is done: what the agent makes of it is not waited for here.
                self._starting.append(asyncio.create_task(self.ground.start_agent(device)))

    def _damage(self, path: Path) -> str:
        """The epoch of the journal that it was. Raises JournalError when it was no good one already."""
        journal = Journal.open(path)
        epoch = journal.memory.record.epoch
        journal.close()  # All of it is in the one file now.
        content = path.read_bytes()
        match self.given.how:
            case "flipped":
                path.write_bytes(_flipped(content))
            case "truncated":
                os.truncate(path, len(content) // 2)
            case "zeroed":
                path.write_bytes(bytes(len(content)))
            case _:
                path.unlink()
        return epoch

    async def fired(self) -> str:
        """There is a new journal."""
        await asyncio.gather(*self._starting)
        said = []
        for device in self.ground.chosen(self.use.device):
            before = self._epochs.get(device.client_id)
            settings = load_settings(device.config)
            now = await asyncio.to_thread(_epoch_of, device)
            if before is None or now is None or now == before:
                return ""
            aside = _set_aside(journal_path(settings)) - self._aside[device.client_id]
            if not aside and self.given.how != "lost":
                return ""
            kept = f"{', '.join(sorted(aside))} was set aside" if aside else "it was not there"
            said.append(f"{device.client_id}'s journal {before[:8]} is {now[:8]} now; {kept}")
        return "; ".join(said)


def _flipped(content: bytes) -> bytes:
    """With one letter changed in each copy of the row that there is. Raises FaultError when there is none."""
    found = bytearray(content)
    places = [match.end() for match in _ROW.finditer(content)]
    if not places:
        raise FaultError("the journal has no row that could be damaged")
    for place in places:
        found[place] ^= 0x01
    return bytes(found)


def _set_aside(path: Path) -> set[str]:
    return {found.name for found in path.parent.glob(f"{path.name}.corrupt-*")}


def _epoch_of(device: Device) -> str | None:
    """What the agent says, or the file; None when neither says any."""
    with contextlib.suppress(BlackstartError, OSError):
        memory = look(load_settings(device.config), "status").get("memory")
        record = memory.get("record") if isinstance(memory, dict) else None
        return str(record["epoch"]) if isinstance(record, dict) else None
    return None
