"""The device's disk fills up."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
from pathlib import Path
from typing import Any

from chaos.faults.base import Family, Fault, FaultError, Ground, Need, Params, Wants, register
from chaos.power.outages import DISK_BYTES
from chaos.scenario.model import FaultUse
from chaos.scenario.quantities import Size
from reference.stack.device import Device

_FILLER = ".filler"
_STEP = 64 << 10
_FULL = re.compile(rb"disk_full|disk is full|No space left on device|database or disk is full")


class Left(Params):
    """How much room there is."""

    leave: Size = 0
    """So many bytes stay free."""


@register
class DiskFull(Fault):
    """A file takes all the room that there is."""

    name = "disk-full"
    family = Family.PARTS
    about = "A file takes all of the device's disk but `leave`; it is removed when the fault is healed."
    shown_by = "bytes that were free before and during, and an agent that says that the disk is full"
    params = Left
    needs = (Need.ROOT, Need.LOOP)

    def __init__(self, ground: Ground, use: FaultUse, given: Any, chance: random.Random) -> None:
        super().__init__(ground, use, given, chance)
        self._free: dict[str, tuple[int, int]] = {}
        self._log_bytes: dict[str, int] = {}

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:  # noqa: ARG003
        """A disk of its own: nobody else's may fill up."""
        wants.disk_bytes = max(wants.disk_bytes, DISK_BYTES)

    async def begin(self) -> None:
        """Fill it."""
        for device in self.ground.chosen(self.use.device):
            root = self.ground.guard.path(device.root)
            if not root.is_mount():
                raise FaultError(f"{device.client_id} has no disk of its own", where=str(root))
            self._log_bytes[device.client_id] = device.log.stat().st_size if device.log.exists() else 0
            before = _free(root)
            await asyncio.to_thread(_fill, root / _FILLER, before - self.given.leave)
            self._free[device.client_id] = (before, _free(root))

    async def heal(self) -> None:
        """Give the room back."""
        for device in self.ground.chosen(self.use.device):
            (device.root / _FILLER).unlink(missing_ok=True)

    async def fired(self) -> str:
        """Somebody has met it."""
        said = []
        for device in self.ground.chosen(self.use.device):
            if device.client_id not in self._free:
                return ""
            before, after = self._free[device.client_id]
            met = await asyncio.to_thread(self._met, device)
            if not met:
                return ""
            said.append(
                f"{device.client_id}'s agent said {met} times that the disk is full: {before} bytes were free, then {after}"
            )
        return "; ".join(said)

    def _met(self, device: Device) -> int:
        """How many lines of the agent's log speak of it, since it began."""
        try:
            content = device.log.read_bytes()[self._log_bytes[device.client_id] :]
        except OSError:
            return 0
        return sum(bool(_FULL.search(line)) for line in content.splitlines())


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _fill(path: Path, size: int) -> None:
    """A file of real blocks, as near to that size as there is room for. Raises OSError for anything else."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while size > 0:
            try:
                os.posix_fallocate(handle, 0, size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size -= _STEP  # the file system takes some for itself
            else:
                return
    finally:
        os.close(handle)
