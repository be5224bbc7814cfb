"""The agent with a hand on its shoulder: it stands still once a named phase is durable. For the demo and tests only.

    python -m reference.demo.agent --config FILE --pause-at PHASE --paused FILE

The production agent knows nothing of this: its driver is wrapped here, from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from reference.core.model import Phase
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.main import main


def pausing(phase: Phase, paused: Path) -> type[Agent]:
    """An agent that writes the file `paused` and stands still when `phase` has been journaled."""

    class PausingAgent(Agent):
        async def take_record(self, record: UpdateRecord) -> None:
            await super().take_record(record)
            if record.phase is phase:
                await asyncio.to_thread(paused.write_text, phase.value)
                await asyncio.Event().wait()

    return PausingAgent


def entry(arguments: list[str]) -> int:
    """The process's entry; the rest of the arguments are the agent's own."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--pause-at", type=Phase, required=True)
    parser.add_argument("--paused", type=Path, required=True)
    options, rest = parser.parse_known_args(arguments)
    return main(rest, factory=pausing(options.pause_at, options.paused))


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
