"""What the stories of the model world are about: versions, commands for them, how they behave, and small limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reference.core.limits import Limits
from reference.core.model import Command, Health, Image, Installed, Policy

HEALTH = Health(start_period_ms=50, window_ms=150, stable_for_ms=100)
LIMITS = Limits(
    pull_attempts_many=3,
    pull_attempts_few=2,
    act_attempts=2,
    boots=3,
    restore_attempts=2,
    fallback_attempts=4,
    revive_attempts_in_job=1,
    standby_ms=100,
    backoff_first_ms=100,
    backoff_limit_ms=400,
    backoff_throttled_ms=300,
    poll_ms=50,
    watch_ms=100,
    probation_attempts=2,
    probation_step_ms=200,
    lock_wait_ms=300,
)
"""Small bounds, so that every one of them is met in a few steps."""
CLOSING = replace(LIMITS, boots=1)
"""For any number of cuts: one boot is all that a trial lives through, so that the last new state comes soon."""
FAR = 10**15


def image(version: str) -> Image:
    """An image whose digest is its version, for short messages."""
    return Image("registry.test/client", f"sha256:{version}", version)


def command(
    generation: int,
    version: str,
    *,
    expires_at_ms: int = FAR,
    job_id: str | None = None,
    policy: Policy | None = None,
) -> Command:
    """An order for a version, by default as job `job-GENERATION` that never expires."""
    job_id = job_id or f"job-{generation}"
    return Command(job_id, generation, image(version), HEALTH, expires_at_ms, policy or Policy())


def installed(generation: int, version: str, container_id: str | None = None) -> Installed:
    """A version that passed its trial."""
    return Installed(image(version), HEALTH, generation, container_id)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a version does when it is started. Ages in ms of one process life; None: never."""

    refused: bool = False
    stuck_port: bool = False
    """Refused until the engine is restarted."""
    crashes: bool = False
    healthy_at: int | None = 20
    bad_at: int | None = None
    dies_at: int | None = None
    flaps_every: int | None = None
    """Every so often one probe fails: never unhealthy, and never good for longer than this."""
    migrates: bool = False
    """It changes the volume's format when it starts: a version that does not know it exits."""
    last_boot: int | None = None
    """From the boot after this one on it exits when it is started. The first boot is 1."""
    overlaps: bool = False
    """It stands by while another one has the lease. What is above is then of its life from the take-over on."""
    ready_at: int | None = 20
    """While it stands by: from then on it says that it would be healthy."""
    dies_waiting_at: int | None = None


GOOD = Behaviour()
