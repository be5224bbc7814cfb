"""Devices that are broken in one way each, booted in place of the real one: `tests.power.mutants:NAME`."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from pathlib import Path

from reference.core.delivery import Memory
from reference.core.model import Image, Outcome, Phase
from reference.core.update import UpdateRecord
from reference.edge import journal as edge_journal
from reference.edge.agent import Agent
from reference.edge.journal import Journal
from reference.edge.runtimes.docker import DockerRuntime
from reference.edge.runtimes.docker.begun import Begun
from reference.edge.runtimes.docker.engine import Document, EngineFacts
from reference.edge.runtimes.docker.fetching import Fetching
from reference.edge.runtimes.docker.pull import Layers
from reference.edge.runtimes.process import ProcessRuntime
from reference.power import line
from reference.power.device import Boot, boot
from reference.support.files import syncfs


def unsynced(given: Boot) -> None:
    """What was pulled is not put on the disk before `switching` is journaled."""
    take, sync = Agent.take_record, ProcessRuntime.sync
    phase = Phase.IDLE

    async def taking(self: Agent, record: UpdateRecord) -> None:
        nonlocal phase
        phase = record.phase
        await take(self, record)

    async def forgetful(self: ProcessRuntime) -> None:
        if phase not in (Phase.PULLING, Phase.STAGED):
            await sync(self)

    Agent.take_record = taking  # type: ignore[method-assign]
    ProcessRuntime.sync = forgetful  # type: ignore[method-assign]
    boot(given)


def journal_off(given: Boot) -> None:
    """The journal is written with `synchronous=OFF`."""
    _settled("off")
    boot(given)


def journal_normal(given: Boot) -> None:
    """The journal is written with `synchronous=NORMAL`."""
    _settled("normal")
    boot(given)


def _settled(synchronous: str) -> None:
    settle = edge_journal._settle

    def careless(connection: sqlite3.Connection) -> None:
        settle(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")

    edge_journal._settle = careless


def hasty(given: Boot) -> None:
    """Success is told before the journal holds it: what says so is written only with the next change."""
    write = Journal.write

    def late(self: Journal, memory: Memory) -> None:
        if memory.record.outcome is Outcome.SUCCEEDED:
            self.memory = memory
        else:
            write(self, memory)

    Journal.write = late  # type: ignore[method-assign]
    boot(given)


# ---- under an engine


def engine_unsynced(given: Boot) -> None:
    """What the engine has pulled and made is not put on the disk before `switching` is journaled."""
    take, sync = Agent.take_record, DockerRuntime.sync
    phase = Phase.IDLE

    async def taking(self: Agent, record: UpdateRecord) -> None:
        nonlocal phase
        phase = record.phase
        await take(self, record)

    async def forgetful(self: DockerRuntime) -> None:
        if phase not in (Phase.PULLING, Phase.STAGED):
            await sync(self)

    Agent.take_record = taking  # type: ignore[method-assign]
    DockerRuntime.sync = forgetful  # type: ignore[method-assign]
    boot(given)


def written_back(given: Boot) -> None:
    """Nothing is wrong with it: the kernel writes back in the middle of a layer, and the cut comes right after the pull.

    The engine is stopped for the first, so that it is the middle. The second is told as the next phase.
    """
    heard, kept = Layers.heard, Fetching._kept

    def hearing(self: Layers, said: Document) -> bool:
        current = (said.get("progressDetail") or {}).get("current") or 0
        if said.get("status") == "Extracting" and current >= WRITTEN_BYTES and not hasattr(self, "_written"):
            object.__setattr__(self, "_written", True)
            engine = int(Path("/run/docker.pid").read_text("ascii"))
            os.kill(engine, signal.SIGSTOP)
            syncfs(given.settings.state_dir)
            os.kill(engine, signal.SIGCONT)
        return heard(self, said)

    async def keeping(self: Fetching, image: Image, known: EngineFacts) -> bool:
        line.send(given.line, line.PHASE, Phase.STAGED.value.encode())
        await asyncio.sleep(LONGER_S)
        return await kept(self, image, known)

    Layers.heard = hearing  # type: ignore[method-assign,assignment]
    Fetching._kept = keeping  # type: ignore[method-assign]
    boot(given)


WRITTEN_BYTES = 1 << 20
LONGER_S = 1.5
"""The cut has come by then."""


def engine_believed(given: Boot) -> None:
    """The same, and a pull that a cut has ended is not remembered: what the engine lists is taken for whole."""
    Begun.cut = property(lambda _: frozenset())  # type: ignore[assignment,method-assign]
    written_back(given)
