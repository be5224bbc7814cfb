"""A walk over the registry: each fault is told of, used by a scenario, and shown to fire by a test; every promise has a scenario."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

import chaos.faults
from chaos.faults import all_faults
from chaos.faults.base import Family, Fault, Params
from chaos.load import SHIPPED, load, name_of, problems, scenario_files
from chaos.scenario import Scenario
from tools.documents import DOCS

HERE = Path(__file__).parent
FAULTS = sorted(all_faults())
FILES = scenario_files([SHIPPED])
MOST_LINES = 120
LONGER = {
    "descriptors-gone": 130,
    "device-certificate-expired": 160,
    "engine-restarted": 150,
    "foreign-certificate": 135,
    "registry-tag-moved": 125,
}
"""Those that take more to do one thing, undo it and prove it. Nothing is added to them."""
ERROR_ROWS: Mapping[str, tuple[str, ...]] = {
    "step 4: the publish fails for a while": ("service-cut-off-from-broker",),
    "step 5: the client is offline when it is commanded": ("device-off",),
    "step 5: the command is lost on the way": ("mqtt-drop",),
    "step 7: the credentials are wrong": ("registry-unauthorized",),
    "step 7: the image may not be had": ("registry-forbidden",),
    "step 8: the pull fails, no connection": ("network-down-registry",),
    "step 8: the pull fails, an error of the registry": ("registry-error",),
    "step 8: the image is unknown": ("registry-not-found", "unknown-digest"),
    "step 8: what arrives is not what was ordered": ("registry-corrupted", "registry-truncated"),
    "step 9: the new version does not start": ("crash-on-start",),
    "step 9: the very first install fails": ("first-install-fails",),
    "step 10: the new version is sick": ("never-healthy",),
    "step 10: the new version turns sick in its window": ("dies-in-window",),
    "step 11: a status is lost on the way": ("mqtt-drop-statuses",),
    "step 11: the broker is down": ("broker-killed",),
    "step 11: the certificate is no good": ("device-certificate-expired", "foreign-certificate"),
    "step 13: the database is down": ("database-down",),
    "step 13: the database cannot be reached": ("service-cut-off-from-database",),
    "step 14: the service dies after its 202": ("service-killed",),
    "rule: the updater dies at every phase": ("agent-killed-at-every-phase",),
    "rule: the power fails in the middle of a pull": ("power-cut-mid-pull",),
    "rule: the power fails at pulling": ("power-cut-pulling",),
    "rule: the power fails at staged": ("power-cut-staged",),
    "rule: the power fails at switching": ("power-cut-switching",),
    "rule: the power fails at verifying": ("power-cut-verifying",),
    "rule: the power fails at committing": ("power-cut-committing",),
    "rule: the power fails at rolling_back": ("power-cut-rolling-back",),
    "rule: the power fails at cleaning_up": ("power-cut-cleaning-up",),
    "rule: the power fails again in the recovery": ("power-cut-twice",),
    "rule: the same command comes twice": ("mqtt-double", "command-replayed"),
    "rule: a stranger commands": ("command-forged",),
}
"""What may go wrong in the specified sequence, and the scenarios that play it."""
COMPLAINTS = (*range(3, 13), 16)
"""Of the users of other updaters, as docs/chaos.md numbers them: one scenario at least says that it keeps each honest."""


@cache
def scenarios() -> Mapping[str, Scenario]:
    return {name_of(path): load(path) for path in FILES}


# ---- each fault


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_a_file_of_its_own_and_says_what_it_is(name: str) -> None:
    fault = all_faults()[name]
    assert fault.__module__ == f"chaos.faults.{name.replace('-', '_')}"
    file = Path(chaos.faults.__path__[0]) / f"{name.replace('-', '_')}.py"
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines < LONGER.get(name, MOST_LINES), "one thing, its undoing, its proof"
    assert isinstance(fault.family, Family)
    assert fault.about.endswith("."), "a sentence"
    assert fault.shown_by, "what proves that it fired"
    assert not fault.shown_by.endswith(".")
    assert issubclass(fault.params, Params)
    undocumented = [n for n, f in fault.params.model_fields.items() if not f.description]
    assert not undocumented, f"parameters without a docstring: {undocumented}"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_a_row_in_the_documentation(name: str) -> None:
    text = (DOCS / "chaos-faults.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
    fault = all_faults()[name]
    heading = text[: text.index(row)].rpartition("\n## ")[2].splitlines()[0]
    assert heading == fault.family.value
    assert fault.about in row
    assert fault.shown_by in row


@pytest.mark.parametrize("name", FAULTS)
def test_a_scenario_uses_the_fault(name: str) -> None:
    using = [n for n, scenario in scenarios().items() if name in {use.fault for use in scenario.faults}]
    assert using, f"no file in scenarios/ has `fault: {name}`"


@pytest.mark.parametrize("name", FAULTS)
def test_a_test_shows_that_the_fault_fires(name: str) -> None:
    found = [test.name for test in fault_tests() if test.shows_firing and test.speaks_of(name)]
    assert found, f"no test in tests/chaos/faults asserts what `fired()` of {name} says"


# ---- each scenario


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_scenario_can_be_played_and_says_what_it_proves(path: Path) -> None:
    assert problems(path) == []
    scenario = load(path)
    assert scenario.proves, "what promise does it keep honest?"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


def test_there_are_enough() -> None:
    assert len(FILES) >= 35


@pytest.mark.parametrize("row", ERROR_ROWS)
def test_every_error_that_is_specified_is_played(row: str) -> None:
    wanted = ERROR_ROWS[row]
    assert [name for name in wanted if name not in scenarios()] == []


@pytest.mark.parametrize("number", COMPLAINTS)
def test_every_complaint_about_others_is_kept_honest(number: int) -> None:
    naming = [n for n, scenario in scenarios().items() if number in complaints_in(scenario.proves)]
    assert naming, f"no scenario's `proves` says Complaint {number}"


def complaints_in(proves: str) -> set[int]:
    """`Complaint 5: ...`, `complaint 11 and rule: ...`."""
    return {int(number) for number in re.findall(r"\bcomplaint (\d+)\b", proves, re.IGNORECASE)}


# ---- what the tests of the faults say, read and not run


@dataclass
class FaultTest:
    """One test function of tests/chaos/faults."""

    name: str
    words: set[str]
    """Every string in it, in its decorators, in the module's constants that it names, and in the helpers it calls."""
    patterns: list[str]
    """Its f-strings with a `*` for what is filled in."""
    shows_firing: bool

    def speaks_of(self, fault: str) -> bool:
        """By name, or by an f-string whose gap a word of it fills."""
        if fault in self.words:
            return True
        found = (re.fullmatch(re.escape(p).replace(r"\*", "(.+)"), fault) for p in self.patterns if "*" in p and p != "*")  # fmt: skip
        return any(match is not None and set(match.groups()) <= self.words for match in found)


