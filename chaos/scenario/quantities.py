"""Durations, sizes and fractions as people write them: `300ms`, `1.5s`, `64KiB`, `50%`, and ranges such as `1s..5s`.

A range is drawn from the run's seed when the run is planned: the same seed gives the same value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import core_schema

N = TypeVar("N", int, float)
_UNITS_MS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
_UNITS_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
DURATION = rf"^{_NUMBER}(ms|s|min|h)$"
SIZE = r"^[0-9]+(B|KiB|MiB|GiB)$"
FRACTION = r"^(?:100(?:\.0+)?|[0-9]{1,2}(?:\.[0-9]+)?)%$"
LONGEST_H = 1_000
LARGEST_GIB = 1_024
"""Whatever is longer or larger was meant to be something else."""
_LONGEST_MS = LONGEST_H * _UNITS_MS["h"]
_LARGEST_BYTES = LARGEST_GIB * _UNITS_BYTES["GiB"]
_DIGITS = 40
"""So many may be written: of more, nobody needs the value."""
_PLACES = 6
"""Of a fraction: more is not kept."""


def duration_ms(text: object) -> int:
    """`300ms` -> 300. Raises ValueError."""
    found = re.fullmatch(rf"({_NUMBER})(ms|s|min|h)", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{_unlike(text, 'duration', 'ms')}; write 300ms, 1.5s, 10min or 1h")
    value = float(found[1]) * _UNITS_MS[found[2]] if len(found[1]) <= _DIGITS else math.inf
    if value > _LONGEST_MS:
        raise ValueError(f"{_short(text)} is too long: at most {LONGEST_H}h")
    return round(value)


def size_bytes(text: object) -> int:
    """`64KiB` -> 65536. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+)(B|KiB|MiB|GiB)", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{_unlike(text, 'size', 'KiB')}; write 100B, 64KiB or 8MiB")
    value = int(found[1]) * _UNITS_BYTES[found[2]] if len(found[1]) <= _DIGITS else math.inf
    if value > _LARGEST_BYTES:
        raise ValueError(f"{_short(text)} is too large: at most {LARGEST_GIB}GiB")
    return int(value)


def _unlike(text: object, what: str, unit: str) -> str:
    """What is wrong with it; a number only lacks its unit."""
    bare = _short(text).strip()
    if not isinstance(text, bool) and re.fullmatch(_NUMBER, bare):
        return f"{bare} has no unit, such as {bare}{unit}"
    return f"{_quoted(text)} is no {what}"


def _short(text: object) -> str:
    """As it is written, but no page of digits."""
    try:
        said = str(text)
    except ValueError:  # of an integer that Python does not write out
        return "a number of thousands of digits"
    return said if len(said) <= _DIGITS else f"{said[:_DIGITS]}..."


def _quoted(text: object) -> str:
    return repr(_short(text)) if isinstance(text, str) else _short(text)


def fraction(text: object) -> float:
    """`50%` -> 0.5, a number from 0 to 1 as it is. Raises ValueError."""
    value: float | None = None
    if isinstance(text, int | float) and not isinstance(text, bool):
        value = float(text) if 0 <= text <= 1 else None
    elif isinstance(text, str) and (found := re.fullmatch(rf"({_NUMBER})%", text)):
        value = float(found[1]) / 100
    if value is None or not 0 <= value <= 1:
        raise ValueError(f"{_quoted(text)} is no fraction: write 50%, or a number from 0 to 1")
    return round(value, _PLACES)


def duration_text(ms: int) -> str:
    """300 -> `300ms`, 90000 -> `90s`: what `duration_ms` reads as the same."""
    unit = next(u for u in ("h", "min", "s", "ms") if ms % _UNITS_MS[u] == 0) if ms else "ms"
    if unit == "min" and ms < 5 * _UNITS_MS["min"]:
        unit = "s"
    return f"{ms // _UNITS_MS[unit]}{unit}"


def size_text(size: int) -> str:
    """65536 -> `64KiB`."""
    unit = next(u for u in ("GiB", "MiB", "KiB", "B") if size % _UNITS_BYTES[u] == 0) if size else "B"
    return f"{size // _UNITS_BYTES[unit]}{unit}"


def fraction_text(value: float) -> str:
    """0.5 -> `50%`."""
    return f"{value * 100:.{_PLACES - 2}f}".rstrip("0").rstrip(".") + "%"


Duration = Annotated[
    int,
    BeforeValidator(duration_ms),
    PlainSerializer(duration_text, return_type=str, when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "pattern": DURATION}),
]
"""Milliseconds, once read."""
Size = Annotated[
    int,
    BeforeValidator(size_bytes),
    PlainSerializer(size_text, return_type=str, when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "pattern": SIZE}),
]
"""Bytes, once read."""
Fraction = Annotated[
    float,
    BeforeValidator(fraction),
    PlainSerializer(fraction_text, return_type=str, when_used="json-unless-none"),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": FRACTION}]}
    ),
]
"""From 0 to 1, once read."""


_AS_TEXT = core_schema.plain_serializer_function_ser_schema(
    str, return_schema=core_schema.str_schema(), when_used="json-unless-none"
)


def _ends(text: object, read: Callable[[object], N]) -> tuple[N, N]:
    """Both ends of `LOW..HIGH`; the same twice where there is one value. Raises ValueError."""
    low, dots, high = text.partition("..") if isinstance(text, str) else (text, "", "")
    first = read(low)
    last = read(high) if dots else first
    if last < first:
        raise ValueError(f"{text!r} ends before it begins")
    return first, last


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
        return text if isinstance(text, DurationRange) else cls(*_ends(text, duration_ms))

    def __str__(self) -> str:
        low = duration_text(self.low_ms)
        return low if self.low_ms == self.high_ms else f"{low}..{duration_text(self.high_ms)}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=_AS_TEXT)

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
            return cls(fraction(text.low), fraction(text.high))
        return cls(*_ends(text, fraction))

    def __str__(self) -> str:
        low = fraction_text(self.low)
        return low if self.low == self.high else f"{low}..{fraction_text(self.high)}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=_AS_TEXT)

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
