"""The real agent as a process, with the service's part of the conversation played inside it: there is no broker.

    python -m tests.agreement.agent TASK.json

Agent, journal, eyes, executor and process runtime are production's own. The hook (`boundaries.py`) and the mutants
are put in from here; production knows nothing of either. Exit codes: 0 all orders have ended and the device is at
rest, 3 it was not in time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from pydantic import TypeAdapter

from reference.core import delivery
from reference.core.delivery import Memory
from reference.core.errors import BlackstartError
from reference.core.job import Report
from reference.core.limits import Limits
from reference.core.model import Phase, World
from reference.core.steps import Step, Wait
from reference.core.update import UpdateRecord
from reference.edge import agent as edge_agent
from reference.edge.agent import Agent
from reference.edge.hold import hold_file
from reference.edge.main import alone, open_journal
from reference.edge.observe import Eyes
from tests.agreement import boundaries, mutants
from tests.agreement.device import LIMITS, Device, Task
from tests.agreement.patch import put, real

TASK = TypeAdapter(Task)
TOLD: TypeAdapter[tuple[str, Report]] = TypeAdapter(tuple[str, Report])
LATE = 3
PATIENCE_S = 60.0


class Service:
    """The other side: it gives the floor and the orders, and hears every report. It acknowledges none."""

    def __init__(self, agent: Agent, heard: Path) -> None:
        self._agent = agent
        self._file = os.open(heard, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.resting = asyncio.Event()
        self._real = real(edge_agent, "decide")
        put(edge_agent, "decide", self._decide)
        agent.onlookers.append(self)
        self._hear(agent.memory.outbox)  # As at every connect: all that was never acknowledged.

    def changed(self, before: Memory, after: Memory) -> None:
        """Hear what is new in the outbox, once it is durable."""
        self._hear(tuple(report for report in after.outbox if report not in before.outbox))

    def failed(self, error: BlackstartError) -> None:
        """No business of the service's."""

    def _hear(self, reports: tuple[Report, ...]) -> None:
        for report in sorted(reports, key=lambda r: r.sequence):
            os.write(self._file, TOLD.dump_json((self._agent.memory.record.epoch, report)) + b"\n")

    def _decide(self, record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
        step: Step = self._real(record, world, now_ms, limits)
        if _resting(record, world, step):
            self.resting.set()
        else:
            self.resting.clear()
        return step

    async def run(self, task: Task) -> None:
        """Give every order when the one before has ended; return when the device is at rest after the last one."""
        agent = self._agent
        if agent.memory.record.floor is None:
            epoch = agent.memory.record.epoch
            agent.change(delivery.receive_birth_answer(agent.memory, "nonce", "nonce", epoch, 0))
        for order in task.orders:
            memory, _ = delivery.receive(agent.memory, order, agent.now_ms(), agent.limits)
            agent.change(memory)
            self.resting.clear()
            await self.resting.wait()


def _resting(record: UpdateRecord, world: World, step: Step) -> bool:
    """Whether there is nothing left to do. That what runs is well is for others to see, from outside."""
    if record.phase is not Phase.IDLE or record.queued is not None or not isinstance(step, Wait):
        return False
    current = world.find(record.current)
    return record.current is None or (current is not None and current.running)


async def live(task: Task) -> int:
    """One life of the agent."""
    device = Device(task.folder, task.address, task.registry)
    settings = device.settings()
    if task.setup:
        device.make()
        await device.install(task.installed, task.cast)
    mutant = mutants.MUTANTS[task.mutant]() if task.mutant else None
    if task.kill is not None or task.record is not None:
        boundaries.install(device, task.kill, task.record)
    runtime = device.runtime()
    held, lock = hold_file(device.state), device.run / "lock"
    eyes = Eyes(runtime, settings.client, device.run, settings.seed, hold_file=held, lock_file=lock)
    with alone(device.state), alone(device.run):
        journal = await open_journal(settings, eyes, runtime)
        agent = Agent(settings, runtime, journal, eyes, LIMITS)
        service = Service(agent, device.heard)
        running = asyncio.create_task(agent.run())
        ordering = asyncio.create_task(service.run(task))
        try:
            await asyncio.wait((running, ordering), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            if ordering.done():
                ordering.result()
                print(f"at rest {os.getpid()}", flush=True)
                if task.leave:
                    os.kill(os.getpid(), signal.SIGKILL)
                return 0
            print(f"not at rest after {PATIENCE_S} s: {agent.memory.record}", file=sys.stderr)
            return LATE
        finally:
            for one in (running, ordering):
                one.cancel()
            await asyncio.gather(running, ordering, return_exceptions=True)
            if mutant is not None:
                mutant(journal)
            journal.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(live(TASK.validate_json(Path(sys.argv[1]).read_bytes()))))
