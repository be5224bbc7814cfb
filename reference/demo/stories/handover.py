"""Handover by overlap: the next version stands by beside the old one, and takes over when that one is told to go."""

from __future__ import annotations

from reference.core.errors import Reason
from reference.core.model import Outcome
from reference.demo.bench import OLD
from reference.demo.stories.trials import plain
from reference.demo.story import Published, Story

STORIES: tuple[Story, ...] = (
    Story(
        "handover-overlap", "a good version stands by, ready, before the old one is told to go", plain,
        published=Published("2.1.0-over", overlaps=True), runs="2.1.0-over", touches_client=False, most_at_once=2,
        alone=True,
    ),
    Story(
        "handover-never-ready", "the new version stands by and is never ready: the old one works on", plain,
        Outcome.ROLLED_BACK, Reason.CANDIDATE_NEVER_HEALTHY,
        Published("2.1.1-over-sick", "never-healthy", overlaps=True), OLD, touches_client=False, most_at_once=2,
    ),
    Story(
        "handover-sick-alone", "the new version is sick once it has taken over, and the old one takes over again", plain,
        Outcome.ROLLED_BACK, Reason.CANDIDATE_NEVER_HEALTHY,
        Published("2.1.2-over-sick-alone", "sick-alone", overlaps=True), OLD, most_at_once=2,
    ),
)  # fmt: skip
