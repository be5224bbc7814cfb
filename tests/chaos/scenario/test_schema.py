"""The schema for editors says what the loader says."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings

from chaos.dump import dump
from chaos.faults import all_faults
from chaos.lines import Plain, read
from chaos.load import load, problems
from chaos.scenario import Scenario
from chaos.schema import DRAFT, Json, schema
from tests.chaos.scenario.generated import scenarios
from tests.chaos.scenario.test_load import EXPECT, METHOD, WRONG
from tests.chaos.scenario.written import GOOD, write
from tools.documents import ELSEWHERE, ROOT

FILES = sorted((ROOT / "scenarios").glob("*.yaml"))


@cache
def validator() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema())


def plain(text: str) -> Plain:
    node, _ = read(text.encode(), "f.yaml")
    return node.plain() if node is not None else None


def complaints(text: str) -> list[str]:
    return [error.message for error in validator().iter_errors(plain(text))]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_committed_schema_is_what_the_code_says(name: str) -> None:
    kept = (ROOT / name).read_text(encoding="utf-8")
    assert kept == ELSEWHERE[name](), f"run: python -m tools.documents ({name})"


def test_it_is_a_schema() -> None:
    assert schema()["$schema"] == DRAFT
    jsonschema_rs.meta.validate(schema())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_scenario_there_is_is_valid_by_both(path: Path) -> None:
    assert complaints(path.read_text("utf-8")) == []
    assert list(map(str, problems(path))) == []


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 35


def test_each_names_the_schema_in_its_first_line() -> None:
    head = "# yaml-language-server: $schema=schema.json\n"
    other = [path.name for path in FILES if not path.read_text("utf-8").startswith(head)]
    assert not other


SEEN_BY_THE_LOADER_ALONE = (
    "is there twice", "network of its own", "does not bound", "there is no fault named", "there is no device",
    "is not before", "waits for itself", "is not in this scenario", "is never shown as", "needs `of`",
    "is no defect", "is no time in ms", "there is no defect", "too little", "is too long", "cannot happen", "sqlite is a file",
)  # fmt: skip
"""Names that refer to nothing, and what the bench cannot be."""
BAD = [
    *(f"{text}\n{GOOD.lstrip()}" for _, text, told in WRONG if not any(w in told for w in SEEN_BY_THE_LOADER_ALONE)),
    *(
        f"title: x\nmethod:\n  - action: update\n  {item}\n"
        for item, told in METHOD
        if not any(w in told for w in SEEN_BY_THE_LOADER_ALONE)
    ),
    *(
        f"title: x\nmethod:\n  - action: update\nexpect: {expect}\n"
        for expect, told in EXPECT
        if not any(w in told for w in SEEN_BY_THE_LOADER_ALONE)
    ),
    "seed: 1\n", "title: x\nmethod: []\n", "- 1\n", "title: x\ntitel: y\nmethod:\n  - action: update\n",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_the_loader_refuses_the_schema_refuses(tmp_path: Path, text: str) -> None:
    assert problems(write(tmp_path, text)), "the loader takes it"
    assert complaints(text), "the schema takes it"


@given(scenarios)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_the_loader_takes_the_schema_takes(scenario: Scenario) -> None:
    assert complaints(dump(scenario)) == []


@pytest.mark.parametrize("name", all_faults())
def test_each_fault_has_a_branch_of_its_own(name: str) -> None:
    made = schema()["$defs"]
    assert isinstance(made, dict)
    branch = made[f"fault-{name}"]
    fault = all_faults()[name]
    assert branch["properties"]["fault"] == {"const": name, "description": fault.about}
    assert ("link" in branch["properties"]) == bool(fault.links)
    assert ("for" in branch["properties"]) == fault.lasts
    taken = {field.alias or key for key, field in fault.params.model_fields.items()}
    assert set(branch["properties"]["with"].get("properties", {})) == taken
    silent = [key for key, value in _keys(branch) if not _said(value, made)]
    assert not silent, f"editors have nothing to say about {silent}: give them a docstring"


@pytest.mark.parametrize("name", all_faults())
def test_no_fault_takes_a_key_that_is_true_or_false_to_some(name: str) -> None:
    taken = {field.alias or key for key, field in all_faults()[name].params.model_fields.items()}
    assert not taken & {"yes", "no", "on", "off", "y", "n", "true", "false", "null"}


def _keys(branch: Json) -> Iterator[tuple[str, Json]]:
    for key, value in dict(branch["properties"]).items():  # type: ignore[call-overload]
        if key == "with":
            yield from value.get("properties", {}).items()
        elif key != "repeat":
            yield key, value


def _said(value: Json, made: Json) -> bool:
    target = made.get(str(value.get("$ref", "")).rpartition("/")[2], {})
    return bool(value.get("description") or (isinstance(target, dict) and target.get("description")))


def test_defaults_are_as_a_file_says_them(tmp_path: Path) -> None:
    properties = schema()["properties"]
    assert isinstance(properties, dict)
    assert properties["time-limit"]["default"] == "90s"
    for path, value in _defaults(schema()):
        assert isinstance(value, str | int | float | bool), path
    text = f"time-limit: {properties['time-limit']['default']}\n{GOOD.lstrip()}"
    assert load(write(tmp_path, text)) == load(write(tmp_path, GOOD, "other.yaml"))


def _defaults(part: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(part, dict):
        if "default" in part and ("type" in part or "anyOf" in part or "enum" in part):
            yield path, part["default"]
        for key, value in part.items():
            yield from _defaults(value, f"{path}/{key}")
    elif isinstance(part, list):
        for value in part:
            yield from _defaults(value, path)
