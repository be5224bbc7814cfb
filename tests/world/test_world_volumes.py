"""The volume and its copies: what is durable when, and what a cut may leave."""

from __future__ import annotations

from reference.core.model import SnapshotState
from reference.core.steps import PrepareSnapshot, RemoveSnapshot, RestoreSnapshot, Snapshot
from reference.world.atoms import Atom
from reference.world.disk import Volumes, then
from reference.world.volumes import Values, perform

Step = PrepareSnapshot | Snapshot | RestoreSnapshot | RemoveSnapshot
PREPARED, TAKEN, RESTORED = SnapshotState.PREPARED, SnapshotState.TAKEN, SnapshotState.RESTORED
BARE: Values = (Volumes("v1"),)


def after(values: Values, *steps: Step) -> Values:
    for step in steps:
        for _, now in perform(values, step):
            values = now
    return values


def states(values: Values) -> list[tuple[str, tuple[tuple[int, SnapshotState, str], ...]]]:
    """Everything that a cut may leave."""
    return [(v.format, v.snapshots) for v in values]


def test_room_is_not_durable_and_a_copy_is() -> None:
    ready = after(BARE, PrepareSnapshot(2))
    assert states(ready) == [("v1", ()), ("v1", ((2, PREPARED, ""),))]
    (copying, taken) = perform(ready, Snapshot(2))
    assert copying == (Atom.SNAPSHOT_COPY, ready), "half a copy is none"
    assert (taken[0], states(taken[1])) == (Atom.SNAPSHOT_SHOW, [("v1", ((2, TAKEN, "v1"),))])


def test_what_is_brought_back_is_durable_and_what_it_replaced_is_kept() -> None:
    taken = after(BARE, PrepareSnapshot(2), Snapshot(2))
    migrated = then(taken, taken[-1]._replace(format="v2"))
    assert len(migrated) == 2, "what a version writes is lost or not"
    back = after(migrated, RestoreSnapshot(2))
    assert states(back) == [("v1", ((2, RESTORED, "v2"),))]
    assert after(back, RestoreSnapshot(2)) == back, "once"


def test_a_cut_between_the_exchange_and_its_note_does_not_exchange_again() -> None:
    taken = after(BARE, PrepareSnapshot(2), Snapshot(2))
    (exchanged, noted) = perform(then(taken, taken[-1]._replace(format="v2")), RestoreSnapshot(2))
    assert (exchanged[0], noted[0]) == (Atom.RESTORE_EXCHANGE, Atom.RESTORE_RECORD)
    assert exchanged[1][-1].format == "v1" and exchanged[1][-1].snapshots[0][1] is TAKEN
    assert list(perform(exchanged[1], RestoreSnapshot(2))) == [noted]


def test_a_copy_that_is_forgotten_is_worthless_before_its_files_go() -> None:
    taken = after(BARE, PrepareSnapshot(2), Snapshot(2))
    (hidden, purged) = perform(taken, RemoveSnapshot(2))
    assert (hidden[0], purged[0]) == (Atom.FORGET_HIDE, Atom.FORGET_PURGE)
    assert states(hidden[1]) == [("v1", ((2, PREPARED, "v1"),))] and states(purged[1]) == [("v1", ())]
    assert after(BARE, RemoveSnapshot(2)) == BARE


def test_copies_are_kept_by_generation() -> None:
    both = after(BARE, PrepareSnapshot(3), Snapshot(3), PrepareSnapshot(2))
    assert both[-1].snapshots == ((2, PREPARED, ""), (3, TAKEN, "v1"))
