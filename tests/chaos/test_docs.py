"""docs/chaos.md says what is there: its tables are the code's, its scenarios and commands are right, its fault is one."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from chaos.faults import all_faults, base
from chaos.load import problems, problems_in
from chaos.proxies.mqtt.way import _Event
from chaos.scenario.model import Bench, Expect, FaultUse, Happening, Invariant, Scenario, SteadyProbe
from reference.cli.chaos import app
from reference.core.model import Phase
from tests.chaos.planted import DEFECTS
from tools.documents import DOCS, DOCUMENTS, ROOT

PAGE = (DOCS / "chaos.md").read_text(encoding="utf-8")
SOURCES = ("run", "action", "fault", "probe", "processes", "image", "samples", "containers", "phase", "journal", "refusals", "tap",
           "api", "front", "power", "hostile")  # fmt: skip
"""In the order in which the page has them."""
NAMED_ELSEWHERE = [
    *(("tap", event) for event in typing.get_args(_Event)), ("action", "hold"), ("action", "release"),
    ("api", "reachable"), ("api", "unreachable"),
]  # fmt: skip
"""Events whose name is no literal where they are recorded."""


def section(heading: str) -> str:
    """What stands below a heading, down to the next one of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(
        rf"^{re.escape(heading)}$\n(.*?)(?=^#{{2,{len(level)}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"no section {heading!r}"
    return found.group(1)


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    lines = text[text.index(head) :].splitlines()[2:]
    table = lines[: next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def firsts(text: str, head: str) -> list[str]:
    return [cells[0].strip("`") for cells in rows(text, head)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_faults_page_is_made_from_the_code() -> None:
    kept = (DOCS / "chaos-faults.md").read_text(encoding="utf-8")
    assert kept == DOCUMENTS["chaos-faults.md"](), "run: python -m tools.documents"


def test_the_planted_defects_are_those_of_the_switch_table() -> None:
    found = rows(section("## Does the harness notice?"), "| defect |")
    assert found == [
        [f"`{d.name}`", d.part, d.what, f"[{d.scenario}](../scenarios/{d.scenario}.yaml)"] for d in DEFECTS
    ]
    assert len(found) >= 15


def test_what_can_be_expected_is_all_there_with_its_usual_value() -> None:
    table = rows(section("### Expect"), "| key |")
    assert [cells[0].strip("`") for cells in table] == [f.alias or n for n, f in Expect.model_fields.items()]
    usual = {cells[0].strip("`"): cells[1].strip("`") for cells in table}
    shown = Expect().model_dump(mode="json", by_alias=True)
    said = {"converges": shown["converges"], "samples-lost": "0", "most-at-once": "1", "untouched": "false"}
    assert {key: usual[key] for key in said} == said


def test_keys_and_words_are_the_models() -> None:
    text = section("## A scenario")
    named = [name for cells in rows(text, "| key |") for name in re.findall(r"`([^`]+)`", cells[0])]
    assert named == [f.alias or n for n, f in Scenario.model_fields.items()], "in the order of the model"
    bench = [name for cells in rows(section("### Bench"), "| key |") for name in re.findall(r"`([^`]+)`", cells[0])]  # fmt: skip
    assert sorted(bench) == sorted(f.alias or n for n, f in Bench.model_fields.items())
    assert firsts(section("### When"), "| event |") == [happening.value for happening in Happening]
    assert firsts(section("### Expect"), "| invariant |") == [invariant.value for invariant in Invariant]
    assert [p for p in SteadyProbe if f"`{p}`" not in text] == []
    assert [p for p in Phase if p is not Phase.IDLE and f"`{p.value}`" not in section("### When")] == []


def test_the_history_is_told_with_every_event_that_is_written() -> None:
    told = {
        cells[0].strip("`"): set(re.findall(r"`([a-z-]+)`(?! is the service)", cells[1]))
        for cells in rows(section("## The history"), "| source |")
    }
    assert tuple(told) == SOURCES
    written: dict[str, set[str]] = {source: set() for source in SOURCES}
    for source, event in [*_recorded(), *NAMED_ELSEWHERE]:
        written[source].add(event)
    missing = {s: events - told[s] for s, events in written.items() if events - told[s]}
    assert not missing, f"docs/chaos.md does not tell of {missing}"
    unknown = {s: events - written[s] for s, events in told.items() if events - written[s]}
    assert not unknown, f"docs/chaos.md tells of what nobody writes: {unknown}"


def _recorded() -> Iterator[tuple[str, str]]:
    """Source and event of every call of a recorder in the harness that names both."""
    for path in sorted((ROOT / "chaos").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            words = [
                a.value for a in call.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
            if name == "_record" and path.parent.name == "power" and words:
                yield "power", words[0]
            elif name == "record" and len(words) == 2:
                yield words[0], words[1]


def test_its_scenarios_can_be_played() -> None:
    whole = [text for text in blocks("yaml") if "title:" in text]
    assert len(whole) >= 2
    for text in whole:
        assert problems_in(text.encode(), Path("my-scenario.yaml")) == []


def test_its_commands_and_options_are_there() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined] # a group
    text = PAGE.replace("\\\n", " ")
    named = set(re.findall(r"blackstart chaos ([a-z]+)", text))
    assert named - {"run", "chaos"} and not named - commands.keys(), named - commands.keys()
    for line in re.findall(r"blackstart chaos [^`\n]+", text):
        known = {option for p in commands[line.split()[2]].params for option in p.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= known, line
    every = {option for command in commands.values() for p in command.params for option in p.opts}
    assert set(re.findall(r"`(--[a-z][a-z-]*)", text)) - every == set(), "options that no command has"


def test_its_fault_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    all_faults()
    monkeypatch.setattr(base, "_FAULTS", dict(base._FAULTS))
    (code,) = blocks("python")
    assert len(code.splitlines()) <= 60
    file = tmp_path / "thrown_out.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("thrown_out", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "thrown_out", module)
    spec.loader.exec_module(module)
    made = base.registered()["thrown-out"]
    assert made is module.ThrownOut
    assert not getattr(made, "__abstractmethods__", None), "nothing of the port is left out"
    use = FaultUse.model_validate({"fault": "thrown-out", "with": {"times": 2}})
    assert base.checked(made, use).model_dump() == {"times": 2}


def test_what_new_writes_and_what_validate_says_is_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.replace("\\\n", " ")
    (order,) = re.findall(r"^\$ blackstart chaos (new .+)$", text, re.MULTILINE)
    made = CliRunner().invoke(app, shlex.split(order))
    assert made.exit_code == 0, made.output
    file = Path("my/broker-dies-mid-layer.yaml")
    assert problems(file) == []
    assert f"Play it: blackstart chaos run {file}" in made.output
    shown = blocks("yaml")[0]
    assert problems_in(shown.encode(), file) == []
    typo = (
        shown.replace("killed", "kiled").replace("outcome:", "outcom:").replace("downtime: 3s", "downtime: 3")
    )
    Path("my/typo.yaml").write_text(typo, encoding="utf-8")
    said = CliRunner().invoke(app, ["validate", "my/typo.yaml"])
    assert said.exit_code == 2
    assert f"$ blackstart chaos validate my/typo.yaml\n{said.stdout}```" in PAGE


def test_the_readme_leads_here() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/chaos.md)" in text
    assert f"{len(all_faults())} faults" in text
