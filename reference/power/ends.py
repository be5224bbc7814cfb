"""How a story may end when the power is cut anywhere in it and comes back: as the model does, and in no other way."""

from __future__ import annotations

from functools import cache
from typing import Protocol

from reference.world.ends import End, ends
from reference.world.stories import story as told


class Maps(Protocol):
    """Whether an end is one that the model, too, comes to in this story when it is cut anywhere."""

    def __call__(self, story: str, end: End) -> bool: ...


@cache
def model_ends(story: str) -> frozenset[End]:
    """Every end of the story in the model, with one cut at most. Raises KeyError for a story that is not known."""
    return ends(told(story))


def legal(story: str, end: End) -> bool:
    """See Maps. Raises KeyError for a story that is not known."""
    return end in model_ends(story)


__all__ = ["End", "Maps", "legal", "model_ends"]
