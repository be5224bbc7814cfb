"""Which effect of a real device is which atom of the model: one table, for what the kernel sees and what Python calls.

`test_atoms.py` holds it against a trace of every system call; `boundaries.py` names the places where the agent is
killed by it. A call under the device's folders that no rule knows is an error in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reference.world.atoms import Atom


@dataclass(frozen=True, slots=True)
class Call:
    """One effect: a call that changes the device's folders, begins or ends a process, or asks the registry.

    `path` is what it changes, with its root's name in place of the root; of a rename it is the new name.
    """

    name: str
    path: str = ""
    detail: str = ""
    """What is written, for a rename what was written to the file before; a signal's name; a program's arguments."""
    who: str = "agent"
    """`agent`, `shim` or `workload`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls that match all three expressions, whole, are these atoms: the first when it begins, the last when it ends.

    No atom: the client's own business, which is no effect of a step.
    """

    who: str
    calls: str
    path: str
    atoms: tuple[Atom, ...]
    detail: str = ".*"
    after: Atom | None = None
    """Only when this is what the same process did before."""
    again: bool = False
    """It is the same atom as what the same process did before: the sync of a folder belongs to what changed it."""

    def matches(self, call: Call) -> bool:
        """Whether it speaks of this call."""
        return (
            re.fullmatch(self.who, call.who) is not None
            and re.fullmatch(self.calls, call.name) is not None
            and re.fullmatch(self.path, call.path) is not None
            and _expression(self.detail).fullmatch(call.detail) is not None
        )


@cache
def _expression(text: str) -> re.Pattern[str]:
    return re.compile(text, re.DOTALL)


def _rule(
    who: str,
    calls: str,
    path: str,
    *atoms: Atom,
    detail: str = ".*",
    after: Atom | None = None,
    again: bool = False,
) -> Rule:
    return Rule(who, calls, path, atoms, detail, after, again)


_ENGINE = "STATE/engine"
_CONTAINER = r"g\d+-[0-9a-f]{8}"
_HEX = "[0-9a-f]{64}"
_NEW = f"{_ENGINE}/tmp/[0-9a-f]{{16}}"
"""An image on its way: its folder appears under its digest by one rename."""
_GRAVE = r"\.[0-9a-f]{8}(/.+)?"
"""What is removed is renamed first: it is there, or not."""
_TEMPORARY = r"\.[a-z0-9_]{8}\.tmp"
_LIST = f"{_ENGINE}/snapshots"
_COPY = r"DATA/\.volume\.snapshot-\d+"
_FILLED = "open|chmod|write|fsync"

RULES: tuple[Rule, ...] = (
    # -- the journal, as SQLite writes it: a new one whole under another name, then a log that is appended to
    _rule("agent", "open|chown|pwrite|fsync|unlink", r"STATE/journal\.new(-journal)?", Atom.JOURNAL_APPEND),
    _rule("agent", "rename", r"STATE/journal\.db", Atom.JOURNAL_SYNC),
    _rule("agent", "fsync", "STATE", again=True),
    _rule("agent", "open|chown|pwrite|fsync|unlink", r"STATE/journal\.db-journal", Atom.OPEN_READ),
    _rule("agent", "open|chown", r"STATE/journal\.db-wal", Atom.OPEN_READ),
    _rule("agent", "pwrite", r"STATE/journal\.db-wal", Atom.JOURNAL_APPEND),
    _rule("agent", "fsync", r"STATE/journal\.db-wal", Atom.JOURNAL_SYNC),
    _rule("agent", "pwrite|truncate|fsync", r"STATE/journal\.db", Atom.OPEN_SYNC),
    _rule("agent", "truncate|unlink", r"STATE/journal\.db-wal", Atom.OPEN_SYNC),
    # -- a process begins
    _rule("agent", "execve", "", Atom.OPEN_READ, detail=r".*-m tests\.agreement\.agent .*"),
    _rule("agent", "open", "(STATE|RUN)/agent.lock", Atom.OPEN_READ),
    _rule("agent", "open|write|rename", r"RUN/(\.boot-id\.new|boot-id)", Atom.OPEN_READ),
    _rule("agent", "mkdir", f"{_ENGINE}(/(blobs(/sha256)?|images|tmp|partial|containers))?", Atom.OPEN_READ),
    # -- images
    _rule("agent", "ask", "", Atom.PULL_MANIFEST),
    _rule("agent", "open|write", f"{_ENGINE}/partial/{_HEX}", Atom.PULL_LAYER),
    _rule("agent", "rename", f"{_ENGINE}/blobs/sha256/{_HEX}", Atom.PULL_LAYER),
    _rule("agent", "mkdir|open|write|chmod", f"{_NEW}(/rootfs(/.+)?)?", Atom.PULL_LAYER),
    _rule("agent", "open|write", f"{_NEW}/image.json", Atom.PULL_LAYER),
    _rule("agent", "rename", f"{_ENGINE}/images/{_HEX}", Atom.PULL_INDEX),
    _rule("agent", "rename", f"{_ENGINE}/tmp/{_HEX}{_GRAVE}", Atom.UNLIST_HIDE),
    _rule("agent", "unlink|rmdir", f"{_ENGINE}/tmp/{_HEX}{_GRAVE}", Atom.UNLIST_PURGE),
    _rule("agent", "unlink", f"{_ENGINE}/blobs/sha256/{_HEX}", Atom.UNLIST_PURGE),
    # -- containers
    _rule("agent", f"mkdir|rename|{_FILLED}", rf"{_ENGINE}/tmp/{_CONTAINER}\.new(/.+)?", Atom.CREATE_WRITE),
    _rule("agent", "rename", f"{_ENGINE}/containers/{_CONTAINER}", Atom.CREATE_SHOW),
    _rule("agent", _FILLED, rf"{_ENGINE}/containers/{_CONTAINER}/\.policy{_TEMPORARY}", Atom.POLICY_WRITE),
    _rule("agent", "rename", f"{_ENGINE}/containers/{_CONTAINER}/policy", Atom.POLICY_SHOW),
    _rule("agent", "rename", f"{_ENGINE}/tmp/{_CONTAINER}{_GRAVE}", Atom.REMOVE_HIDE),
    _rule("agent", "unlink|rmdir", f"{_ENGINE}/tmp/{_CONTAINER}{_GRAVE}", Atom.REMOVE_PURGE),
    _rule(
        "agent",
        "unlink|rmdir",
        rf"RUN/containers/{_CONTAINER}(/.+)?",
        Atom.REMOVE_PURGE,
        after=Atom.REMOVE_PURGE,
    ),
    # -- a start: the agent asks a shim, the shim writes who the workload is before it may run, and that it does after
    _rule("agent", "mkdir", f"RUN/containers(/{_CONTAINER})?", Atom.START_BEGIN),
    _rule(
        "agent",
        "unlink|rename",
        rf"RUN/containers/{_CONTAINER}/(exit\.json|state\.json|log\.1)",
        Atom.START_BEGIN,
    ),
    _rule("agent", "open", f"RUN/containers/{_CONTAINER}/(lock|log)", Atom.START_BEGIN),
    _rule(
        "agent",
        "open|write|rename",
        rf"RUN/containers/{_CONTAINER}/(\.launch\.json\.new|launch\.json)",
        Atom.START_BEGIN,
    ),
    _rule("agent|shim", "clone", "", Atom.START_BEGIN),
    _rule("shim", "execve", "", Atom.START_BEGIN),
    _rule(
        "shim",
        "open|write|rename",
        rf"RUN/containers/{_CONTAINER}/state\.json(\.new)?",
        Atom.START_RECORD,
        detail=".*executed.*",
    ),
    _rule("shim", "open|write|rename", rf"RUN/containers/{_CONTAINER}/state\.json(\.new)?", Atom.START_SPAWN),
    _rule("workload", "execve", "", Atom.START_SPAWN),
    _rule("agent", "open|utimensat", f"{_ENGINE}/containers/{_CONTAINER}/was-started", Atom.START_RECORD),
    # -- a stop; a workload that ends by itself, which is told by its exit code, is time that has passed
    _rule("agent", "kill", "", Atom.STOP_SIGNAL, detail="SIGTERM|SIGKILL"),
    _rule(
        "workload", "exit", "", Atom.STOP_GONE, detail=r"\+\+\+ (exited with 0|killed by SIGKILL.*) \+\+\+"
    ),
    _rule("workload", "exit", "", Atom.WAIT_PASS),
    _rule(
        "shim",
        "open|write|rename",
        rf"RUN/containers/{_CONTAINER}/exit\.json(\.new)?",
        Atom.STOP_RECORD,
        detail=r'.*"code": (0|137)\}.*',
    ),
    _rule("shim", "open|write|rename", rf"RUN/containers/{_CONTAINER}/exit\.json(\.new)?", Atom.WAIT_PASS),
    # -- the engine's data
    _rule("agent", "syncfs", _ENGINE, Atom.SYNC_BEGIN, Atom.SYNC_END),
    # -- copies of the volume: what is in their description says how far they are
    _rule("agent", "mkdir", _LIST, Atom.RESERVE_MAKE),
    _rule("agent", "unlink|rmdir", r"DATA/\.volume\.discarded-\d+(/.+)?", Atom.RESERVE_MAKE),
    _rule(
        "agent",
        f"rename|{_FILLED}",
        rf"{_LIST}/.+",
        Atom.RESERVE_MAKE,
        detail=r'.*"state": "prepared".*"inode": 0\b.*',
    ),
    _rule("agent", "mkdir|open|write|truncate|utimensat|chmod|chown", f"{_COPY}(/.+)?", Atom.SNAPSHOT_COPY),
    _rule("agent", "syncfs", "DATA", Atom.SNAPSHOT_COPY),
    _rule("agent", _FILLED, rf"{_LIST}/\..+", Atom.SNAPSHOT_COPY, detail=r'.*"state": "taken".*'),
    _rule("agent", "rename", rf"{_LIST}/\d+\.json", Atom.SNAPSHOT_SHOW, detail=r'.*"state": "taken".*'),
    _rule("agent", "exchange", "DATA/volume", Atom.RESTORE_EXCHANGE),
    _rule(
        "agent", f"rename|{_FILLED}", rf"{_LIST}/.+", Atom.RESTORE_RECORD, detail=r'.*"state": "restored".*'
    ),
    _rule(
        "agent",
        f"rename|{_FILLED}",
        rf"{_LIST}/.+",
        Atom.FORGET_HIDE,
        detail=r'.*"state": "prepared".*"inode": [1-9].*',
    ),
    _rule("agent", "rename", r"DATA/\.volume\.discarded-\d+", Atom.FORGET_HIDE),
    _rule("agent", "unlink|rmdir", f"{_COPY}(/.+)?", Atom.FORGET_PURGE),
    _rule("agent", "unlink", rf"{_LIST}/\d+\.json", Atom.FORGET_PURGE),
    _rule("agent", "fsync", f"DATA|{_LIST}|{_ENGINE}/containers(/{_CONTAINER})?", again=True),
    # -- the client's own
    _rule("workload", "open|write|rename|truncate|unlink", "DATA/volume(/.+)?"),
    _rule("workload", "write", f"RUN/containers/{_CONTAINER}/log"),
)
"""Tried from the first to the last."""


class Mapper:
    """Tells the atoms of one call after the other."""

    def __init__(self) -> None:
        self._last: dict[str, Atom] = {}

    def atoms(self, call: Call) -> tuple[Rule, tuple[Atom, ...]] | None:
        """The rule that knows this call and the atoms that it is; None: no rule does."""
        last = self._last.get(call.who)
        known = (rule for rule in RULES if rule.after in (None, last) and rule.matches(call))
        if (rule := next(known, None)) is None:
            return None
        atoms = rule.atoms
        if rule.again:
            atoms = (last,) if last is not None else ()
        if atoms:
            self._last[call.who] = atoms[-1]
        return rule, atoms


def relative(path: str | Path, roots: Mapping[str, Path]) -> str | None:
    """The path with its root's name in front, as the rules have it; None: it is none of the device's."""
    text = str(path)
    for name, root in roots.items():
        if text == str(root):
            return name
        if text.startswith(f"{root}/"):
            return name + text[len(str(root)) :]
    return None
