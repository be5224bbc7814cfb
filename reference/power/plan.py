"""Which cuts: drawn from a seed, so that a number and a seed name the same cuts every time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from reference.core.model import Phase
from reference.power.stories import STORIES, Story

AT_RANDOM_PERMILLE = 700
"""At least so many of a thousand cuts come at a uniformly random moment, with nothing held up for them."""
MOST_LATE_MS = 25.0
"""A cut at a named phase comes at most so long after the phase was journaled."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut of one story: at a fraction of the story's length, or at a named phase."""

    number: int
    story: str
    moment: float = 0.0
    """From 0 (the boot before the order) to 1 (the end, cleanup included). Means nothing with a phase."""
    phase: Phase | None = None
    held: bool = False
    """The agent stands still in that phase; else it only passes by, and the cut may come too late."""
    late_ms: float = 0.0
    """After the phase was seen."""


def plan(cuts: int, seed: int, stories: Sequence[Story] = tuple(STORIES.values())) -> list[Cut]:
    """`cuts` of them, in a drawn order. Raises ValueError for a phase that no story passes through."""
    at_random = -(-cuts * AT_RANDOM_PERMILLE // 1000)
    found = [_at_random(number, seed, stories) for number in range(at_random)]
    phases = [phase for phase in Phase if any(phase in story.phases for story in stories)]
    for number in range(at_random, cuts):
        turn = number - at_random
        held = (turn // len(phases)) % 2 == 0
        found.append(_at(phases[turn % len(phases)], number, seed, stories, held=held))
    _stream(seed, -1).shuffle(found)
    return found


def _stream(seed: int, number: int) -> random.Random:
    """One for each cut: adding a cut never shifts another's."""
    return random.Random(f"{seed}/{number}")  # noqa: S311 - chooses cuts, protects nothing


def _at_random(number: int, seed: int, stories: Sequence[Story]) -> Cut:
    stream = _stream(seed, number)
    story = stream.choices(stories, [one.weight for one in stories])[0]
    return Cut(number, story.name, moment=stream.random())


def _at(phase: Phase, number: int, seed: int, stories: Sequence[Story], *, held: bool) -> Cut:
    stream = _stream(seed, number)
    able = [story for story in stories if phase in story.phases]
    story = stream.choices(able, [one.weight for one in able])[0]
    late_ms = stream.uniform(0, MOST_LATE_MS) if held else 0.0
    return Cut(number, story.name, phase=phase, held=held, late_ms=late_ms)
