"""The port's part about copies of volumes, for every runtime whose volumes are folders of the device."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

from reference.edge.runtimes.failures import failures
from reference.edge.runtimes.snapshot import SnapshotStore


class Copies:
    """See `base.Runtime`. Whoever inherits sets `_snapshots`."""

    _snapshots: SnapshotStore

    async def prepare_snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        """See the port."""
        with failures("prepare a copy of the volume"):
            await asyncio.to_thread(self._snapshots.prepare, generation, mounts)

    async def snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        """See the port. A copy that is cancelled ends at once and is made anew by the next call."""
        abort = threading.Event()
        copying = asyncio.create_task(asyncio.to_thread(self._snapshots.take, generation, mounts, abort))
        with failures("copy the volume"):
            try:
                await asyncio.shield(copying)
            except asyncio.CancelledError:
                abort.set()
                await asyncio.gather(copying, return_exceptions=True)
                raise

    async def restore_snapshot(self, generation: int) -> None:
        """See the port."""
        with failures("bring the volume back"):
            self._snapshots.restore(generation)

    async def remove_snapshot(self, generation: int) -> None:
        """See the port."""
        with failures("remove a copy of the volume"):
            await asyncio.to_thread(self._snapshots.remove, generation)
