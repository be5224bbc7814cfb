"""Fewer faults that still do the same. After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", IEEE Transactions on Software Engineering 28 (2002): ddmin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def ddmin(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> tuple[T, ...]:
    """A part of `items`, in their order, that still `fails`, and does not without any one of them.

    Raises ValueError when all of them together do not fail.
    """
    left = tuple(items)
    if not fails(left):
        raise ValueError("all of them together do not fail")
    if fails(()):
        return ()
    parts = 2
    while len(left) >= 2:
        size = -(-len(left) // parts)
        chunks = [left[n : n + size] for n in range(0, len(left), size)]
        smaller = _one(chunks, fails)
        if smaller is not None:
            left, parts = smaller, 2
            continue
        others = [left[:n] + left[n + size :] for n in range(0, len(left), size)]
        smaller = _one(others, fails) if parts > 2 else None
        if smaller is not None:
            left, parts = smaller, max(parts - 1, 2)
        elif parts >= len(left):
            break
        else:
            parts = min(2 * parts, len(left))
    return left


def _one(lists: Sequence[tuple[T, ...]], fails: Callable[[Sequence[T]], bool]) -> tuple[T, ...] | None:
    return next((found for found in lists if fails(found)), None)