@dataclass
class _Module:
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)


@cache
def fault_tests() -> list[FaultTest]:
    return [test for path in sorted((HERE / "faults").glob("test_*.py")) for test in _tests_in(path)]


def _tests_in(path: Path) -> Iterator[FaultTest]:
    module = _Module()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            module.functions[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            module.constants[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            module.constants[node.target.id] = node.value
    for name, function in module.functions.items():
        if name.startswith("test_"):
            nodes = [n for part in _with_helpers(function, module) for n in ast.walk(part)]
            words = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            patterns = [_pattern(n) for n in nodes if isinstance(n, ast.JoinedStr)]
            yield FaultTest(name, words, patterns, _asserts_firing(function, module))


def _pattern(text: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in text.values)


def _with_helpers(function: ast.AST, module: _Module) -> list[ast.AST]:
    """The function, the constants of its module that it names, and the helpers that it calls, with those that they call."""
    seen: dict[str, ast.AST] = {}
    todo = [function]
    while todo:
        at = todo.pop()
        for node in ast.walk(at):
            if not isinstance(node, ast.Name) or node.id in seen or node.id.startswith("test_"):
                continue
            if (helper := module.functions.get(node.id)) is not None:
                seen[node.id] = helper
                todo.append(helper)
            elif at is function and (constant := module.constants.get(node.id)) is not None:
                seen[node.id] = constant
    return [function, *seen.values()]


def _asserts_firing(function: ast.AST, module: _Module) -> bool:
    """Whether something is asserted of what `fired()` answered, other than that it is empty."""
    bodies = [node for node in _with_helpers(function, module) if not isinstance(node, ast.expr)]
    tellers = {f.name for f in module.functions.values() if _asks(f, set())} | {"shown"}
    for body in bodies:
        told: set[str] = set()
        nodes = list(ast.walk(body))
        for _ in range(2):  # a name of a name
            for node in nodes:
                if isinstance(node, ast.Assign) and _asks(node.value, tellers | told):
                    told |= {
                        n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)
                    }
                if isinstance(node, ast.NamedExpr) and _asks(node.value, tellers | told):
                    told.add(node.target.id)
        if any(
            isinstance(n, ast.Assert) and _asks(n.test, tellers | told) and not _empty(n.test) for n in nodes
        ):
            return True
    return False


def _asks(node: ast.AST, known: set[str]) -> bool:
    """Whether `.fired` is in it, or a name that stands for its answer."""
    return any(
        (isinstance(n, ast.Attribute) and n.attr == "fired") or (isinstance(n, ast.Name) and n.id in known)
        for n in ast.walk(node)
    )


def _empty(test: ast.expr) -> bool:
    """`... == ""`, `not ...`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return True
    return (
        isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq)
        and isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value == ""
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "shows"),
    [
        ('assert "gone" in await one.fired()', True),
        ("said = await one.fired()\n    assert said.count('x') == 2", True),
        ("assert all([await one.fired() for one in faults])", True),
        ("assert await one.fired() != ''", True),
        ("assert await one.fired() == ''", False),
        ("assert not await one.fired()", False),
        ("await one.fired()\n    assert one", False),
        ("await one.heal()", False),
    ],
)
def test_the_walk_tells_a_proof_from_a_look(tmp_path: Path, body: str, shows: bool) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(f"async def test_it(one, part):\n    fault(f'{{part}}-killed', 'agent')\n    {body}\n")
    (test,) = _tests_in(path)
    assert test.shows_firing is shows
    assert test.speaks_of("agent-killed")
    assert not test.speaks_of("broker-killed")


def test_the_port_is_no_fault() -> None:
    assert Fault not in all_faults().values()
