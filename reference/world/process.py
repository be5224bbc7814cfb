"""What the updater's process knows by itself: of its own life, of this boot, and what people on the device ask for.

The same rules as the edge's eyes have (`reference.edge.observe`); `tests/agreement` holds the two together.
"""

from __future__ import annotations

from typing import NamedTuple

from reference.core.limits import Limits
from reference.core.model import Failure, HealthState, Phase, World
from reference.core.record import UpdateRecord
from reference.core.steps import Act, RestartEngine, Start, Stop, Sync


class Process(NamedTuple):
    """One life of the updater. The fields are those of `reference.core.model.World`, where they are explained."""

    opened: bool = False
    """The journal was synced by this process, and is believed."""
    dirty: bool = True
    error: Failure | None = None
    failures: int = 0
    since_failure_ms: int = 0
    restores: int = 0
    since_restore_ms: int = 0
    down: bool | None = None
    """Whether the client was seen without a healthy process; how long does not matter here."""
    survived_ms: int = 0
    locked_ms: int = 0
    restarted_for: str | None = None
    """Boot scope: the engine was restarted for this job."""
    hold: bool = False
    """Durable, the operator's."""
    lock: bool = False
    """Durable, the client's."""


def fresh(process: Process, *, boot: bool) -> Process:
    """The next life, after a boot or not."""
    restarted_for = None if boot else process.restarted_for
    return Process(restarted_for=restarted_for, hold=process.hold, lock=process.lock)


def settled(process: Process, record: UpdateRecord, world: World) -> Process:
    """The process once it has looked: a trusted version that is stable ends the count of its starts."""
    if not process.restores or (record.probation_left_ms > 0 and not record.duty):
        return process
    for installed in (record.current, record.previous):
        found = world.find(installed)
        if installed is not None and found is not None and found.stable(installed.health):
            return process._replace(restores=0, since_restore_ms=0)
    return process


def journaled(process: Process, before: UpdateRecord, after: UpdateRecord) -> Process:
    """The process after a record became durable."""
    process = process._replace(error=None)
    if before.phase is not after.phase:
        process = process._replace(failures=0, since_failure_ms=0)
    if before.probation_left_ms != after.probation_left_ms or before.current != after.current:
        process = process._replace(survived_ms=0, restores=0, since_restore_ms=0)
    if after.phase is Phase.ROLLING_BACK and before.phase is not after.phase:
        process = process._replace(restores=0, since_restore_ms=0)
    return process


def acted(process: Process, step: Act, failure: Failure | None, job_id: str, limits: Limits) -> Process:
    """The process after an act that worked or failed."""
    trusted = isinstance(step, Start) and step.trusted
    if trusted:
        process = process._replace(restores=_turns(process.restores + 1, limits), since_restore_ms=0)
    if isinstance(step, RestartEngine):
        process = process._replace(restarted_for=job_id)
    if isinstance(step, Stop):
        process = process._replace(down=True)
    if failure is None and isinstance(step, Sync):  # No end of what fails before and after it.
        return process._replace(dirty=False, error=None)
    if failure is None:
        return process._replace(dirty=True, error=None, failures=0, since_failure_ms=0)
    failure = Failure(failure.reason, failure.message, trusted)
    failures = _turns(process.failures + 1, limits)
    return process._replace(dirty=True, error=failure, failures=failures, since_failure_ms=0)


def _turns(count: int, limits: Limits) -> int:
    """Starts of trusted versions, or failures: after many turns of the two only whose turn it is decides anything."""
    turn = 2 * limits.restore_attempts
    return count if count < 3 * turn else count - turn


def waited(process: Process, record: UpdateRecord, before: World, after: World, ms: int, limits: Limits,
           revived: int) -> Process:  # fmt: skip
    """The process after so much time. Ages that decide nothing any more are capped, so that states come back."""
    up = any(c.active and c.health is HealthState.HEALTHY for c in before.containers)
    probation = record.probation_left_ms > 0 and record.phase is Phase.IDLE
    current = after.find(record.current)
    healthy = current is not None and current.running and current.health is HealthState.HEALTHY
    waits = process.lock and record.phase is Phase.STAGED and not process.hold
    cap_ms = 2 * limits.backoff_limit_ms
    return process._replace(
        down=process.down if up else True,
        survived_ms=min(process.survived_ms + ms, 2 * limits.probation_step_ms)
        if probation and healthy
        else 0,
        restores=process.restores + (revived if probation else 0),
        locked_ms=min(process.locked_ms + ms, 2 * limits.lock_wait_ms) if waits else 0,
        since_failure_ms=min(process.since_failure_ms + ms, cap_ms) if process.failures else 0,
        since_restore_ms=min(process.since_restore_ms + ms, cap_ms) if process.restores else 0,
    )
