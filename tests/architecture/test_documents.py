"""The documents say what is there: no more and no less."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.model import ContainerState, HealthState, Outcome, Phase
from tests.architecture.source import ROOT, name

GLOSSARY = ROOT / "docs/glossary.md"
MAP = ROOT / "docs/what-is-here.md"
ADRS = sorted((ROOT / "docs/adr").glob("*.md"))
HEADINGS = ["## Context", "## Decision", "## What it costs"]


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}$\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section '{heading}'"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_reason_code_is_explained_once() -> None:
    table = rows(section(GLOSSARY.read_text(encoding="utf-8"), "Reason codes"))
    codes = [cells[0].strip("`") for cells in table]
    assert codes == [reason.value for reason in Reason], (
        "same codes, in the order of reference/core/errors.py"
    )
    assert all(len(cells) == 3 and all(cells) for cells in table), "code, meaning, what to do"


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("Phases", Phase),
        ("Outcomes", Outcome),
        ("Job statuses", JobStatus),
        ("Container states", ContainerState),
        ("Health states", HealthState),
    ],
)
def test_stored_words_are_explained(heading: str, words: type[StrEnum]) -> None:
    table = rows(section(GLOSSARY.read_text(encoding="utf-8"), heading))
    assert [cells[0].strip("`") for cells in table] == [word.value for word in words]


def test_the_map_names_every_package() -> None:
    text = MAP.read_text(encoding="utf-8")
    roots = (ROOT / "reference", ROOT / "chaos")
    packages = [p.parent for root in roots for p in root.rglob("__init__.py") if p.parent not in roots]
    missing = [f"{name(p)}/" for p in sorted(packages) if f"`{name(p)}/`" not in text]
    assert not missing, f"docs/what-is-here.md does not name {missing}"


def test_the_map_names_only_what_exists() -> None:
    named = re.findall(r"^\| `([^`*]+)`", MAP.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 20
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, f"docs/what-is-here.md names {missing}"


@pytest.mark.parametrize("path", ADRS, ids=name)
def test_a_decision_has_its_parts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    number = path.name[:4]
    assert text.startswith(f"# {int(number)}. "), "the title repeats the number"
    assert re.findall(r"^## .*$", text, re.MULTILINE)[:3] == HEADINGS


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [path.name[:4] for path in ADRS] == [f"{n:04}" for n in range(1, len(ADRS) + 1)]


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{name(path)} -> {target}"
        for path in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists()
    ]
    assert not broken
