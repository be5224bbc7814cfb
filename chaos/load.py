"""Scenario files: read, with everything that is wrong in them and the line that it is in; and written.

scenario = load(Path("scenarios/black-hole.yaml"))      # raises InputError: the first thing that is wrong
for problem in problems(path): print(problem)           # all that is wrong: `file.yaml:7: there is no key ...`
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from chaos.dump import dump
from chaos.explain import explained, located
from chaos.faults import all_faults
from chaos.faults.base import Need, checked
from chaos.lines import MAX_BYTES, Node, read
from chaos.problem import ScenarioError
from chaos.scenario import Scenario
from chaos.scenario.deeds import idle, untimely
from chaos.scenario.model import FaultUse
from chaos.scenario.sense import dangling, impossible, meant
from reference.client.images import DEFECTS
from reference.core.errors import InputError

ENDS = (".yaml", ".yml")
SHIPPED = Path(__file__).resolve().parents[1] / "scenarios"
"""Beside this package, in a checkout and in a wheel."""
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TIME = re.compile(r"[0-9]{1,6}")
LONGEST_DEFECT_MS = 999_999
_SHOWN = 40
"""So much is shown of what was written."""
_MAY_BE_NULL = frozenset({("bench", "begins"), ("expect", "outcome"), ("expect", "reason")})


def load(path: Path) -> Scenario:
    """The scenario in a file. Raises InputError: the first thing that is wrong, with its line."""
    scenario, wrong = _examined(path)
    if scenario is None or wrong:
        raise wrong[0]
    return scenario


def problems(path: Path) -> list[ScenarioError]:
    """All that is wrong with a file, by line; empty when it can be played. Raises InputError when it cannot be read."""
    return _examined(path)[1]


def problems_in(content: bytes, path: Path) -> list[ScenarioError]:
    """The same of a text that is not in the file yet."""
    return _judged(content, path)[1]


def load_all(paths: Iterable[Path]) -> list[tuple[Path, Scenario]]:
    """The scenarios of files and folders. Raises InputError: the first thing that is wrong."""
    return [(path, load(path)) for path in scenario_files(paths)]


def scenario_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and those below the folders, sorted; each once. Raises InputError when there is none."""
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*.y*ml") if p.suffix in ENDS and _seen(p.relative_to(path))
            )
            if not inside:
                raise InputError(
                    "there is no scenario in this folder",
                    where=str(path),
                    todo="`blackstart chaos new` writes one.",
                )
        elif path.is_file():
            inside = [path]
        else:
            raise InputError("there is no such file or folder", where=str(path))
        for one in inside:
            found.setdefault(one.resolve(), one)
    _distinct(list(found.values()))
    return list(found.values())


def default_folder() -> Path:
    """Where scenarios are, when nobody says: `scenarios` here, else those that come with Blackstart."""
    here = Path("scenarios")
    return here if here.is_dir() else SHIPPED


def name_of(path: Path) -> str:
    """What a scenario is called: its file's name without the end."""
    return path.stem


def _seen(path: Path) -> bool:
    return path.name == path.name.lstrip(".") and not any(part.startswith(".") for part in path.parts)


def _distinct(paths: Sequence[Path]) -> None:
    """Two of one name would be told apart nowhere. Raises InputError."""
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(name_of(path), path)
        if other is not path:
            what = f"is called like {other}, and a scenario is known by its file's name"
            raise InputError(what, where=str(path), todo="Rename one of them, or give only one.")


def _examined(path: Path) -> tuple[Scenario | None, list[ScenarioError]]:
    return _judged(_content(path), path)


def _judged(content: bytes, path: Path) -> tuple[Scenario | None, list[ScenarioError]]:
    file = str(path)
    root, found = read(content, file)
    if root is None:
        todo = "`blackstart chaos new` writes one."
        return None, found or [ScenarioError("is empty", file=file, todo=todo)]
    if not isinstance(root.value, dict):
        return None, [*found, ScenarioError("is no scenario: it has no keys", file=file, line=root.line)]
    found += [_nothing(root, file, place) for place in _empty(root, ())]
    scenario: Scenario | None = None
    try:
        # As JSON, strictly: "2" is no number here, as it is none for an editor that has the schema.
        text = json.dumps(root.plain())
        scenario = Scenario.model_validate_json(
            text, strict=True, by_alias=True, by_name=False, context={"sense": "later"}
        )
    except ValidationError as error:
        found += explained(error, root, file, Scenario)
    found += _faults(root, file)
    if scenario is not None:
        for wrong in (*dangling(scenario), *untimely(scenario), *idle(scenario), *impossible(scenario)):
            found.append(located(root, file, wrong.path, wrong.what, wrong.todo))
        found += _parts(scenario, root, file)
        found += _defects(scenario, root, file)
    if _NAME.fullmatch(name_of(path)) is None:
        what = f"the file's name is the scenario's, and {name_of(path)!r} is not in kebab-case"
        found.append(ScenarioError(what, file=file, todo=f"Rename it: {_kebab(path)}"))
    return scenario, _in_order(found)


