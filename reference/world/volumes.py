"""The client's volume and the copies that are made of it for a trial."""

from __future__ import annotations

from collections.abc import Iterator

from reference.core.model import SnapshotState
from reference.core.steps import PrepareSnapshot, RemoveSnapshot, RestoreSnapshot, Snapshot
from reference.world.atoms import Atom
from reference.world.disk import Volumes, then

Values = tuple[Volumes, ...]
EXCHANGED = "~"
"""Marks a copy that is the volume already, though its state does not say so yet: the inode tells."""


def listed(now: Volumes) -> dict[int, SnapshotState]:
    """The copies as the runtime tells of them: one that was exchanged is restored, whether that was noted or not."""
    return {
        generation: SnapshotState.RESTORED if content.startswith(EXCHANGED) else state
        for generation, state, content in now.snapshots
    }


def perform(
    values: Values, step: PrepareSnapshot | Snapshot | RestoreSnapshot | RemoveSnapshot
) -> Iterator[tuple[Atom, Values]]:
    """The atoms of such an act, each with the values that volume and copies may have after it.

    A copy is synced before it is named, and an exchange after it: those two are durable when they are done.
    """
    now = values[-1]
    copies = {g: (state, content) for g, state, content in now.snapshots}
    generation = step.generation
    match step:
        case PrepareSnapshot():
            if generation in copies:
                return
            copies[generation] = (SnapshotState.PREPARED, "")
            yield Atom.RESERVE_MAKE, then(values, _with(now, copies))
        case Snapshot():
            if copies.get(generation, (SnapshotState.PREPARED, ""))[0] is not SnapshotState.PREPARED:
                return
            yield Atom.SNAPSHOT_COPY, values
            copies[generation] = (SnapshotState.TAKEN, now.format)
            yield Atom.SNAPSHOT_SHOW, (_with(now, copies),)
        case RestoreSnapshot():
            yield from _restore(values, generation)
        case RemoveSnapshot():
            if generation in copies:
                state, content = copies[generation]
                if state is SnapshotState.TAKEN:
                    copies[generation] = (SnapshotState.PREPARED, content)
                    values = (_with(now, copies),)
                yield Atom.FORGET_HIDE, values
                del copies[generation]
                yield Atom.FORGET_PURGE, (_with(now, copies),)


def _restore(values: Values, generation: int) -> Iterator[tuple[Atom, Values]]:
    """The exchange of names, and the note that it was made; between them only the copy's own name tells."""
    now = values[-1]
    copies = {g: (state, content) for g, state, content in now.snapshots}
    state, content = copies[generation]
    if state is SnapshotState.RESTORED:
        return
    if not content.startswith(EXCHANGED):
        copies[generation] = (SnapshotState.TAKEN, EXCHANGED + now.format)
        now = _with(now._replace(format=content), copies)
        yield Atom.RESTORE_EXCHANGE, (now,)
    copies[generation] = (SnapshotState.RESTORED, copies[generation][1].removeprefix(EXCHANGED))
    yield Atom.RESTORE_RECORD, (_with(now, copies),)


def _with(now: Volumes, copies: dict[int, tuple[SnapshotState, str]]) -> Volumes:
    return now._replace(snapshots=tuple((g, *copies[g]) for g in sorted(copies)))
