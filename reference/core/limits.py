"""Every bound, with its unit last in its name. Nothing in Blackstart loops, waits or grows without one of these.

They are passed in, never read from a global: the explorer runs the same code with small ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from reference.core.errors import Reason, Retry, retry_of
from reference.core.model import Phase


@dataclass(frozen=True, slots=True)
class Limits:
    """The updater's bounds. All durations in milliseconds."""

    pull_attempts_many: int = 8
    """Pulls tried in all when the failure is likely to pass (network, registry down, throttled)."""
    pull_attempts_few: int = 3
    """Pulls tried in all when the failure is unlikely to pass (content that does not match its digest)."""
    act_attempts: int = 3
    """Tries of any other engine action before it counts as failed."""
    boots: int = 3
    """Boots that one trial survives, counted from the stop of the old container on: design.md's K."""
    restore_attempts: int = 5
    """Starts of the last good container in a rollback before the job ends as `rollback_failed`."""
    fallback_attempts: int = 20
    """Starts of a current that passed its trial, without a stable life between them, before previous has its turn.

    With the default backoff that takes half an hour to an hour.
    """
    revive_attempts_in_job: int = 2
    """Starts of a dead current container that may interrupt a job which has not switched yet."""
    probation_attempts: int = 3
    """Starts of a version on probation, between two steps of it, before it falls back to previous."""
    probation_step_ms: int = 60_000
    """Healthy time on probation that is journaled at once: the most that a cut can cost of it."""
    lock_wait_ms: int = 600_000
    """For so long a switch waits for the update lock when its command does not say."""
    revive_rest_ms: int = 5_000
    """The longest wait after a failure while the client is down, and no network is needed to bring it back."""
    standby_ms: int = 5_000
    """For so long a rollback waits for the old version to stand by before it stops the new one all the same."""
    backoff_first_ms: int = 500
    backoff_factor: int = 2
    backoff_limit_ms: int = 300_000
    backoff_throttled_ms: int = 10_000
    """Least wait after a registry said that it is asked too often."""
    outbox_resend_ms: int = 5_000
    """A status that the service has not acknowledged is sent again after this long."""
    remind_ms: int = 300_000
    """A job that has had nothing to report for this long is reported again: a sixth of the service's patience."""
    images_kept: int = 3
    """Current, previous, and one on its way: more are never on the disk after a cleanup."""
    clock_skew_ms: int = 300_000
    """How wrong a trusted clock may be before an expiry is believed to have passed."""
    poll_ms: int = 50
    """How often the world is looked at while something is awaited."""
    watch_ms: int = 1_000
    """How often it is looked at when all is well."""

    def attempts(self, reason: Reason) -> int:
        """Tries in all, the first included, for a pull that fails with `reason`."""
        return {Retry.NEVER: 1, Retry.FEW: self.pull_attempts_few, Retry.MANY: self.pull_attempts_many}[
            retry_of(reason)
        ]

    def acts(self, reason: Reason) -> int:
        """Tries in all of any other act of a job that fails with `reason`."""
        return min(self.attempts(reason), self.act_attempts)

    def backoff_ms(self, failures: int, jitter_permille: int, reason: Reason | None = None) -> int:
        """Wait after the `failures`-th failure in a row (1 is the first): exponential, capped, with jitter.

        `jitter_permille` in 0..1000 comes from the driver's stream and scales the wait between one half and
        whole ("equal jitter": Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015), so that
        a fleet does not come back in step.
        """
        exponent = min(max(failures, 1) - 1, 32)
        full = min(self.backoff_limit_ms, self.backoff_first_ms * int(self.backoff_factor**exponent))
        if reason is Reason.REGISTRY_THROTTLED:
            full = max(full, self.backoff_throttled_ms)
        return full // 2 + full * min(max(jitter_permille, 0), 1000) // 2000


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """The service's bounds. All durations in milliseconds."""

    command_lifetime_ms: int = 24 * 3600 * 1000
    """A command that no device has taken after this long expires."""
    accept_deadline_ms: int = 24 * 3600 * 1000
    """QUEUED may last this long: the device may be offline."""
    accepted_deadline_ms: int = 60 * 60 * 1000
    """Silence in a step. A command that is accepted may have to wait for the end of the one before it."""
    pulling_deadline_ms: int = 30 * 60 * 1000
    staged_deadline_ms: int = 30 * 60 * 1000
    """The update lock and the snapshot belong to this step."""
    switching_deadline_ms: int = 15 * 60 * 1000
    verifying_deadline_ms: int = 30 * 60 * 1000
    """Above the longest start period, window and stable time that a command can name."""
    committing_deadline_ms: int = 15 * 60 * 1000
    rolling_back_deadline_ms: int = 30 * 60 * 1000
    cleaning_up_deadline_ms: int = 15 * 60 * 1000
    job_deadline_ms: int = 48 * 3600 * 1000
    """From the order to the end, however often the device speaks of it: no status starts this one anew."""
    resend_first_ms: int = 2_000
    resend_limit_ms: int = 60_000
    resend_factor: int = 2
    outage_remind_ms: int = 300_000
    """A part that stays down is logged when it goes, and again this often."""
    spooled_many: int = 20_000
    """Statuses kept in a file while the database cannot take them: further ones stay with their devices alone."""
    presence_ms: int = 180_000
    """A client that was heard within this is shown as online."""
    idempotency_ms: int = 24 * 3600 * 1000
    """How long the answer to a request with an `Idempotency-Key` is kept."""
    registration_token_ms: int = 24 * 3600 * 1000
    """A registration token that no device has traded after this long is worth nothing."""
    events_kept: int = 10_000
    """Events of each tenant that can still be read; older ones are forgotten."""
    events_ms: int = 7 * 24 * 3600 * 1000
    """And those older than this."""
    streams: int = 32
    """Readers of one tenant that may wait for events at once."""
    stream_stall_ms: int = 20_000
    """A reader that takes nothing for so long is dropped; it comes back with `Last-Event-ID`."""

    def step_deadline_ms(self, phase: Phase) -> int:
        """How long a device that has taken a command may be silent in a step; each status starts it anew."""
        return {
            Phase.IDLE: self.accepted_deadline_ms,
            Phase.ACCEPTED: self.accepted_deadline_ms,
            Phase.PULLING: self.pulling_deadline_ms,
            Phase.STAGED: self.staged_deadline_ms,
            Phase.SWITCHING: self.switching_deadline_ms,
            Phase.VERIFYING: self.verifying_deadline_ms,
            Phase.COMMITTING: self.committing_deadline_ms,
            Phase.ROLLING_BACK: self.rolling_back_deadline_ms,
            Phase.CLEANING_UP: self.cleaning_up_deadline_ms,
        }[phase]

    @property
    def shortest_deadline_ms(self) -> int:
        """No open job is overdue before this."""
        steps = (self.step_deadline_ms(phase) for phase in Phase)
        return min(self.accept_deadline_ms, self.job_deadline_ms, *steps)


DEFAULT_LIMITS = Limits()
DEFAULT_SERVICE_LIMITS = ServiceLimits()
