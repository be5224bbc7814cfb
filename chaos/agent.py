"""The agent of a device on the bench: the field's, which says each phase as it becomes durable, and waits for an answer.

    python -m chaos.agent --line SOCKET --config FILE

Between the phase and the answer it stands still: that is how a fault meets a phase that lasts a millisecond. The agent
of `reference.edge` knows nothing of this; it is wrapped here, from outside. Without anybody at the line it goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
from pathlib import Path

from reference.core.delivery import Memory
from reference.edge.agent import Agent
from reference.edge.http import short_name
from reference.edge.main import AgentFactory, main

HELD_MOST_S = 30.0
"""Longest that the agent stands still for one phase."""


class Line:
    """The device's end: one line of JSON there, one back."""

    def __init__(self, path: Path, client_id: str) -> None:
        self._path = path
        self._client_id = client_id

    def say(self, memory: Memory) -> None:
        """Tell what is durable now, and wait until somebody lets us go on."""
        record = memory.record
        said = {
            "device": self._client_id,
            "phase": record.phase.value,
            "generation": record.job.generation if record.job else None,
            "job_id": record.job.job_id if record.job else None,
            "outcome": record.outcome.value if record.outcome else None,
            "reason": record.reason.value if record.reason else None,
        }
        with (
            contextlib.suppress(OSError),
            short_name(self._path) as name,
            socket.socket(socket.AF_UNIX) as line,
        ):
            line.settimeout(HELD_MOST_S)
            line.connect(name)
            line.sendall(json.dumps(said).encode() + b"\n")
            line.recv(1)


def telling(path: Path, base: type[Agent] = Agent) -> AgentFactory:
    """An agent that says each phase on the line at `path`."""

    class TellingAgent(base):  # type: ignore[valid-type, misc]
        def change(self, memory: Memory) -> None:
            before = self.memory.record
            super().change(memory)
            after = self.memory.record
            job_before = before.job.job_id if before.job else None
            job_after = after.job.job_id if after.job else None
            if (before.phase, job_before) != (after.phase, job_after):
                Line(path, self._settings.client_id).say(self.memory)

    return TellingAgent


def entry(arguments: list[str], base: type[Agent] = Agent) -> int:
    """The process's entry; the rest of the arguments are the agent's own."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--line", type=Path, required=True)
    options, rest = parser.parse_known_args(arguments)
    return main(rest, factory=telling(options.line, base))


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
