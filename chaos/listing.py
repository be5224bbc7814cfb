"""What there is: scenarios with what they prove, faults with what they take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chaos.faults import all_faults
from chaos.load import load, name_of, scenario_files
from chaos.needs import missing, needs_of
from chaos.problem import ScenarioError
from chaos.scenario.quantities import DURATION, FRACTION, SIZE
from chaos.schema import Json, schema


@dataclass(frozen=True, slots=True)
class ScenarioEntry:
    """One scenario file that can be played, if its needs are here."""

    name: str
    file: str
    title: str
    proves: str
    runtime: str
    faults: list[str]
    tags: list[str]
    needs: list[str]
    missing: str
    """What of its needs is not here, in words; empty when all is."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a fault takes under one key of `with`."""

    name: str
    takes: str
    """The kind of value, in words."""
    default: str
    required: bool
    about: str

    def __str__(self) -> str:
        usual = "required" if self.required else self.default
        return f"{self.name}: {self.takes}{f' ({usual})' if usual else ''}"


@dataclass(frozen=True, slots=True)
class FaultEntry:
    """One fault that is registered."""

    name: str
    family: str
    about: str
    takes: list[Parameter]
    links: list[str]
    needs: list[str]
    shown_by: str
    lasts: bool
    """Whether it takes `for`."""
    missing: str


def scenarios(paths: Iterable[Path]) -> tuple[list[ScenarioEntry], list[ScenarioError]]:
    """The scenarios of files and folders, by name; and the first thing that is wrong with each of the others.

    Raises InputError when there is none.
    """
    found, wrong = [], []
    for path in scenario_files(paths):
        try:
            scenario = load(path)
        except ScenarioError as problem:
            wrong.append(problem)
            continue
        needs = needs_of(scenario)
        found.append(
            ScenarioEntry(
                name=name_of(path), file=str(path), title=scenario.title, proves=scenario.proves,
                runtime=scenario.bench.runtime, faults=list(dict.fromkeys(use.fault for use in scenario.faults)),
                tags=list(scenario.tags), needs=[need.value for need in needs],
                missing="; ".join(said for need in needs if (said := missing(need))),
            )
        )  # fmt: skip
    return sorted(found, key=lambda entry: entry.name), wrong


def faults() -> list[FaultEntry]:
    """All of them, by family and name."""
    made = schema()["$defs"]
    assert isinstance(made, dict)
    found = [
        FaultEntry(
            name=name, family=fault.family.value, about=fault.about, takes=_parameters(made, name),
            links=[link.value for link in fault.links], needs=[need.value for need in fault.needs],
            shown_by=fault.shown_by, lasts=fault.lasts,
            missing="; ".join(said for need in fault.needs if (said := missing(need))),
        )
        for name, fault in all_faults().items()
    ]  # fmt: skip
    return sorted(found, key=lambda entry: (entry.family, entry.name))


def parameters(name: str) -> list[Parameter]:
    """What one fault takes under `with`, in its own order."""
    made = schema()["$defs"]
    assert isinstance(made, dict)
    return _parameters(made, name)


def _parameters(made: Json, name: str) -> list[Parameter]:
    taken = made[f"fault-{name}"]["properties"]["with"]  # type: ignore[index] # our own schema
    required = taken.get("required", [])
    found = []
    for key, value in taken.get("properties", {}).items():
        default = value.get("default", "")
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        about = " ".join(str(value.get("description", "")).split())
        found.append(Parameter(key, _kind(value, made), shown, key in required, about))
    return found


_PATTERNS = {DURATION: "a duration", SIZE: "a size", FRACTION: "a fraction"}
_TYPES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}


def _kind(value: Json, made: Json) -> str:
    """A JSON schema in words."""
    if isinstance(ref := value.get("$ref"), str):
        target = made.get(ref.rpartition("/")[2])
        return _kind(target, made) if isinstance(target, dict) else "a value"
    if isinstance(known := value.get("enum"), list):
        return " | ".join(map(str, known))
    if "const" in value:
        return str(value["const"])
    pattern = str(value.get("pattern", ""))
    for plain, words in _PATTERNS.items():
        if pattern == plain:
            return words
        if pattern.startswith(plain.rstrip("$")):
            return f"{words}, or a range"
    if isinstance(branches := value.get("anyOf"), list):
        kinds = [_kind(branch, made) for branch in branches]
        if any(kind.startswith("a fraction") for kind in kinds):
            return next(kind for kind in kinds if kind.startswith("a fraction"))
        return " | ".join(dict.fromkeys(kinds))
    if value.get("type") == "array":
        items = value.get("items")
        return f"a list: {_kind(items, made)}" if isinstance(items, dict) else "a list"
    return _bounds(value, _TYPES.get(str(value.get("type")), "keys and values"))


def _bounds(value: Json, kind: str) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f"{kind} from {low} to {high}"
    return f"{kind} from {low}" if low is not None else kind
