"""Agents that are broken in one way each, run as processes in place of the real one. Which one, the story's name says.

python -m tests.demo.mutant_agent --config FILE [--pause-at PHASE --paused FILE]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reference.core import delivery, handover
from reference.core.delivery import Memory, Verdict
from reference.core.job import JobStatus
from reference.core.limits import Limits
from reference.core.model import Command, Container, Health, Outcome, Phase
from reference.core.update import UpdateRecord
from reference.demo import agent as pausing
from reference.edge import agent as edge_agent
from reference.edge.agent import Agent
from reference.edge.journal import Journal
from reference.edge.main import main


def health_window_skipped() -> None:
    """Whatever runs is taken for healthy."""

    def stable(self: Container, health: Health) -> bool:
        return self.running

    Container.stable = stable  # type: ignore[method-assign]


def switch_not_journaled() -> None:
    """The phases of the trial are remembered by the process only."""
    write = Journal.write

    def forgetful(self: Journal, memory: Memory) -> None:
        if memory.record.phase in (Phase.SWITCHING, Phase.VERIFYING) and memory.record.current is not None:
            self.memory = memory
        else:
            write(self, memory)

    Journal.write = forgetful  # type: ignore[method-assign]


def old_image_deleted_early() -> None:
    """The container and the image of current go as soon as the trial begins."""
    take = Agent.take_record

    async def eager(self: Agent, record: UpdateRecord) -> None:
        await take(self, record)
        if record.phase is Phase.VERIFYING and record.current is not None:
            current = record.current
            for found in (await self._runtime.observe()).containers:
                if found.generation == current.generation:
                    await self._runtime.remove(found.id)
            await self._runtime.remove_image(current.image.digest)

    Agent.take_record = eager  # type: ignore[method-assign]


def dedupe_off() -> None:
    """Every command is new."""
    receive = delivery.receive

    def naive(memory: Memory, command: Command, now_ms: int | None, limits: Limits) -> tuple[Memory, Verdict]:
        if memory.record.floor is not None:
            memory = replace(memory, record=replace(memory.record, floor=command.generation - 1))
        return receive(memory, command, now_ms, limits)

    delivery.receive = naive
    delivery._again = lambda *_: None


def success_reported_early() -> None:
    """Success is told when the trial begins."""
    advance = delivery.advance

    def hasty(memory: Memory, record: UpdateRecord) -> Memory:
        after = advance(memory, record)
        if record.phase is not Phase.VERIFYING or record.current is None:
            return after
        lie = {"status": JobStatus.SUCCEEDED, "outcome": Outcome.SUCCEEDED}
        return replace(after, outbox=tuple(replace(r, **lie) for r in after.outbox))  # type: ignore[arg-type]

    edge_agent.advance = hasty  # type: ignore[attr-defined]


def standby_not_waited_for() -> None:
    """The old version is stopped first, whatever the policy says."""
    handover.overlapping = lambda record: False


def end_with_the_engine_blamed() -> None:
    """A container that has ended has done so by itself, whoever took it along."""
    from reference.edge.runtimes.docker.witness import (
        Witness,
    )  # the agents of the process runtime have no SDK

    Witness.told = lambda *_: True  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "never-healthy": health_window_skipped,
    "killed-in-verifying": switch_not_journaled,
    "crash-on-start": old_image_deleted_early,
    "command-twice": dedupe_off,
    "update-succeeds": success_reported_early,
    "handover-overlap": standby_not_waited_for,
    "engine-restarts-with-its-containers": end_with_the_engine_blamed,
}
"""The story that has to notice, and what is wrong with its agent."""


if __name__ == "__main__":
    arguments = sys.argv[1:]
    config = json.loads(Path(arguments[arguments.index("--config") + 1]).read_text())
    MUTANTS[config["client_id"]]()
    sys.exit(pausing.entry(arguments) if "--pause-at" in arguments else main(arguments))
