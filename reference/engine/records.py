"""What is noted about an engine that is up, for whoever comes later: a small file beside its socket."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reference.engine.leftovers import started
from reference.engine.links import Bridge
from reference.engine.places import RUN, Places
from reference.support.files import write_durably


def namespace(kind: str, process: int | str = "self") -> str:
    """Names the `net` or `pid` namespace that this process, or another one, is in."""
    return os.readlink(f"/proc/{process}/ns/{kind}")  # noqa: PTH115 (it names nothing in a folder)


@dataclass(frozen=True, slots=True)
class Record:
    """Which part of the addresses it has, in which namespaces, and who takes it down."""

    folder: Path
    bridge: Bridge
    network: str
    """The network namespace of its links."""
    pids: str
    """The pid namespace in which its owner's number means something."""
    owner: tuple[int, int] | None
    """Process id and start of its owner; None when it is meant to outlive whoever started it."""

    @classmethod
    def made(cls, folder: Path, bridge: Bridge, owner: int | None) -> Record:
        """That of an engine that is about to start."""
        began = (owner, started(owner) or 0) if owner is not None else None
        return cls(folder, bridge, namespace("net"), namespace("pid"), began)

    @property
    def abandoned(self) -> bool:
        """Whether its owner is gone and nobody will take it down. One in another pid namespace is not ours to judge."""
        if self.owner is None or self.pids != namespace("pid"):
            return False
        try:
            return started(self.owner[0]) != self.owner[1]
        except OSError:  # No file left to look with: not a sign that anybody is gone.
            return False

    @property
    def here(self) -> bool:
        """Whether its links are in our network namespace."""
        return self.network == namespace("net")

    def is_lived_in(self, but: set[int]) -> bool:
        """Whether there is anybody `but` these processes in the network namespace of its links."""
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
            with contextlib.suppress(OSError):
                if pid not in but and namespace("net", pid) == self.network:
                    return True
        return False


def write(places: Places, record: Record) -> None:
    """Note it. Raises OSError."""
    noted = {
        "folder": str(record.folder), "part": record.bridge.part, "network": record.network,
        "pids": record.pids, "owner": record.owner, "socket": str(places.socket),
    }  # fmt: skip
    write_durably(places.record, json.dumps(noted, indent=1).encode(), 0o644)


def read(places: Places) -> Record | None:
    """What is noted; None when nothing is, or nothing that can be read."""
    try:
        noted = json.loads(places.record.read_bytes())
        owner = noted["owner"]
        return Record(
            Path(noted["folder"]),
            Bridge(int(noted["part"])),
            str(noted["network"]),
            str(noted["pids"]),
            (int(owner[0]), int(owner[1])) if owner is not None else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def all_of_them() -> Iterator[tuple[Places, Record]]:
    """Every engine that is up, or was when its owner was killed."""
    for path in sorted(RUN.glob("*/engine.json")):
        places = Places(Path(), path.parent, path.parent.name)
        if (record := read(places)) is not None:
            yield Places(record.folder, path.parent, path.parent.name), record
