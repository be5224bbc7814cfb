"""The project's own files, and their imports."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("reference", "blackstart", "chaos")


def python_files(*folders: str) -> list[Path]:
    """All modules below folders of the project, sorted; a folder that is not there yet has none."""
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py") if p.is_file())


def name(path: Path) -> str:
    """The path from the project's root, for messages and test ids."""
    return path.relative_to(ROOT).as_posix()


def committed_files() -> list[Path]:
    """What git tracks or would track. Skips the test when this is no git checkout (an unpacked sdist)."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    # The files may belong to somebody else than the one who runs the tests, as on a CI machine.
    listed = subprocess.run(
        [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True, timeout=30,
    ).stdout  # fmt: skip
    return [path for entry in listed.split("\0") if entry and (path := ROOT / entry).is_file()]


def text_of(path: Path) -> str | None:
    """The content, None for what is not text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, wherever it stands; `.` in front marks a relative import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
