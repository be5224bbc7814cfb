"""What is ordered of a device before its power goes. Stories and versions have the names that the model has for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from reference.core.model import Health, Phase, Policy

OLD, OLD_VERSION = "v1", "1.0.0"
NEW = "v2"
"""As findings name them; each bad version has a number of its own beside."""
PATIENT = Health(start_period_ms=10_000, window_ms=10_000, stable_for_ms=60)
"""A good version has to be healthy for a moment only, and is never blamed for a slow machine."""
UNKNOWN = "unknown"
"""In the place of a defect: a digest that no registry has."""

_TRIAL = frozenset({Phase.IDLE, Phase.ACCEPTED, Phase.PULLING, Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING,
                    Phase.CLEANING_UP})  # fmt: skip
_BACK = _TRIAL | {Phase.ROLLING_BACK}


@dataclass(frozen=True, slots=True)
class Story:
    """One order. `weight`: how often it is drawn, against the others'."""

    name: str
    version: str
    defect: str | None
    health: Health
    phases: frozenset[Phase]
    """What its journal passes through."""
    weight: int = 1
    after_ms: int | None = None
    policy: Policy = field(default_factory=Policy)


_STORIES = (
    Story("success", "2.0.0", None, PATIENT, _TRIAL | {Phase.COMMITTING}, weight=4),
    Story(
        "snapshot", "2.0.0", None, PATIENT, _TRIAL | {Phase.COMMITTING}, weight=2,
        policy=Policy(snapshot=True),
    ),
    Story("crash", "2.0.1", "crash-on-start", PATIENT, _BACK, weight=2),
    Story("never_healthy", "2.0.2", "never-healthy", Health("/healthz", 200, 200, 60), _BACK),
    Story("dies_in_window", "2.0.3", "dies-in-window", Health("/healthz", 10_000, 10_000, 600), _BACK, after_ms=60),
    Story(
        "bad_migration", "2.0.4", "bad-migration", PATIENT, _BACK, weight=2, policy=Policy(snapshot=True),
    ),
    Story(
        "pull_image_unknown", "2.0.5", UNKNOWN, PATIENT,
        frozenset({Phase.IDLE, Phase.ACCEPTED, Phase.PULLING, Phase.CLEANING_UP}),
    ),
)  # fmt: skip
STORIES = {story.name: story for story in _STORIES}
