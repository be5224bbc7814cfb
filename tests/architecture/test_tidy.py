"""Rooms small enough to know, and nothing left for later."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.architecture.source import PRODUCT, ROOT, committed_files, imports, name, python_files, text_of

LINES = 500
SPECIFICATION_LINES = 400
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")

SHIPPED = python_files(*PRODUCT)
ALL = python_files(*PRODUCT, "simulator", "loadtests", "benchmarks", "tools", "tests")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_is_something_to_check() -> None:
    assert len(SHIPPED) > 20
    assert Path(__file__).resolve() in ALL


def test_files_are_short_enough_to_know() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL}
    long = {path: n for path, n in lines.items() if n >= LINES}
    assert not long, f"split by what they know: {long}"


def test_every_module_says_what_it_is_for() -> None:
    silent = [name(path) for path in SHIPPED if not ast.get_docstring(_tree(path))]
    assert not silent, f"no docstring: {silent}"


def test_the_updater_reads_as_its_specification() -> None:
    path = ROOT / "reference/core/update.py"
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < SPECIFICATION_LINES, f"{name(path)} has {lines} lines"
    foreign = [
        imported
        for _, imported in imports(_tree(path))
        if imported.split(".")[0] not in sys.stdlib_module_names
        and not imported.startswith("reference.core.")
    ]
    assert not foreign, f"{name(path)} imports {foreign}"


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in committed_files()
        if (text := text_of(path)) is not None and path.name != "requirements.lock"
        for number, line in enumerate(text.splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found, "\n".join(found)


PLUGIN = {ROOT / "chaos/pytest_plugin.py", ROOT / "blackstart/pytest_plugin.py"}
"""For whoever has pytest: nothing else that ships knows of it."""


def test_nothing_that_ships_imports_a_test() -> None:
    found = _importing(SHIPPED, lambda root: root in ("tests", "pytest", "hypothesis", "conftest"))
    found = [said for said in found if not any(said.startswith(f"{name(path)}:") for path in PLUGIN)]
    assert not found, "\n".join(found)
    of_the_plugin = _importing(sorted(PLUGIN), lambda root: root in ("tests", "hypothesis", "conftest"))
    assert not of_the_plugin, "\n".join(of_the_plugin)


APP = ROOT / "reference/client/app"
"""Goes into images: runs under the agent's interpreter, with nothing installed beside it."""


def test_the_workload_needs_nothing_but_the_standard_library() -> None:
    files = sorted(APP.rglob("*.py"))
    assert files
    known = sys.stdlib_module_names | {path.stem for path in files}
    found = _importing(files, lambda root: root not in known)
    assert not found, "\n".join(found)


def _importing(paths: list[Path], wrong: Callable[[str], bool]) -> list[str]:
    return [
        f"{name(path)}:{line}: imports {imported}"
        for path in paths
        for line, imported in imports(_tree(path))
        if wrong(imported.lstrip(".").split(".")[0])
    ]
