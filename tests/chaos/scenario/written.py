"""Scenario files for tests, written into a folder."""

from __future__ import annotations

import textwrap
from pathlib import Path

GOOD = """
title: The registry stands still
method:
  - action: update
    to: 2.0.0
expect:
  outcome: succeeded
"""


def write(folder: Path, text: str, name: str = "story.yaml") -> Path:
    """A file with this text, without what it is indented by in the test."""
    path = folder / name
    path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return path


def line_of(path: Path, part: str) -> int:
    """The only line that has this in it."""
    found = [n for n, line in enumerate(path.read_text("utf-8").splitlines(), 1) if part in line]
    assert len(found) == 1, f"{part!r} is in lines {found}"
    return found[0]
