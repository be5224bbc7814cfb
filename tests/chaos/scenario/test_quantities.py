"""Durations, sizes, fractions: as people write them, and back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.scenario.quantities import (
    DurationRange,
    FractionRange,
    duration_ms,
    duration_text,
    fraction,
    fraction_text,
    size_bytes,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "ms"), [("300ms", 300), ("1.5s", 1500), ("10min", 600_000), ("1h", 3_600_000), ("0ms", 0)]
)
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "5S", "s", "5m", None, True, ["1s"], "5s\n", "٥s"])
def test_what_is_no_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="300ms"):
        duration_ms(text)


@pytest.mark.parametrize("text", [90, "90", 1.5])
def test_a_number_lacks_its_unit(text: object) -> None:
    with pytest.raises(ValueError, match=f"^{text} has no unit, such as {text}ms; write 300ms"):
        duration_ms(text)


DIGITS = "9" * 400


@pytest.mark.parametrize(
    ("read", "text", "told"),
    [
        (duration_ms, "1000.1h", "1000.1h is too long: at most 1000h"),
        (duration_ms, f"{DIGITS}h", "... is too long: at most 1000h"),
        (DurationRange.parse, f"1s..{DIGITS}h", "... is too long: at most 1000h"),
        (size_bytes, "1025GiB", "1025GiB is too large: at most 1024GiB"),
        (size_bytes, f"{DIGITS * 20}B", "... is too large: at most 1024GiB"),
        (fraction, f"{DIGITS}%", "is no fraction"),
        (fraction, 10**400, "is no fraction"),
        (fraction, float("nan"), "is no fraction"),
        (duration_ms, 10**400, "is no duration"),
    ],
    ids=range(9),
)
def test_what_is_beyond_all_sense_is_refused_in_short(
    read: Callable[[object], object], text: object, told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        read(text)
    assert len(str(caught.value)) < 200


def test_the_bounds_themselves_are_taken() -> None:
    assert (duration_ms("1000h"), size_bytes("1024GiB")) == (3_600_000_000, 1 << 40)


def test_a_size_that_lacks_its_unit() -> None:
    with pytest.raises(ValueError, match=r"^64 has no unit, such as 64KiB; write 100B"):
        size_bytes(64)


@pytest.mark.parametrize("text", ["101%", "-1%", "2", 1.5, True, "half", None])
def test_what_is_no_fraction_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is no fraction"):
        fraction(text)


@given(st.integers(0, 1_000 * 3_600_000))
def test_a_duration_is_read_as_it_was_written(ms: int) -> None:
    assert duration_ms(duration_text(ms)) == ms


@given(st.integers(0, 1 << 40))
def test_a_size_is_read_as_it_was_written(size: int) -> None:
    assert size_bytes(size_text(size)) == size


@given(st.floats(0, 1))
def test_a_fraction_is_read_as_it_was_written(value: float) -> None:
    kept = fraction(value)
    assert abs(kept - value) <= 1e-6
    assert fraction(fraction_text(kept)) == kept


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_range_is_read_as_it_was_written(one: int, other: int) -> None:
    low, high = sorted((one, other))
    wanted = DurationRange(low, high)
    assert DurationRange.parse(str(wanted)) == wanted
    share = FractionRange.parse(FractionRange(low / 1e9, high / 1e9))
    assert FractionRange.parse(str(share)) == share


def test_a_range_that_ends_before_it_begins() -> None:
    with pytest.raises(ValueError, match="ends before it begins"):
        DurationRange.parse("5s..1s")
    with pytest.raises(ValueError, match="ends before it begins"):
        FractionRange.parse("50%..20%")


def test_units_as_people_choose_them() -> None:
    assert [duration_text(ms) for ms in (300, 1_500, 90_000, 60_000, 600_000, 7_200_000)] == [
        "300ms", "1500ms", "90s", "60s", "10min", "2h",
    ]  # fmt: skip
    assert [fraction_text(share) for share in (0.5, 1.0, 0.0, 0.125)] == ["50%", "100%", "0%", "12.5%"]
    assert [size_text(size) for size in (0, 100, 65_536, 8 << 20)] == ["0B", "100B", "64KiB", "8MiB"]
