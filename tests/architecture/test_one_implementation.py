"""Service, edge, model world and search share one implementation of the rules: nobody else moves a job or a record."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.source import ROOT, name, python_files

MOVING = frozenset({
    "status", "phase", "outcome", "reason", "late_outcome", "superseded_by", "floor", "epoch", "sequence", "outbox",
    "finished", "early_cancel", "queued", "job", "cancel", "boots", "attempts", "duty", "candidate_id", "current",
    "previous", "probation_left_ms", "issued", "reported", "replaced",
})  # fmt: skip
"""Fields of Job, Report, UpdateRecord, Memory and ClientState: whoever changes one has a rule of his own."""
ALLOWED = {
    "reference/world/machine.py": "numbers that only name an order are made the lowest ones, so that states merge",
    "reference/world/state.py": "the same, for the reports of a device",
    "reference/world/nouns.py": "limits, which have a field of the same name",
    "reference/service/records.py": "compares two jobs without what only orders their reports",
    "reference/demo/judge.py": "a verdict on a story, which has an outcome and a reason of its own",
    "reference/power/lane.py": "the plan of a cut, which has a phase",
}
EDGE = {
    "decide", "advance", "remind", "receive", "reject", "receive_cancel", "receive_birth_answer",
    "receive_acknowledgement", "to_send", "adopted", "outdated",
}  # fmt: skip
SERVICE = {
    "birth", "ingest", "orphaned", "birth_floor", "next_generation", "resend_after_ms", "command_pending",
    "heard_silence_ms", "overdue", "overtaken", "superseded", "canceled",
}  # fmt: skip
"""The rules of each side."""


def moved(code: str) -> list[str]:
    """Every `replace(...)` or `_replace(...)` that changes a field which a rule owns, as `line N: field`."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "replace":
            found += [f"line {node.lineno}: {k.arg}" for k in node.keywords if k.arg in MOVING]
    return found


def others() -> list[Path]:
    """All modules that are not the rules themselves, nor the table that takes them away one by one."""
    own = ("reference/core/", "reference/world/mutants/", "reference/world/search/mutants")
    return [p for p in python_files("reference", "simulator", "chaos") if not name(p).startswith(own)]


def test_nobody_else_moves_what_a_rule_owns() -> None:
    found = {name(p): moved(p.read_text(encoding="utf-8")) for p in others()}
    found = {path: lines for path, lines in found.items() if lines}
    assert {p: lines for p, lines in found.items() if p not in ALLOWED} == {}
    assert set(found) == set(ALLOWED), "an exception that nobody needs any more goes"


@pytest.mark.parametrize(
    "code",
    [
        "replace(job, status=1)",
        "dataclasses.replace(record, floor=3, x=1)",
        "f(replace(memory, outbox=()))",
    ],
)
def test_a_rule_of_its_own_is_seen(code: str) -> None:
    assert len(moved(code)) == 1
    assert moved("replace(job, title=1); other(job, status=1)") == []


def called(*folders: str) -> set[str]:
    """Names of the rules that modules of these folders take from the core, by import or as an attribute of a module."""
    found: set[str] = set()
    for path in python_files(*folders):
        if "mutants" in name(path):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reference.core"):
                found |= {alias.name for alias in node.names}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found |= {node.attr} if node.value.id in ("delivery", "jobs", "job") else set()
    return found


def test_each_side_calls_the_rules_and_so_does_the_model() -> None:
    assert called("reference/edge") >= EDGE
    assert called("reference/service") >= SERVICE
    # Nothing is signed in the model, and no time passes between two sends.
    assert called("reference/world") >= (EDGE | SERVICE) - {"reject", "resend_after_ms", "heard_silence_ms"}


def test_the_rules_are_where_they_are_said_to_be() -> None:
    defined = {
        node.name
        for path in python_files("reference/core")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert defined >= EDGE | SERVICE
    assert (ROOT / "reference/core/delivery.py").is_file()
