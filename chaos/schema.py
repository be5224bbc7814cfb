"""The JSON schema of scenario files, for editors: `scenarios/schema.json`, made from the models and the faults.

It says what `chaos.load` says, as far as a schema can: names that refer to nothing, and what the bench cannot be, only
the loader sees.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

from chaos.faults import all_faults
from chaos.faults.base import Fault
from chaos.scenario import Scenario
from chaos.scenario.model import Happening, Invariant, Link, SteadyProbe
from chaos.scenario.quantities import DURATION, SIZE, DurationRange, duration_text, size_text
from reference.core.errors import Reason
from reference.core.limits import Limits
from reference.core.model import Outcome

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NULL = {"type": "null"}
_TEXTS: Mapping[str, Callable[[int], str]] = {DURATION: duration_text, SIZE: size_text}
_EXPLAINED: tuple[type[Enum], ...] = (Happening, Invariant, Link, SteadyProbe, Outcome, Reason)

Json = dict[str, object]


def schema() -> Json:
    """JSON Schema, draft 2020-12."""
    made = Scenario.model_json_schema(by_alias=True)
    found: dict[str, Json] = made.pop("$defs")
    for enum in _EXPLAINED:
        if enum.__name__ in found:
            found[enum.__name__] |= _explained(enum)
    use = found.pop("FaultUse")
    actions = made["properties"]["rollbacks"]["items"]
    found["Action"] = {"description": "What somebody does.", "oneOf": actions["oneOf"]}
    made["properties"]["rollbacks"]["items"] = {"$ref": "#/$defs/Action"}
    made["properties"]["method"]["items"] = {
        "oneOf": [{"$ref": "#/$defs/Action"}, {"$ref": "#/$defs/FaultUse"}]
    }
    for name, fault in all_faults().items():
        own, more = _fault(name, fault, use)
        found |= {f"fault-{name}": own, **more}
    branches = [{"$ref": f"#/$defs/fault-{name}"} for name in all_faults()]
    found["FaultUse"] = {"description": use["description"], "oneOf": branches} if branches else {"not": {}}
    names = [field.name for field in dataclasses.fields(Limits)]
    _properties(found["Bench"])["limits"]["propertyNames"] = {"enum": names}
    _one_of(found["When"], "phase", "event", "time", "pulled")
    _one_of(found["Wait"], "for", "until")
    for key in ("outcome", "reason"):
        _one_or_several(_properties(found["Expect"])[key])
    _tidy(made)
    for definition in found.values():
        _tidy(definition)
    made.pop("title")
    return {
        "$schema": DRAFT,
        "title": "A scenario of Blackstart",
        **made,
        "$defs": dict(sorted(found.items())),
    }


def schema_text() -> str:
    """As `scenarios/schema.json` has it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _fault(name: str, fault: type[Fault], use: Json) -> tuple[Json, dict[str, Json]]:
    """The use of one fault, and the definitions that its parameters need."""
    params = fault.params.model_json_schema(by_alias=True, ref_template=f"#/$defs/fault-{name}-{{model}}")
    more = {f"fault-{name}-{key}": value for key, value in params.pop("$defs", {}).items()}
    params["description"] = f"What {name} takes."
    params.pop("title", None)
    keys = dict(_properties(use))
    keys["fault"] = {"const": name, "description": fault.about}
    required = ["fault"]
    if fault.links:
        keys["link"] = {"enum": [link.value for link in fault.links], "description": "Where."}
        required.append("link")
    else:
        del keys["link"]
    if params.get("properties"):
        keys["with"] = params
    else:
        keys["with"] = {"type": "object", "maxProperties": 0, "description": f"{name} takes nothing."}
    if params.get("required"):
        required.append("with")
    if not fault.lasts:
        del keys["for"]
    about = f"{fault.about} Shown by: {fault.shown_by}"
    own: Json = {
        "title": name, "description": about, "type": "object", "additionalProperties": False,
        "properties": keys, "required": required,
    }  # fmt: skip
    return json.loads(json.dumps(own)), more


def _properties(definition: Json) -> dict[str, Json]:
    found = definition["properties"]
    assert isinstance(found, dict)
    return found


def _one_of(definition: Json, *keys: str) -> None:
    definition["oneOf"] = [{"required": [key]} for key in keys]


def _one_or_several(definition: Json) -> None:
    branches = definition["anyOf"]
    assert isinstance(branches, list)
    several = next(branch for branch in branches if branch.get("type") == "array")
    definition["anyOf"] = [several["items"], several, _NULL]


def _explained(enum: type[Enum]) -> Json:
    """What stands below each member, for editors that show it; nothing where nothing stands there."""
    body = ast.parse(textwrap.dedent(inspect.getsource(enum))).body[0]
    assert isinstance(body, ast.ClassDef)
    said: dict[str, str] = {}
    for node, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = following.value if isinstance(following, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                said[node.targets[0].id] = " ".join(text.value.split())
    return {"markdownEnumDescriptions": [said.get(member.name, "") for member in enum]} if said else {}


def _tidy(definition: object) -> None:
    """Without what only noise would come of: titles of keys, defaults that are objects, `null` for "not said"."""
    for name, key in _keys_of(definition):
        key.pop("title", None)
        branches = key.get("anyOf")
        if isinstance(branches, list) and _NULL in branches and name not in ("begins", "outcome", "reason"):
            branches = [branch for branch in branches if branch != _NULL]
            if len(branches) == 1:
                del key["anyOf"]
                key.update(branches[0])
            else:
                key["anyOf"] = branches
        _default(key)


def _default(key: Json) -> None:
    """As a file would say it, or none."""
    if "default" not in key:
        return
    default = key.pop("default")
    pattern = key.get("pattern")
    if isinstance(default, int) and not isinstance(default, bool) and isinstance(pattern, str):
        default = _TEXTS[pattern](default) if pattern in _TEXTS else default
    if isinstance(default, dict) and set(default) == {"low_ms", "high_ms"}:
        default = str(DurationRange(**default))
    if isinstance(default, str | int | float | bool) and default != "":
        key["default"] = default


def _keys_of(definition: object) -> Iterator[tuple[str, Json]]:
    """Every property of every object in it."""
    if isinstance(definition, list):
        for part in definition:
            yield from _keys_of(part)
    elif isinstance(definition, dict):
        properties = definition.get("properties")
        if isinstance(properties, dict):
            yield from properties.items()
        for name, part in definition.items():
            if name != "default":
                yield from _keys_of(part)
