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


def samples_of(path: Path) -> Samples:
    """Read the client's file: sequence numbers rise by one from line to line, over every restart."""
    first = last = None
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return Samples(None, None, 1)
    for number, line in enumerate(lines, start=1):
        if number == len(lines):
            continue  # After the last newline: empty, or being written now.
        try:
            sequence = int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            return Samples(first, last, number)
        if last is not None and sequence != last + 1:
            return Samples(first, last, number)
        first, last = sequence if first is None else first, sequence
    return Samples(first, last, None if last is not None else 1)
