"""Which cuts: drawn from a seed, so that a number and a seed name the same cuts every time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reference.core.model import Phase
from reference.power.stories import STORIES, Story

AT_RANDOM_PERMILLE = 700
"""At least so many of a thousand cuts come at a uniformly random moment, with nothing held up for them."""
MOST_LATE_MS = 25.0
"""A cut at a named phase comes at most so long after the phase was journaled."""
MOST_OF_A_PULL_MS = 400.0
"""A cut in a pull that nothing holds up comes at most so long after its begin."""
EARLY_EACH = 3
"""Of so many devices one starts its agent before its engine answers."""


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
    network: str = ""
    """What the client is on, where the runtime knows more than one."""
    early: bool = False
    """The agent is started beside its engine, not after it."""
    flushed: float | None = None
    """The kernel writes all that is dirty back at this fraction of the time until the cut; None: it does not happen to.

    It does so after half a minute, or sooner when it wants memory, and then some files of one pull are on the disk and
    later ones are not. No story is long enough for that by itself.
    """


def plan(
    cuts: int,
    seed: int,
    stories: Sequence[Story] = tuple(STORIES.values()),
    *,
    networks: Sequence[str] = ("",),
    engine: bool = False,
) -> list[Cut]:
    """`cuts` of them, in a drawn order. Raises ValueError for a phase that no story passes through.

    `engine`: before half of those that come at random moments the kernel writes back once, and before all that come in a
    pull, which is short; and some agents do not wait for their engine.
    """
    at_random = -(-cuts * AT_RANDOM_PERMILLE // 1000)
    found = [_at_random(number, seed, stories) for number in range(at_random)]
    phases = [phase for phase in Phase if any(phase in story.phases for story in stories)]
    for number in range(at_random, cuts):
        turn = number - at_random
        held = (turn // len(phases)) % 2 == 0
        found.append(_at(phases[turn % len(phases)], number, seed, stories, held=held))
    _stream(seed, -1).shuffle(found)
    found = [replace(one, network=networks[one.number % len(networks)]) for one in found]
    return [_under_an_engine(one, seed) for one in found] if engine else found


def _stream(seed: int, number: int) -> random.Random:
    """One for each cut: adding a cut never shifts another's."""
    return random.Random(f"{seed}/{number}")  # noqa: S311 - chooses cuts, protects nothing


def _under_an_engine(one: Cut, seed: int) -> Cut:
    one = replace(one, early=one.number % EARLY_EACH == 0)
    stream = random.Random(f"{seed}/{one.number}/flush")  # noqa: S311 - as above
    if one.phase is Phase.PULLING and not one.held:
        return replace(one, late_ms=stream.uniform(0, MOST_OF_A_PULL_MS), flushed=stream.random())
    flushes = one.phase is None and stream.random() < 0.5
    return replace(one, flushed=stream.random()) if flushes else one


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
