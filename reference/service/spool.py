"""Statuses that the database could not take, in a file until it can: an outage costs no word of a device.

A line for each: what arrived and where. It is durable when `keep` returns. The device was not answered and keeps its
report too; whichever comes first is stored, and the other changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reference.support.files import fsync_dir

log = logging.getLogger(__name__)
NAME = "spooled-statuses.jsonl"


@dataclass(frozen=True, slots=True)
class Spooled:
    """A message as it came."""

    topic: str
    payload: bytes


class Spool:
    """Blocking calls; one thread at a time."""

    def __init__(self, folder: Path | None, most: int) -> None:
        self._path = None if folder is None else folder / NAME
        self._most = most
        self._known: set[tuple[str, bytes]] = set()
        for one in self.waiting():
            self._known.add((one.topic, one.payload))

    def __len__(self) -> int:
        return len(self._known)

    def keep(self, message: Spooled) -> bool:
        """Whether it is kept, durably: not when there is no folder, the disk refuses, or too many are."""
        key = (message.topic, message.payload)
        if key in self._known:
            return True
        if self._path is None or len(self._known) >= self._most:
            return False
        line = json.dumps({"topic": message.topic, "payload": base64.b64encode(message.payload).decode()})
        new = not self._path.exists()
        try:
            with open(self._path, "ab", opener=_private) as file:
                # A line that a cut left half is closed first.
                file.write(b"\n" + line.encode() + b"\n" if not new else line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                fsync_dir(self._path.parent)
        except OSError as error:
            log.error("a status could not be spooled", extra={"file": str(self._path), "why": str(error)})
            return False
        self._known.add(key)
        return True

    def waiting(self) -> list[Spooled]:
        """All that is kept, in the order in which it came. Lines that a cut left half are passed over."""
        if self._path is None:
            return []
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.error("the spool cannot be read", extra={"file": str(self._path), "why": str(error)})
            return []
        found = []
        for line in lines:
            try:
                said = json.loads(line)
                found.append(Spooled(str(said["topic"]), base64.b64decode(said["payload"], validate=True)))
            except (ValueError, KeyError, TypeError, binascii.Error):
                continue
        return found

    def forget(self, stored: Sequence[Spooled]) -> None:
        """These are in the database. The file goes with the last one: a few that are stored again change nothing."""
        self._known.difference_update((one.topic, one.payload) for one in stored)
        if self._path is not None and stored and not self._known:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                log.error("the spool cannot be removed", extra={"file": str(self._path), "why": str(error)})


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
