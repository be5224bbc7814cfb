"""Strict reading of JSON objects: every wrong field becomes one typed error that names its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from reference.core.errors import BlackstartError, ImageError

MAX_SIZE = 2**63 - 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        raise ValueError("a key is given twice")
    return seen


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def load_object(
    data: bytes, where: str, *, limit_bytes: int, error: type[BlackstartError] = ImageError
) -> Fields:
    """Parse one JSON object of at most `limit_bytes`.

    Raises `error` for anything else: also for a key given twice, of which two readers may believe different values.
    """
    if len(data) > limit_bytes:
        raise error(f"{len(data)} bytes, more than the {limit_bytes} allowed", where=where)
    try:
        found: object = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as broken:
        raise error(f"not valid JSON: {broken}", where=where) from broken
    if not isinstance(found, dict):
        raise error("not a JSON object", where=where)
    return Fields(found, where, error)


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object. Every reader raises `error` when the value has another type."""

    values: Mapping[str, object]
    where: str
    error: type[BlackstartError] = ImageError

    def refuse(self, key: str, problem: str) -> NoReturn:
        """Raise the error for `key`."""
        raise self.error(f"{key!r} {problem}", where=self.where)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null: both mean absent in the documents of OCI."""
        return self.values.get(key) is not None

    def only(self, known: frozenset[str]) -> None:
        """Raise for the first unknown key."""
        for key in sorted(self.values):
            if key not in known:
                self.refuse(key, f"is not known here; known: {', '.join(sorted(known))}")

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.refuse(key, "is not text")
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value) or "\0" in value:
            self.refuse(key, "holds characters that no file or argument can hold")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; required when there is no default."""
        if not self.has(key):
            if default is None:
                self.refuse(key, "is missing")
            return default
        return self._text(key, self.values[key])

    def size(self, key: str) -> int:
        """A whole number, 0 to 2^63-1."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE:
            self.refuse(key, "is not a size in bytes")
        return value

    def _list(self, key: str) -> list[object]:
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(key, "is not a list")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        return tuple(self._text(key, item) for item in self._list(key))

    def mapping(self, key: str) -> dict[str, str]:
        """An object whose values are strings; empty when absent."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(key, "is not an object")
        return {self._text(key, k): self._text(f"{key}.{k}", v) for k, v in value.items()}

    def child(self, key: str) -> Fields:
        """An object; an empty one when absent."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.refuse(key, "is not an object")
        return Fields(value, f"{self.where}: {key}", self.error)

    def children(self, key: str, *, at_most: int) -> Iterator[Fields]:
        """A list of at most `at_most` objects; empty when absent."""
        items = self._list(key)
        if len(items) > at_most:
            self.refuse(key, f"has {len(items)} entries, more than the {at_most} allowed")
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                self.refuse(f"{key}[{number}]", "is not an object")
            yield Fields(item, f"{self.where}: {key}[{number}]", self.error)
