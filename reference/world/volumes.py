"""The client's volume and the copies that are made of it for a trial."""

from __future__ import annotations

from collections.abc import Iterator

from reference.core.model import SnapshotState
from reference.core.steps import PrepareSnapshot, RemoveSnapshot, RestoreSnapshot, Snapshot
from reference.world.atoms import Atom
from reference.world.disk import Volumes, then

Values = tuple[Volumes, ...]


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
            yield Atom.SNAPSHOT_COPY, values
            copies[generation] = (SnapshotState.TAKEN, now.format)
            yield Atom.SNAPSHOT_SHOW, (_with(now, copies),)
        case RestoreSnapshot():
            state, content = copies[generation]
            if state is SnapshotState.RESTORED:
                return
            copies[generation] = (SnapshotState.RESTORED, now.format)
            yield Atom.RESTORE_EXCHANGE, (_with(now._replace(format=content), copies),)
        case RemoveSnapshot():
            if copies.pop(generation, None) is not None:
                values = then(values, _with(now, copies))
                yield Atom.FORGET_HIDE, values
                yield Atom.FORGET_PURGE, values


def _with(now: Volumes, copies: dict[int, tuple[SnapshotState, str]]) -> Volumes:
    return now._replace(snapshots=tuple((g, *copies[g]) for g in sorted(copies)))
