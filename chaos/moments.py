"""When: waits for the moment at which something is to be done, and where it can makes the moment stand still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from chaos.bench import Bench
from chaos.history import Event
from chaos.plan import Moment
from chaos.scenario.model import Happening


@dataclass(slots=True)
class Reached:
    """The moment has come."""

    t: float
    """When: seconds since the run began."""
    device: str = ""
    """Whose moment it was, where it was one's."""


_SEEN = {
    Happening.ORDER_ACCEPTED: ("action", "update"),
    Happening.DEVICE_CONNECTED: ("tap", "connected"),
    Happening.CLIENT_DOWN: ("probe", "bad"),
    Happening.CLIENT_BACK: ("probe", "good"),
    Happening.FAULT_IN_FORCE: ("fault", "in-force"),
    Happening.FAULT_HEALED: ("fault", "healed"),
    Happening.JOB_ENDED: ("api", "ended"),
}
_ON_THE_WIRE = {
    Happening.COMMAND_DELIVERED: ("command", "device"),
    Happening.STATUS_SENT: ("status", "broker"),
}


@contextlib.asynccontextmanager
async def arrived(bench: Bench, moment: Moment, since: float) -> AsyncIterator[Reached]:
    """Wait for it; what can stand still does so until the block ends. `since`: when the method began, in seconds.

    With `then`, nothing stands still: the while after the moment is the device's own.
    """
    device = f"edge-{moment.device}" if moment.device is not None else None
    async with _met(bench, moment, device, since) as reached:
        if not moment.then_ms:
            yield reached
            return
    await asyncio.sleep(moment.then_ms / 1000)
    yield Reached(reached.t + moment.then_ms / 1000, reached.device)


@contextlib.asynccontextmanager
async def _met(bench: Bench, moment: Moment, device: str | None, since: float) -> AsyncIterator[Reached]:
    if moment.time_ms is not None:
        at = since + moment.time_ms / 1000
        await asyncio.sleep(max(0.0, at - bench.recorder.now()))
        yield Reached(at)
    elif moment.phase is not None:
        barrier = bench.line.expect(moment.phase, device, moment.nth)
        try:
            await barrier.reached.wait()
            yield Reached(barrier.at, barrier.by)
        finally:
            bench.line.forget(barrier)
    elif moment.pulled is not None:
        gate = await bench.front.hold_at(moment.pulled)
        try:
            await gate.reached.wait()
            yield Reached(bench.recorder.now(), device or "")
        finally:
            gate.release()
    else:
        async with _event(bench, Happening(str(moment.event)), moment, device, since) as reached:
            yield reached


@contextlib.asynccontextmanager
async def _event(
    bench: Bench, happening: Happening, moment: Moment, device: str | None, since: float
) -> AsyncIterator[Reached]:
    if happening in _ON_THE_WIRE:
        async with _on_the_wire(bench, happening, moment, device) as reached:
            yield reached
        return
    if happening is Happening.PULL_BEGINS:
        source, name = "front", "request"
    else:
        source, name = _SEEN[happening]

    def wanted(event: Event) -> bool:
        if (event.source, event.event) != (source, name):
            return False
        if happening is Happening.PULL_BEGINS:
            return event.data.get("kind") == "manifest"
        if happening in (Happening.FAULT_IN_FORCE, Happening.FAULT_HEALED):
            return event.data.get("label") == moment.of
        return device in (None, event.device)

    found = await bench.recorder.seen(wanted, nth=moment.nth, since=since)
    yield Reached(found.t, found.device)


@contextlib.asynccontextmanager
async def _on_the_wire(
    bench: Bench, happening: Happening, moment: Moment, device: str | None
) -> AsyncIterator[Reached]:
    """The n-th packet of a kind on the way of a device, or of whichever comes first."""
    kind, to = _ON_THE_WIRE[happening]
    chosen = [d for d in bench.devices if device in (None, d.client_id)]
    gates = {d.client_id: bench.mqtt(d).hold_kind(kind, to, nth=moment.nth) for d in chosen}
    waits = {asyncio.ensure_future(gate.reached.wait()): name for name, gate in gates.items()}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        first = waits[next(iter(done))]
        for name, gate in gates.items():
            if name != first:
                gate.release()
        yield Reached(bench.recorder.now(), first)
    finally:
        for waiting in waits:
            waiting.cancel()
        for gate in gates.values():
            gate.release()
