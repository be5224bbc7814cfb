"""A scenario as YAML, as a person would write it: what is usual is left out, short things stand on one line."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from chaos.lines import resolve
from chaos.scenario.model import Expect, Part, Scenario, Update

WIDTH = 110
INLINE = 72
"""A mapping of plain values that is shorter than this stands on one line."""
_SAID = ("outcome", "reason")
"""Of what is expected: null is not the same as nothing."""
_ALWAYS = (Update, "to")
"""What everybody says, usual or not."""


def dump(scenario: Scenario) -> str:
    """What `chaos.load` reads as the same scenario."""
    top = {key: _Block(value) if isinstance(value, dict) else value for key, value in _keys(scenario).items()}
    return yaml.dump(
        _Block(top),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=WIDTH,
        default_flow_style=False,
    )


def _keys(part: Part) -> dict[str, object]:
    """A part's keys in the model's order, without those that have the usual value."""
    texts: Mapping[str, object] = part.model_dump(mode="json", by_alias=True)
    found: dict[str, object] = {}
    for name, field in type(part).model_fields.items():
        value, key = getattr(part, name), field.alias or name
        said = isinstance(part, Expect) and name in _SAID and name in part.model_fields_set
        always = isinstance(part, _ALWAYS[0]) and name == _ALWAYS[1]
        usual = not field.is_required() and value == field.get_default(call_default_factory=True)
        if isinstance(value, Part) and usual:
            usual = not _keys(value)  # Null that was said is equal to nothing said.
        if said or always or not usual:
            found[key] = _value(value, texts[key])
        if said and isinstance(value, tuple) and len(value) == 1:
            found[key] = value[0].value
    return found


def _value(value: object, text: object) -> object:
    """`text`: the value as JSON, with its units."""
    if isinstance(value, Part):
        return _keys(value)
    if isinstance(value, tuple) and value and all(isinstance(one, Part) for one in value):
        return [_keys(one) for one in value]
    if isinstance(value, dict):
        return dict(value)
    return text


class _Block(dict[str, object]):
    """One key a line, however short."""


class _Dumper(yaml.SafeDumper):
    """Block style outside, one line for what is short, lists indented below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text.strip("\n") else None
    if style is None and text and not isinstance(resolve(text), str):
        style = '"'  # A word here, and a number for those who read YAML 1.2.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _mapping(dumper: yaml.SafeDumper, data: dict[str, object]) -> yaml.Node:
    node = dumper.represent_mapping("tag:yaml.org,2002:map", data.items())
    node.flow_style = not isinstance(data, _Block) and _short(data)
    return node


def _short(data: Mapping[str, object]) -> bool:
    if any(isinstance(value, dict | list | tuple) for value in data.values()):
        return False
    length = sum(len(str(key)) + len(str(value)) + 4 for key, value in data.items())
    item = "fault" in data or "action" in data
    return length <= INLINE and not item and not any("\n" in str(v) for v in data.values())


def _list(dumper: yaml.SafeDumper, data: list[object]) -> yaml.Node:
    plain = not any(isinstance(value, dict | list) for value in data)
    node = dumper.represent_sequence("tag:yaml.org,2002:seq", data)
    node.flow_style = plain and sum(len(str(value)) + 2 for value in data) <= INLINE
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(_Block, _mapping)
_Dumper.add_representer(list, _list)

__all__ = ["dump"]