def _in_order(found: Iterable[ScenarioError]) -> list[ScenarioError]:
    """By line, and each once: two checks may see the same."""
    once: dict[tuple[int, str], ScenarioError] = {}
    for problem in found:
        once.setdefault((problem.line, problem.what), problem)
    return sorted(once.values(), key=lambda p: (p.line, p.column))


def _kebab(path: Path) -> str:
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode("ascii")
    words = re.findall(r"[a-z0-9]+", plain.lower())
    return "-".join(words or ["scenario"]) + path.suffix


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _empty(node: Node, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Keys without a value, where nothing does not mean anything."""
    if isinstance(node.value, dict):
        for key, value in node.value.items():
            yield from _empty(value, (*path, key))
    elif isinstance(node.value, list):
        for index, value in enumerate(node.value):
            yield from _empty(value, (*path, index))
    elif node.value is None and path not in _MAY_BE_NULL:
        yield path


def _nothing(root: Node, file: str, path: tuple[str | int, ...]) -> ScenarioError:
    what = f"{path[-1]}: has no value" if path and isinstance(path[-1], str) else "is an empty item"
    return located(root, file, path, what, "Give it one, or leave it out.")


def _faults(root: Node, file: str) -> Iterator[ScenarioError]:
    """What each fault says to its use, also where something else is wrong with the file."""
    assert isinstance(root.value, dict)
    method = root.value.get("method")
    items = method.value if method is not None and isinstance(method.value, list) else []
    for index, item in enumerate(items):
        if isinstance(item.value, dict) and "fault" in item.value:
            yield from _fault(root, file, ("method", index), item)


def _fault(root: Node, file: str, path: tuple[str | int, ...], item: Node) -> Iterator[ScenarioError]:
    plain = item.plain()
    assert isinstance(plain, dict)
    name = str(plain["fault"])
    fault = all_faults().get(name)
    if fault is None:
        # The most likely first; `list --faults` has what each of them does.
        todo = meant(name, all_faults(), "`blackstart chaos list --faults` shows them all.")
        yield located(root, file, (*path, "fault"), f"there is no fault {name!r}", todo)
        return
    given = plain.get("with", {})
    told = False
    if isinstance(given, dict):
        try:
            fault.params.model_validate_json(json.dumps(given), strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            told = True
            yield from explained(error, root, file, fault.params, (*path, "with"))
    try:
        use = FaultUse.model_validate_json(json.dumps(plain), strict=True, by_alias=True, by_name=False)
    except ValidationError:
        return  # It is told of with the rest of the file.
    try:
        checked(fault, use)
    except InputError as error:
        keys = tuple(error.where.split("."))
        if keys[0] != "with" or not told:
            yield located(root, file, (*path, *keys), error.what, error.todo)


def _parts(scenario: Scenario, root: Node, file: str) -> Iterator[ScenarioError]:
    """Faults of an engine, where there is none."""
    if scenario.bench.runtime == "docker":
        return
    for index, use in enumerate(scenario.method):
        fault = all_faults().get(use.fault) if isinstance(use, FaultUse) else None
        if fault is not None and isinstance(use, FaultUse) and Need.DOCKER in fault.needs_for(use):
            what = f"{use.fault} cannot happen: there is no engine under the process runtime"
            yield located(root, file, ("method", index, "fault"), what, "Say `bench: {runtime: docker}`.")


def _defects(scenario: Scenario, root: Node, file: str) -> Iterator[ScenarioError]:
    for index, spec in enumerate(scenario.bench.versions):
        name, _, after = spec.defect.partition(":")
        if name and name not in DEFECTS:
            todo = meant(name, DEFECTS, f"One of: {', '.join(DEFECTS)}.")
            path = ("bench", "versions", index, "defect")
            yield located(root, file, path, f"there is no defect {name!r}", todo)
        elif after and not _TIME.fullmatch(after):
            path = ("bench", "versions", index, "defect")
            short = after if len(after) <= _SHOWN else f"{after[:_SHOWN]}..."
            what = f"{short!r} is no time in ms, of at most {LONGEST_DEFECT_MS}"
            if not after.isdecimal():
                what = f"{short!r} is no time in ms"
            yield located(root, file, path, what, f"Write {name}:500.")


__all__ = [
    "SHIPPED",
    "default_folder",
    "dump",
    "load",
    "load_all",
    "name_of",
    "problems",
    "problems_in",
    "scenario_files",
]
