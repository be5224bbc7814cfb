"""Durations, sizes and fractions as people write them: `300ms`, `1.5s`, `64KiB`, `50%`, and ranges such as `1s..5s`.

A range is drawn from the run's seed when the run is planned: the same seed gives the same value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import core_schema

_UNITS_MS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
_UNITS_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
DURATION = rf"^{_NUMBER}(ms|s|min|h)$"
SIZE = r"^[0-9]+(B|KiB|MiB|GiB)$"
FRACTION = rf"^{_NUMBER}%$"


def duration_ms(text: object) -> int:
    """`300ms` -> 300. Raises ValueError."""
    found = re.fullmatch(rf"({_NUMBER})(ms|s|min|h)", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no duration: write 300ms, 1.5s, 10min or 1h")
    return round(float(found[1]) * _UNITS_MS[found[2]])


def size_bytes(text: object) -> int:
    """`64KiB` -> 65536. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+)(B|KiB|MiB|GiB)", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no size: write 100B, 64KiB or 8MiB")
    return int(found[1]) * _UNITS_BYTES[found[2]]


def fraction(text: object) -> float:
    """`50%` -> 0.5, a number from 0 to 1 as it is. Raises ValueError."""
    value: float | None = None
    if isinstance(text, int | float) and not isinstance(text, bool):
        value = float(text)
    elif isinstance(text, str) and (found := re.fullmatch(rf"({_NUMBER})%", text)):
        value = float(found[1]) / 100
    if value is None or not 0 <= value <= 1:
        raise ValueError(f"{text!r} is no fraction: write 50%, or a number from 0 to 1")
    return value


Duration = Annotated[
    int, BeforeValidator(duration_ms), WithJsonSchema({"type": "string", "pattern": DURATION})
]
"""Milliseconds, once read."""
Size = Annotated[int, BeforeValidator(size_bytes), WithJsonSchema({"type": "string", "pattern": SIZE})]
"""Bytes, once read."""
Fraction = Annotated[
    float,
    BeforeValidator(fraction),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": FRACTION}]}
    ),
]
"""From 0 to 1, once read."""


@dataclass(frozen=True, slots=True)
class DurationRange:
    """From `low_ms` to `high_ms`, both included; one value when they are the same."""

    low_ms: int
    high_ms: int

    def draw(self, unit: float) -> int:
        """The value at `unit`, from 0 to 1, of the way."""
        return round(self.low_ms + (self.high_ms - self.low_ms) * unit)

    @classmethod
    def parse(cls, text: object) -> DurationRange:
        """`1s..5s`, or one duration. Raises ValueError."""
        if isinstance(text, DurationRange):
            return text
        low, dots, high = text.partition("..") if isinstance(text, str) else (text, "", "")
        first = duration_ms(low)
        last = duration_ms(high) if dots else first
        if last < first:
            raise ValueError(f"{text!r} ends before it begins")
        return cls(first, last)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: core_schema.CoreSchema, __: GetJsonSchemaHandler
    ) -> dict[str, object]:
        one = DURATION.strip("^$")
        return {"type": "string", "pattern": rf"^{one}(\.\.{one})?$"}


@dataclass(frozen=True, slots=True)
class FractionRange:
    """From `low` to `high`, both from 0 to 1."""

    low: float
    high: float

    def draw(self, unit: float) -> float:
        """The value at `unit`, from 0 to 1, of the way."""
        return self.low + (self.high - self.low) * unit

    @classmethod
    def parse(cls, text: object) -> FractionRange:
        """`20%..80%`, or one fraction. Raises ValueError."""
        if isinstance(text, FractionRange):
            return text
        low, dots, high = text.partition("..") if isinstance(text, str) else (text, "", "")
        first = fraction(low)
        last = fraction(high) if dots else first
        if last < first:
            raise ValueError(f"{text!r} ends before it begins")
        return cls(first, last)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: core_schema.CoreSchema, __: GetJsonSchemaHandler
    ) -> dict[str, object]:
        one = FRACTION.strip("^$")
        return {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": rf"^{one}(\.\.{one})?$"},
            ]
        }
