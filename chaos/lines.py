"""YAML with the line of everything in it, and without YAML's traps.

Read as YAML 1.2's core schema, which is what editors and JSON schemas mean: `true` and `false` are the only booleans.
Refused: a key that stands twice, keys that are no words, yes/no/on/off without quotes (true for some readers of YAML,
words for others), tags, several documents, and what is too large, too deep, or grows when aliases are filled in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml
from yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from chaos.problem import ScenarioError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 20_000
"""With every alias filled in."""
Scalar = str | int | float | bool | None
Plain = Scalar | list["Plain"] | dict[str, "Plain"]
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TRAPS = frozenset(form for w in ("yes", "no", "on", "off") for form in (w, w.title(), w.upper()))


@dataclass(slots=True)
class Node:
    """A value and where it begins; of a mapping, its keys as well. Lines and columns count from 1."""

    value: Scalar | list[Node] | dict[str, Node]
    line: int = 1
    column: int = 1
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1
    """How many nodes it is, with every alias filled in."""
    height: int = 1
    """How many levels it is."""

    def plain(self) -> Plain:
        """The value alone."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, path: tuple[str | int, ...]) -> tuple[int, int]:
        """Line and column of what these keys lead to, as far as they lead: of the key, in a mapping."""
        node, place = self, (self.line, self.column)
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                place, node = node.keys[str(part)], node.value[str(part)]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                place = (node.line, node.column)
            else:
                break
        return place


def read(content: bytes, file: str) -> tuple[Node | None, list[ScenarioError]]:
    """The document, and what is wrong with it as YAML; None where nothing could be made of it."""
    if len(content) > MAX_BYTES:
        what = f"is larger than {MAX_BYTES >> 20} MiB, which no scenario is"
        return None, [ScenarioError(what, file=file)]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, [ScenarioError("is not UTF-8", file=file, line=line, todo="Save it as UTF-8.")]
    builder = _Builder(file)
    try:
        root = builder.document(text)
    except ScenarioError as problem:
        return None, [*builder.problems, problem]
    except yaml.MarkedYAMLError as error:
        return None, [*builder.problems, _unreadable(error, file)]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"holds a character that YAML does not take: U+{ord(text[error.position]):04X}"
        return None, [ScenarioError(what, file=file, line=line, todo="Remove it.")]
    return root, builder.problems


def _unreadable(error: yaml.MarkedYAMLError, file: str) -> ScenarioError:
    mark = error.problem_mark or error.context_mark
    said = (error.problem or error.context or "cannot be read").replace("\t", "a tab")
    todo = "Indent with spaces." if "'\\t'" in said else "Look at its indentation, colons and quotes."
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    return ScenarioError(f"is no YAML: {said}", file=file, line=line, column=column, todo=todo)


class _Builder:
    """From the parser's events to nodes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[ScenarioError] = []
        self.anchors: dict[str, Node] = {}

    def document(self, text: str) -> Node | None:
        """The one document. Raises ScenarioError, and what the parser raises."""
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        root: Node | None = None
        for event in events:
            if not isinstance(event, ScalarEvent | AliasEvent | MappingStartEvent | SequenceStartEvent):
                continue
            if root is not None:
                raise self.problem(event, "there are several documents in it", "Make a file of each.")
            root = self.node(event, events, 1)
        return root

    def problem(self, event: Event, what: str, todo: str = "") -> ScenarioError:
        line, column = _place(event)
        return ScenarioError(what, file=self.file, line=line, column=column, todo=todo)

    def node(self, event: Event, events: Iterator[Event], depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.problem(event, f"is nested deeper than {MAX_DEPTH}, which no scenario is")
        if isinstance(event, AliasEvent):
            if event.anchor not in self.anchors:
                raise self.problem(event, f"there is no anchor &{event.anchor} before it")
            node = self.anchors[event.anchor]
            return self.bounded(
                event, Node(node.value, *_place(event), node.keys, node.size, node.height), depth
            )
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise self.problem(event, f"a scenario has no tags, and this is {tag}", "Remove it.")
        if isinstance(event, MappingStartEvent):
            node = self.mapping(event, events, depth)
        elif isinstance(event, SequenceStartEvent):
            node = self.sequence(event, events, depth)
        else:
            assert isinstance(event, ScalarEvent)
            node = Node(self.scalar(event), *_place(event))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return self.bounded(event, node, depth)

    def bounded(self, event: Event, node: Node, depth: int) -> Node:
        if depth + node.height > MAX_DEPTH + 1:
            raise self.problem(event, f"is nested deeper than {MAX_DEPTH}, which no scenario is")
        if node.size > MAX_NODES:
            raise self.problem(event, f"holds more than {MAX_NODES} values, with its aliases filled in")
        return node

    def sequence(self, start: Event, events: Iterator[Event], depth: int) -> Node:
        found: list[Node] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            found.append(self.node(event, events, depth + 1))
        size, height = _extent(found)
        return Node(found, *_place(start), size=size, height=height)

    def mapping(self, start: Event, events: Iterator[Event], depth: int) -> Node:
        found: dict[str, Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            key = self.key(event)
            value = self.node(next(events), events, depth + 1)
            if key is None:
                continue
            if key in found:
                what = f"{key!r} is there twice, first in line {keys[key][0]}"
                self.problems.append(self.problem(event, what, "Remove one of them."))
                continue
            found[key], keys[key] = value, _place(event)
        size, height = _extent(list(found.values()))
        return Node(found, *_place(start), keys=keys, size=size, height=height)

    def key(self, event: Event) -> str | None:
        """The key; None, and a problem, when it is no word."""
        if not isinstance(event, ScalarEvent):
            raise self.problem(event, "a key has to be a word")
        if not event.implicit[0]:
            return str(event.value)
        if event.value in _TRAPS:
            what = f"the key {event.value} means true or false to some readers of YAML"
            self.problems.append(self.problem(event, what, f'Write "{event.value}" if it is meant.'))
            return None
        value = resolve(event.value)
        if not isinstance(value, str):
            shown = event.value or "nothing"
            self.problems.append(self.problem(event, f"a key has to be a word, and this is {shown}"))
            return None
        return value

    def scalar(self, event: ScalarEvent) -> Scalar:
        if not event.implicit[0]:
            return str(event.value)
        if event.value in _TRAPS:
            word = "true" if event.value.lower() in ("yes", "on") else "false"
            what = f"{event.value} means {word} to some readers of YAML, and a word to others"
            self.problems.append(self.problem(event, what, f'Write {word}, or "{event.value}" in quotes.'))
            return word == "true"
        return resolve(event.value)


def resolve(text: str) -> Scalar:
    """What a plain scalar means, after YAML 1.2's core schema; not-a-number and infinity stay words."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 64:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    number = float(text) if _FLOAT.fullmatch(text) else math.inf
    return number if math.isfinite(number) else text


def _extent(parts: list[Node]) -> tuple[int, int]:
    size = 1 + sum(part.size for part in parts)
    return size, 1 + max((part.height for part in parts), default=0)


def _place(event: Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1
