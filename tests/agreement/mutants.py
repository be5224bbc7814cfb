"""Agents that are broken in one way each, in the process of the tests: the real ones' functions are replaced.

Each is put in before the hook, and in every life of a device.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from reference.core.delivery import Memory, advance
from reference.core.model import Image, Phase, SnapshotState
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.journal import Journal
from reference.edge.runtimes import snapshot
from reference.edge.runtimes.base import OnProgress
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.snapshot import SnapshotStore, Volume
from tests.agreement.patch import put

AtEnd = Callable[[Journal], None]


def nothing(journal: Journal) -> None:
    """Nothing is left to do when the process ends as asked."""


def journaled_late() -> AtEnd:
    """What is decided is acted on at once, and written when the next thing is decided."""
    write = Journal.write
    held: list[tuple[Memory, Memory]] = []

    def flush(journal: Journal) -> None:
        for before, after in held:
            journal.memory = before
            write(journal, after)
        held.clear()

    def late(journal: Journal, memory: Memory) -> None:
        before = journal.memory
        flush(journal)
        held.append((before, memory))
        journal.memory = memory

    put(Journal, "write", late)
    return flush


def start_not_journaled() -> AtEnd:
    """The phases of the trial are remembered by the process only."""
    write = Journal.write

    def forgetful(journal: Journal, memory: Memory) -> None:
        if memory.record.phase in (Phase.SWITCHING, Phase.VERIFYING):
            journal.memory = memory
        else:
            write(journal, memory)

    put(Journal, "write", forgetful)
    return nothing


def told_in_a_second_write() -> AtEnd:
    """The record and the report that it calls for are not one transaction."""

    async def torn(agent: Agent, record: UpdateRecord) -> None:
        before = agent.memory.record
        agent.change(replace(agent.memory, record=record))
        agent.change(advance(replace(agent.memory, record=before), record))
        agent._eyes.journaled(before, record)

    put(Agent, "take_record", torn)
    return nothing


def copy_named_first() -> AtEnd:
    """A copy of the volume counts before it is whole."""

    def take(
        store: SnapshotStore, generation: int, mounts: Mapping[str, str], abort: threading.Event
    ) -> None:
        if store.states().get(generation) is not SnapshotState.PREPARED:
            return
        volumes = []
        for path in snapshot._volumes(mounts):
            volume = snapshot._beside(path, generation)
            volume.copy.mkdir()
            volumes.append(Volume(volume.path, volume.copy, volume.copy.stat().st_ino))
        store._write(generation, SnapshotState.TAKEN, volumes)
        for volume in volumes:
            shutil.copytree(volume.path, volume.copy, dirs_exist_ok=True)

    put(SnapshotStore, "take", take)
    return nothing


def exchanged_blindly() -> AtEnd:
    """A volume is exchanged with its copy, and a copy listed, without a look at which of the two it is."""

    def bring_back(volume: Volume) -> None:
        assert snapshot._exchange(volume.copy, volume.path)

    put(snapshot, "_bring_back", bring_back)
    put(snapshot, "_inode", lambda _: None)
    return nothing


def stray_file() -> AtEnd:
    """The engine keeps a file among its images that no atom speaks of."""
    pull = ProcessRuntime.pull

    async def noting(runtime: ProcessRuntime, image: Image, progress: OnProgress) -> None:
        await pull(runtime, image, progress)
        (runtime._images.images / "last-pulled").write_text(image.digest)

    put(ProcessRuntime, "pull", noting)
    return nothing


MUTANTS: dict[str, Callable[[], AtEnd]] = {
    mutant.__name__: mutant
    for mutant in (
        journaled_late,
        start_not_journaled,
        told_in_a_second_write,
        copy_named_first,
        exchanged_blindly,
        stray_file,
    )
}
