"""Devices that are broken in one way each, booted in place of the real one: `tests.power.mutants:NAME`."""

from __future__ import annotations

import sqlite3

from reference.core.delivery import Memory
from reference.core.model import Outcome, Phase
from reference.core.update import UpdateRecord
from reference.edge import journal as edge_journal
from reference.edge.agent import Agent
from reference.edge.journal import Journal
from reference.edge.runtimes.process import ProcessRuntime
from reference.power.device import Boot, boot


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
