"""Rooms small enough to know, and nothing left for later."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.architecture.source import PRODUCT, ROOT, committed_files, imports, name, python_files, text_of

LINES = 500
SPECIFICATION_LINES = 400
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")

SHIPPED = python_files(*PRODUCT)
ALL = python_files(*PRODUCT, "simulator", "chaos", "loadtests", "benchmarks", "tools", "tests")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_is_something_to_check() -> None:
    assert len(SHIPPED) > 20
    assert Path(__file__).resolve() in ALL


@pytest.mark.parametrize("path", ALL, ids=name)
def test_a_file_is_short_enough_to_know(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < LINES, f"{name(path)} has {lines} lines: split it by what it knows"


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), f"{name(path)} has no docstring"


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


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_nothing_that_ships_imports_a_test(path: Path) -> None:
    found = [
        i for _, i in imports(_tree(path)) if i.split(".")[0] in ("tests", "pytest", "hypothesis", "conftest")
    ]
    assert not found, f"{name(path)} imports {found}"


APP = "reference/client/app"
"""Goes into images: runs under the agent's interpreter, with nothing installed beside it."""


@pytest.mark.parametrize("path", python_files(APP), ids=name)
def test_the_workload_needs_nothing_but_the_standard_library(path: Path) -> None:
    siblings = {p.stem for p in (ROOT / APP).iterdir()}
    found = [
        imported
        for _, imported in imports(_tree(path))
        if imported.lstrip(".").split(".")[0] not in sys.stdlib_module_names | siblings
    ]
    assert not found, f"{name(path)} imports {found}"
