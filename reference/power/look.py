"""A look at a device's disk while nothing of the device runs. The journal is read in a copy: looking changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from reference.core.delivery import Memory
from reference.core.errors import EngineError, JournalError
from reference.core.model import Phase
from reference.edge.journal import HistoryEntry, Journal
from reference.edge.runtimes.containers import ContainerStore
from reference.edge.runtimes.images import ImageStore
from reference.power.judge import Stored, StoredContainer, StoredImage

Files = Mapping[str, str]
"""Path in an image -> SHA-256 of the file, in hex."""


def look(
    disk: Path, scratch: Path, images: Mapping[str, StoredImage], containers: Sequence[StoredContainer]
) -> Stored:
    """What lies on the mounted `disk`, with what its runtime keeps there. `scratch`: a folder outside it."""
    memory, history, trouble = _journal(disk / "state" / "journal.db", scratch)
    return Stored(memory, trouble, images, tuple(containers), _switched(history), _volume(disk / "data"))


def process_images(engine: Path, built: Mapping[str, Files]) -> dict[str, StoredImage]:
    """The process runtime's. `built`: digest -> what was put into it."""
    return {
        digest: StoredImage(
            claim, _as_built(engine / "images" / digest.partition(":")[2], built.get(digest, {}))
        )
        for digest, claim in ImageStore(engine).states().items()
    }


def files_of(root: Path) -> Files:
    """Every file below `root`."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _as_built(image: Path, built: Files) -> bool:
    return bool(built) and files_of(image / "rootfs") == built


def _journal(path: Path, scratch: Path) -> tuple[Memory | None, list[HistoryEntry], str]:
    """Its memory and history, checksums and all; or why it cannot be believed."""
    copy = scratch / "journal.db"
    for part in ("", "-wal", "-journal"):
        Path(f"{copy}{part}").unlink(missing_ok=True)
        if Path(f"{path}{part}").exists():
            shutil.copyfile(f"{path}{part}", f"{copy}{part}")
    try:
        with closing(Journal.open(copy)) as journal:
            return journal.memory, journal.history(), ""
    except JournalError as error:
        return None, [], str(error)


def _switched(history: list[HistoryEntry]) -> tuple[int, ...]:
    """Generations that began a switch; a boot in the middle of one is no new one."""
    found, before = [], Phase.IDLE
    for entry in history:
        if entry.phase is Phase.SWITCHING and before is not Phase.SWITCHING and entry.generation is not None:
            found.append(entry.generation)
        before = entry.phase
    return tuple(found)


def process_containers(engine: Path, scratch: Path) -> list[StoredContainer]:
    """The process runtime's."""
    store, found = ContainerStore(engine, scratch / "no-run"), []
    for name in store.ids():
        try:
            spec = store.spec(name)
            found.append(StoredContainer(name, spec.generation, spec.image.digest))
        except EngineError:
            found.append(StoredContainer(name, 0, None))
    return found


def _volume(data: Path) -> str:
    """What is wrong with the samples: each number once, in order. What is torn at the end is the client's to repair."""
    try:
        if (data / "format").exists():
            return f"its format is {(data / 'format').read_text('ascii', 'replace').strip()!r}"
        lines = (data / "samples.log").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return "there is none"
    for number, text in enumerate(lines, 1):
        try:
            seq = json.loads(text)["seq"]
        except (ValueError, KeyError, TypeError):
            return f"line {number} of {len(lines)} cannot be read"
        if seq != number:
            return f"line {number} of {len(lines)} holds the sample {seq}"
    return ""
