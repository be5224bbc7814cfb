"""The device's journal: while it runs through the agent's own read-only view, in the end from the file itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from chaos.history import Recorder
from reference.core.delivery import Memory
from reference.core.errors import BlackstartError
from reference.core.model import Container, HealthState, World
from reference.edge.inspect import look
from reference.edge.journal import HistoryEntry, Journal
from reference.edge.main import journal_path
from reference.edge.settings import load_settings
from reference.stack import Device
from reference.stack.samples import samples_of

EVERY_S = 0.25
MEMORY = TypeAdapter(Memory)
HISTORY = TypeAdapter(list[HistoryEntry])
WORLD = TypeAdapter(World)


class JournalObserver:
    """Reads what each running agent shows of its journal."""

    def __init__(self, recorder: Recorder, devices: Sequence[Device], every_s: float = EVERY_S) -> None:
        self._recorder = recorder
        self._devices = devices
        self._every_s = every_s
        self._seen: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            for device in self._devices:
                if device.agent is not None and device.agent.alive:
                    await self._look(device)
            await asyncio.sleep(self._every_s)

    async def _look(self, device: Device) -> None:
        try:
            found = await asyncio.to_thread(look, load_settings(device.config), "journal")
        except (BlackstartError, OSError, ValueError):
            return  # It is being killed, or has no power.
        history = found.get("history")
        entries = history if isinstance(history, list) else []
        for entry in entries:
            at_ms = int(str(entry.get("at_ms", 0)))
            if at_ms > self._seen.get(device.client_id, 0):
                self._recorder.record(
                    "journal", "entry", device.client_id, t=self._recorder.at(at_ms), **entry
                )
        if entries:
            self._seen[device.client_id] = max(int(str(e.get("at_ms", 0))) for e in entries)


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What a running agent shows of itself."""

    phase: str
    queued: bool
    installed: bool
    """Whether a version was ever confirmed."""
    connected: bool


async def status(device: Device) -> AgentStatus | None:
    """The agent's own view of itself; None while it does not run or answer."""
    if device.agent is None or not device.agent.alive:
        return None
    try:
        found = await asyncio.to_thread(look, load_settings(device.config), "status")
    except (BlackstartError, OSError, ValueError):
        return None
    memory, live = found.get("memory"), found.get("live")
    record = memory.get("record") if isinstance(memory, dict) else None
    if not isinstance(record, dict) or not isinstance(live, dict):
        return None
    return AgentStatus(
        str(record.get("phase")), record.get("queued") is not None, record.get("current") is not None,
        live.get("connected") is True,
    )  # fmt: skip


async def write_ends(recorder: Recorder, device: Device, healthy: bool) -> None:
    """What a device is left with, once its agent has ended: journal, containers, samples, refusals.

    `healthy`: whether its client answered well at the last probe. What cannot be read is left out: a checker that needs
    it says unknown.
    """
    with contextlib.suppress(BlackstartError, OSError):
        await asyncio.to_thread(_journal, recorder, device)
    await write_rest(recorder, device, healthy)


async def write_ends_running(recorder: Recorder, device: Device, healthy: bool) -> None:
    """The same while its agent runs, which has to be at rest: the journal as the agent shows it."""
    with contextlib.suppress(BlackstartError, OSError, ValueError):
        settings = load_settings(device.config)
        memory = (await asyncio.to_thread(look, settings, "status")).get("memory")
        history = (await asyncio.to_thread(look, settings, "journal")).get("history")
        recorder.record("journal", "end", device.client_id, memory=memory, history=history)
    await write_rest(recorder, device, healthy)


async def write_rest(recorder: Recorder, device: Device, healthy: bool) -> None:
    """What a device is left with, but for its journal."""
    name = device.client_id
    with contextlib.suppress(BlackstartError, OSError):
        boot_id, view = await device.box.view()
        state = HealthState.HEALTHY if healthy else HealthState.UNHEALTHY
        containers = tuple(
            Container(
                f.id, f.generation, f.image, f.state, f.started_this_boot, f.up_ms,
                state if f.life else HealthState.STARTING, configuration=f.configuration,
                restart_policy=f.restart_policy, exit_code=f.exit_code,
            )
            for f in view.containers
        )  # fmt: skip
        world = World(boot_id=boot_id, containers=containers, images=dict(view.images))
        recorder.record("containers", "end", name, world=WORLD.dump_python(world, mode="json"))
    with contextlib.suppress(OSError):
        samples = await asyncio.to_thread(samples_of, device.samples)
        recorder.record(
            "samples",
            "end",
            name,
            first=samples.first,
            last=samples.last,
            broken_at=samples.broken_at,
            lost=samples.lost,
        )
    with contextlib.suppress(OSError):
        recorder.record("refusals", "end", name, reasons=await asyncio.to_thread(_refusals, device))


def _journal(recorder: Recorder, device: Device) -> None:
    journal = Journal.open(journal_path(load_settings(device.config)))
    try:
        memory, history = journal.memory, journal.history()
    finally:
        journal.close()
    recorder.record(
        "journal", "end", device.client_id,
        memory=MEMORY.dump_python(memory, mode="json"), history=HISTORY.dump_python(history, mode="json"),
    )  # fmt: skip


def _refusals(device: Device) -> list[str]:
    """What the agent's log says that it refused commands for."""
    found = []
    for line in device.log.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("message") in ("refused", "command"):
                reason = entry.get("reason") or entry.get("verdict")
                found.append(str(reason))
    return found
