"""The bench's end of the line on which its agents say each phase as it becomes durable (chaos/agent.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chaos.history import Recorder
from reference.edge.http import short_name


@dataclass(slots=True)
class Barrier:
    """Somebody waits for a phase: the device that comes to it stands still until `release`."""

    phase: str
    device: str | None
    left: int
    """Comings that are still let pass, this one included."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    at: float = 0.0
    """When it was reached: seconds since the run began."""
    by: str = ""
    """The device that came to it."""

    def release(self) -> None:
        """Let the device go on; again is success."""
        self.go.set()


class LineServer:
    """Listens for the agents of one bench."""

    def __init__(self, path: Path, recorder: Recorder) -> None:
        self.path = path
        self._recorder = recorder
        self._barriers: list[Barrier] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        with short_name(self.path) as name:
            self._server = await asyncio.start_unix_server(self._serve, name)

    async def stop(self) -> None:
        """Let everybody go on, and listen no more."""
        for barrier in self._barriers:
            barrier.release()
        if self._server is not None:
            self._server.close()
            self._server = None

    def expect(self, phase: str, device: str | None = None, nth: int = 1) -> Barrier:
        """A barrier at the n-th coming to a phase from now on, of one device or of any."""
        made = Barrier(phase, device, nth)
        self._barriers.append(made)
        return made

    def forget(self, barrier: Barrier) -> None:
        """Nobody waits for it any more."""
        barrier.release()
        if barrier in self._barriers:
            self._barriers.remove(barrier)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            said = json.loads(await reader.readline())
            await self._heard(said)
            writer.write(b"!")
            await writer.drain()
        except (OSError, ValueError):
            pass  # The agent was killed as it spoke.
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _heard(self, said: Mapping[str, object]) -> None:
        now = self._recorder.now()
        device, phase = str(said.get("device")), str(said.get("phase"))
        met = [b for b in self._barriers if b.phase == phase and b.device in (None, device) and b.left > 0]
        for barrier in met:
            barrier.left -= 1
        waiting = [barrier for barrier in met if barrier.left == 0]
        rest = {key: value for key, value in said.items() if key != "device"}
        self._recorder.record("phase", "durable", device, t=now, held=bool(waiting), **rest)
        for barrier in waiting:
            barrier.at, barrier.by = now, device
            barrier.reached.set()
            self._barriers.remove(barrier)
            await barrier.go.wait()
