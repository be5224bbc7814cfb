"""Every story, in the order in which the table shows them."""

from __future__ import annotations

from reference.demo.stories import device, engine, handover, kills, messages, parts, pulls, trials
from reference.demo.story import Story

STORIES: tuple[Story, ...] = (
    *trials.STORIES,
    *handover.STORIES,
    *pulls.STORIES,
    *messages.STORIES,
    *device.STORIES,
    *parts.STORIES,
    *kills.STORIES,
    *engine.STORIES,
)
"""Names are unique; a test holds them and the documented list together."""
