"""The agent on a real engine, without a broker: commands are put into its memory as if they had come.

As a program (`python -m tests.edge.runtimes.docker_agent SETTINGS ORDERS`) it is the updater in a container of its own:
it does each order that appears in the folder ORDERS, prints a line about it, and waits for the next.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from reference.core import delivery
from reference.core.limits import Limits
from reference.core.model import Command, Health, Image, Phase
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.journal import Journal
from reference.edge.main import open_runtime
from reference.edge.observe import Eyes
from reference.edge.runtimes.docker import DockerRuntime
from reference.edge.settings import EdgeSettings, load_settings
from tests.edge.runtimes.contract import until

HEALTH = Health(start_period_ms=3_000, window_ms=6_000, stable_for_ms=300)
LIMITS = Limits(backoff_first_ms=50, backoff_limit_ms=200, poll_ms=20, watch_ms=100)


@asynccontextmanager
async def running_agent(settings: EdgeSettings) -> AsyncIterator[Agent]:
    """An agent over the journal that is there."""
    journal = Journal.open(settings.state_dir / "journal.db")
    runtime = open_runtime(settings)
    eyes = Eyes(runtime, settings.client, settings.run_dir, 1)
    agent = Agent(settings, runtime, journal, eyes, LIMITS)
    running = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        journal.close()
        await runtime.close()


async def updated(agent: Agent, generation: int, image: Image) -> UpdateRecord:
    """Command it, and wait until the agent rests."""
    command = Command(f"job-{generation}", generation, image, HEALTH, 4_000_000_000_000)
    # A journal that is made anew takes no command before the service has told it how far it was.
    epoch = agent.memory.record.epoch
    agent.change(delivery.receive_birth_answer(agent.memory, "nonce", "nonce", epoch, generation - 1))
    memory, _ = delivery.receive(agent.memory, command, agent.now_ms(), LIMITS)
    agent.change(memory)

    def rests() -> bool:
        record = agent.memory.record
        return record.phase is Phase.IDLE and record.queued is None

    await until(rests, seconds=60)
    return agent.memory.record


def order(folder: Path, generation: int, image: Image) -> None:
    """Give the updater in its container something to do."""
    body = {"repository": image.repository, "digest": image.digest, "version": image.version}
    staged = folder / f".{generation}"
    staged.write_text(json.dumps(body))
    staged.rename(folder / str(generation))


async def _work(settings: EdgeSettings, orders: Path) -> None:
    runtime = open_runtime(settings)
    assert isinstance(runtime, DockerRuntime)
    known = await runtime._engine.known()
    _say({"sees_processes": known.sees_processes, "sees_data": known.data_root.is_dir()})
    await runtime.close()
    async with running_agent(settings) as agent:
        generation = 1
        while True:
            path = orders / str(generation)
            await until(path.exists, seconds=600)
            record = await updated(agent, generation, Image(**json.loads(path.read_text())))
            current = record.current
            _say({"generation": generation, "version": current.image.version if current else None})
            generation += 1


def _say(body: dict[str, object]) -> None:
    print(json.dumps(body), flush=True)


if __name__ == "__main__":
    asyncio.run(_work(load_settings(Path(sys.argv[1])), Path(sys.argv[2])))
