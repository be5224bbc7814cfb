"""What the client has collected on its volume: a sequence without a gap, whatever happened to its versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Samples:
    """The sequence on the volume. `broken_at`: the first line (1 is the first) that does not follow."""

    first: int | None
    last: int | None
    broken_at: int | None
    lost: int = 0
    """Samples that are missing, and lines that are torn or repeat one."""


def samples_of(path: Path) -> Samples:
    """Read the client's file: sequence numbers rise by one from line to line, over every restart."""
    first: int | None = None
    last: int | None = None
    broken_at: int | None = None
    lost = 0
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return Samples(None, None, 1)
    # After the last newline: empty, or being written now.
    for number, line in enumerate(lines[:-1], start=1):
        sequence = _sequence(line)
        if sequence is not None and last is not None and sequence > last:
            wrong = sequence - last - 1
        else:
            wrong = int(sequence is None or last is not None)
        lost += wrong
        if wrong and broken_at is None:
            broken_at = number
        if sequence is not None:
            first, last = sequence if first is None else first, max(sequence, last or sequence)
    return Samples(first, last, broken_at if last is not None else 1, lost)


def _sequence(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["seq"])
    except (ValueError, KeyError, TypeError):
        return None
