"""The atoms: the smallest effects of a step, as a disk and an engine have them. Between any two of them a cut may come.

Where they come from: `tests/agreement` runs the real process runtime under strace and maps each write, fsync, rename,
unlink, spawn and kill to one of these; a system call without an atom fails it. What Docker adds (an index beside the
layers, a record of what ran) was measured on the real engine.
"""

from __future__ import annotations

from enum import StrEnum


class Atom(StrEnum):
    """`step.effect`. What is not said to be durable is volatile until a sync: a cut may keep it or lose it."""

    JOURNAL_APPEND = "journal.append"
    """The transaction is in the log. It may be read again by another process; a cut may lose it."""
    JOURNAL_SYNC = "journal.sync"
    """The log is synced: durable. What depends on the record comes after this."""
    OPEN_READ = "open.read"
    """A process has begun and read the journal as the page cache has it."""
    OPEN_SYNC = "open.sync"
    """And has synced it before believing it."""
    PULL_MANIFEST = "pull.manifest"
    """The registry was asked; nothing is stored."""
    PULL_LAYER = "pull.layer"
    """One of two layers is written, volatile. Which one does not matter: the two are symmetric and merged."""
    PULL_INDEX = "pull.index"
    """The engine lists the image."""
    CREATE_WRITE = "create.write"
    """The description is written where nobody looks for it."""
    CREATE_SHOW = "create.show"
    """The container is listed, `created`."""
    START_BEGIN = "start.begin"
    """The engine has taken the order; no process yet."""
    START_SPAWN = "start.spawn"
    """The process lives."""
    START_RECORD = "start.record"
    """The engine has written down that it runs."""
    STOP_SIGNAL = "stop.signal"
    """The process was asked to end, and still lives."""
    STOP_GONE = "stop.gone"
    """It is gone."""
    STOP_RECORD = "stop.record"
    """The engine has written down that it does not run."""
    REMOVE_HIDE = "remove.hide"
    """The container is not listed any more."""
    REMOVE_PURGE = "remove.purge"
    """Its files are gone."""
    UNLIST_HIDE = "unlist.hide"
    """The image is not listed any more."""
    UNLIST_PURGE = "unlist.purge"
    """Its layers are gone."""
    POLICY_WRITE = "policy.write"
    """The new restart policy is written where nobody looks for it."""
    POLICY_SHOW = "policy.show"
    """The new restart policy is what the engine reads."""
    SYNC_BEGIN = "sync.begin"
    """A sync runs: any part of what was volatile may be durable already."""
    SYNC_END = "sync.end"
    """All that was volatile before the sync is durable."""
    ENGINE_DOWN = "engine.down"
    """The engine is stopped for a restart; containers live on."""
    ENGINE_UP = "engine.up"
    """It is back, and ports that nobody uses are free."""
    RESERVE_MAKE = "reserve.make"
    """There is room for a snapshot, and nothing was copied."""
    SNAPSHOT_COPY = "snapshot.copy"
    """The volume is copied where nobody looks for it."""
    SNAPSHOT_SHOW = "snapshot.show"
    """The copy is a snapshot: whole, synced and named, in one."""
    RESTORE_EXCHANGE = "restore.exchange"
    """Volume and copy have exchanged their names, durable; what lists the copy does not say so yet."""
    RESTORE_RECORD = "restore.record"
    """And says so now, durable."""
    FORGET_HIDE = "forget.hide"
    """The snapshot is worth nothing any more, durable."""
    FORGET_PURGE = "forget.purge"
    """Its files are gone, and it is not listed."""
    BOOT_REVIVE = "boot.revive"
    """The engine has started what its restart policies name, before anybody looked."""
    WAIT_PASS = "wait.pass"  # noqa: S105 - time, not a word to get in
    """Time has passed: processes aged, probes were made, one may have died."""
    MESSAGE_IN = "message.in"
    """A command, a cancel or an answer has arrived; nothing of it is stored yet."""
    MESSAGE_OUT = "message.out"
    """A birth or a status has reached the service, which has stored it; its acknowledgement has not arrived."""


MERGED = (
    "two layers an image; which of them is on the disk does not matter, only how many",
    "two names for containers of one generation: a name is used again once nothing stored knows it",
    "boot ids are compared for equality only, and renamed to the fewest that tell them apart",
    "sequences of reports are kept by their order; ages that decide nothing any more are capped",
    "between two syncs a stored thing may come back with any value that it had since, each thing by itself",
    "the journal is one thing: SQLite appends a transaction whole, and its checksums keep half of one out",
)
"""What is merged or bounded, for people: printed with every enumeration."""
