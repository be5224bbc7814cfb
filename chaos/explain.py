"""From what pydantic says to what a person who wrote the file can use: which key, what is allowed, what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from chaos.lines import Node
from chaos.problem import ScenarioError
from chaos.scenario.sense import meant

Path = tuple[str | int, ...]
MANY = 12
"""So many words are not all said when it is clear which was meant."""
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
}
_PATTERNS = {
    r"^[a-z0-9]+(-[a-z0-9]+)*$": "small letters and digits, words joined by `-`",
    r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$": "letters, digits, `.`, `+` and `-`",
    r"^[a-z0-9]*$": "small letters and digits",
}
_ITEM = "Each item has a `fault`, or an `action`: update, cancel, wait, restart-agent, hold or release."


def explained(
    error: ValidationError, root: Node, file: str, model: type[BaseModel], below: Path = ()
) -> list[ScenarioError]:
    """Each thing that is wrong, once, with the line of its key. `below`: where in the file the model's data is."""
    found: dict[tuple[Path, str], ScenarioError] = {}
    missing: dict[tuple[Path, str], Path] = {}
    hints: set[tuple[Path, str]] = set()
    for details in error.errors(include_url=False):
        path = _in_file(details["loc"], below)
        if path is None or _told_elsewhere(details):
            continue
        what, todo = _said(details, path[len(below) :], model)
        found.setdefault((path, what), located(root, file, path, what, todo))
        if details["type"] == "missing":
            missing[path, what] = path
        elif details["type"] == "extra_forbidden":
            hints.add((path[:-1], todo))
    # A misspelt key is not missing as well.
    for key, path in missing.items():
        if (path[:-1], f"Did you mean {path[-1]!r}?") in hints:
            del found[key]
    return list(found.values())


def _told_elsewhere(details: ErrorDetails) -> bool:
    """A key without a value, which `chaos.load` tells of; a list that is only empty without its bad items."""
    given = details["input"]
    return (given is None and details["type"] in _TYPES) or (details["type"] == "too_short" and bool(given))


def located(root: Node, file: str, path: Path, what: str, todo: str = "") -> ScenarioError:
    """A problem at what these keys lead to."""
    line, column = root.at(path)
    return ScenarioError(what, file=file, line=line, column=column, todo=todo)


def _in_file(loc: Path, below: Path) -> Path | None:
    """The keys alone: pydantic names the branches of unions among them. None: a branch that was not meant."""
    parts = list(loc)
    if not below and len(parts) > 2 and parts[0] in ("method", "rollbacks"):
        if parts[0] == "method":
            if parts.pop(2) == "action" and len(parts) > 2:
                parts.pop(2)
        else:
            parts.pop(2)
    branches = [part for part in parts if isinstance(part, str) and "[" in part]
    if any(branch.startswith("literal[") for branch in branches):
        return None
    return (*below, *(part for part in parts if part not in branches))


def _said(details: ErrorDetails, path: Path, model: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and what to do."""
    kind, given = details["type"], details["input"]
    context: Mapping[str, object] = details.get("ctx", {})
    key = str(path[-1]) if path else ""
    named = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
    lead = f"{named}: " if named and named not in ("method", "rollbacks") else ""
    if kind == "extra_forbidden":
        known = list(_keys(model, path[:-1], _tag(details["loc"])))
        allowed = f"Known here: {', '.join(known)}." if known else "Nothing is taken here."
        return f"there is no key {key!r} here", meant(key, known, allowed)
    if kind == "missing":
        return f"the key {key!r} is missing", ""
    if kind.startswith("union_tag") or (
        len(path) == 2 and path[0] in ("method", "rollbacks") and kind in _TYPES
    ):
        return _kind(given, context)
    if kind in ("enum", "literal_error"):
        known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        word = "null" if given is None else str(given)
        hint = meant(word, known) or _folded(word, known)
        many = hint and len(known) > MANY
        return f"{lead}{word!r} is not {'known' if many else 'one of ' + ', '.join(known)}", hint
    if kind == "string_pattern_mismatch":
        allowed = _PATTERNS.get(str(context.get("pattern")), f"what fits {context.get('pattern')}")
        return f"{lead}{given!r} has to be {allowed}", ""
    if kind in _TYPES:
        return _type(kind, given, lead)
    bounds = {
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than_equal": f"at most {context.get('le')}",
        "greater_than": f"more than {context.get('gt')}",
        "less_than": f"less than {context.get('lt')}",
        "string_too_long": f"at most {context.get('max_length')} characters",
        "too_long": f"at most {context.get('max_length')} of them",
    }
    if kind in bounds:
        shown = f"{given} " if isinstance(given, int | float) else ""
        return f"{lead}{shown}has to be {bounds[kind]}", ""
    if kind in ("too_short", "string_too_short"):
        return f"{lead}is empty", ""
    return f"{lead}{str(details['msg']).removeprefix('Value error, ')}", ""


def _folded(word: str, known: list[str]) -> str:
    """Written with other capitals, or with `_` for `-`."""
    plain = word.lower().replace("_", "-")
    same = [name for name in known if name.lower().replace("_", "-") == plain]
    return f"Did you mean {same[0]!r}?" if same else ""


def _kind(given: object, context: Mapping[str, object]) -> tuple[str, str]:
    """An item of the method that is no fault and no known action."""
    if not isinstance(given, dict):
        return f"{given!r} is no item of a method", _ITEM
    if "action" in given:
        known = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
        action = str(given["action"])
        return f"there is no action {action!r}", meant(action, known, f"One of: {', '.join(known)}.")
    near = next((meant(str(k), ["fault", "action"]) for k in given if meant(str(k), ["fault", "action"])), "")
    return "this item has neither a `fault` nor an `action`", near or _ITEM


def _type(kind: str, given: object, lead: str) -> tuple[str, str]:
    if given is None or isinstance(given, bool):
        shown = "nothing" if given is None else str(given).lower()
    else:
        shown = "keys and values" if isinstance(given, dict) else repr(given)
        shown = "a list" if isinstance(given, list) else shown
    todo = ""
    if kind == "string_type" and isinstance(given, int | float) and not isinstance(given, bool):
        todo = f'Write it in quotes: "{given}".'
    elif kind in ("tuple_type", "list_type") and isinstance(given, str | int | float):
        todo = f"Write [{given}]."
    elif kind in ("int_type", "bool_type", "float_type") and isinstance(given, str):
        todo = "Write it without quotes." if re.fullmatch(r"[0-9.]+|true|false", given) else ""
    return f"{lead}has to be {_TYPES[kind]}, and is {shown}", todo


def _tag(loc: Path) -> str:
    """Of an item of the method or the rollbacks: `fault`, or the action."""
    tags = [part for part in loc[2:4] if isinstance(part, str)] if loc[0] in ("method", "rollbacks") else []
    return tags[1] if tags[:1] == ["action"] and len(tags) > 1 else (tags or [""])[0]


def _keys(model: type[BaseModel], path: Path, tag: str) -> Iterator[str]:
    """The keys that an object at this path takes."""
    models = [model]
    for part in path:
        if isinstance(part, str):
            fields = [f for m in models for n, f in m.model_fields.items() if (f.alias or n) == part]
            models = [found for field in fields for found in _models(field.annotation)]
        elif len(models) > 1:
            models = [one for one in models if _tagged(one, tag)]
    for one in models:
        yield from (field.alias or name for name, field in one.model_fields.items())


def _tagged(model: type[BaseModel], tag: str) -> bool:
    action = model.model_fields.get("action")
    return tag in get_args(action.annotation) if action is not None else tag == "fault"


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
