"""Everything that can go wrong, by who is at fault. Every failure has a reason code.

    BlackstartError
    ├── InputError        the person at the keyboard or the caller of the API: fix what was given
    ├── CommandError      the sender of a command: it is refused, nothing changes
    ├── RegistryError     the registry or the network to it
    ├── ImageError        the image: it will be as bad at the next try
    ├── EngineError       what runs containers on the device
    ├── DeviceError       the device itself: its disk, its clock, its configuration
    ├── JournalError      the device's durable memory
    └── ServiceError      the management service or what it stands on

The code is what machines read (job status, API problem, metric label); the message is for people and says what
happened, where, and what to do.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why something ended as it did. The value is what is stored, sent, counted and shown."""

    # No fault at all.
    ALREADY_RUNNING = "already_running"
    # The command.
    CANCELED = "canceled"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    STALE_GENERATION = "stale_generation"
    BAD_SIGNATURE = "bad_signature"
    WRONG_DEVICE = "wrong_device"
    UNSUPPORTED_SCHEMA = "unsupported_schema"
    MALFORMED = "malformed"
    HOST_NOT_ALLOWED = "host_not_allowed"
    # What somebody on the device has asked for.
    HELD = "held"
    UPDATE_LOCKED = "update_locked"
    # The registry and the way to it.
    REGISTRY_UNREACHABLE = "registry_unreachable"
    REGISTRY_ERROR = "registry_error"
    REGISTRY_THROTTLED = "registry_throttled"
    REGISTRY_UNAUTHORIZED = "registry_unauthorized"
    REGISTRY_DENIED = "registry_denied"
    IMAGE_UNKNOWN = "image_unknown"
    PULL_STALLED = "pull_stalled"
    PULL_CORRUPT = "pull_corrupt"
    # The image.
    IMAGE_INVALID = "image_invalid"
    IMAGE_UNSAFE = "image_unsafe"
    IMAGE_TOO_LARGE = "image_too_large"
    WRONG_ARCHITECTURE = "wrong_architecture"
    # The device and its engine.
    DISK_FULL = "disk_full"
    ENGINE_ERROR = "engine_error"
    START_REFUSED = "start_refused"
    CONFIGURATION_INVALID = "configuration_invalid"
    JOURNAL_CORRUPT = "journal_corrupt"
    JOURNAL_LOCKED = "journal_locked"
    JOURNAL_TOO_NEW = "journal_too_new"
    # The candidate on trial.
    CANDIDATE_EXITED = "candidate_exited"
    CANDIDATE_UNHEALTHY = "candidate_unhealthy"
    CANDIDATE_NEVER_HEALTHY = "candidate_never_healthy"
    TOO_MANY_BOOTS = "too_many_boots"
    # The version that was confirmed.
    PROBATION_FAILED = "probation_failed"
    CURRENT_FAILED = "current_failed"
    # The service and its callers.
    DEADLINE_PASSED = "deadline_passed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    VERSION_WITHDRAWN = "version_withdrawn"
    NO_PREVIOUS_VERSION = "no_previous_version"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    TOO_MANY_STREAMS = "too_many_streams"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    REGISTRATION_TOKEN_INVALID = "registration_token_invalid"  # noqa: S105 (a name)
    REGISTRATION_TOKEN_EXPIRED = "registration_token_expired"  # noqa: S105 (a name)
    REGISTRATION_TOKEN_USED = "registration_token_used"  # noqa: S105 (a name)
    CERTIFICATE_REFUSED = "certificate_refused"
    INVALID_INPUT = "invalid_input"
    UNAVAILABLE = "unavailable"


class Retry(StrEnum):
    """How often a failure of its kind is worth another try."""

    NEVER = "never"
    FEW = "few"
    MANY = "many"


# A failure that is not listed here is not tried again: unknown trouble is never hammered.
_RETRY = {
    Reason.REGISTRY_UNREACHABLE: Retry.MANY,
    Reason.REGISTRY_ERROR: Retry.MANY,
    Reason.REGISTRY_THROTTLED: Retry.MANY,
    Reason.PULL_STALLED: Retry.MANY,
    Reason.ENGINE_ERROR: Retry.MANY,
    Reason.PULL_CORRUPT: Retry.FEW,
}


def retry_of(reason: Reason) -> Retry:
    """How often a failure with this reason is tried again before it counts."""
    return _RETRY.get(reason, Retry.NEVER)


class BlackstartError(Exception):
    """A failure with a name.

    `reason` is the code for machines; `what` says what happened, `where` names the place (a file and line, an
    address, a field), `todo` the next step. `str()` joins them into one line for people.
    """

    default = Reason.INVALID_INPUT

    def __init__(self, what: str, *, reason: Reason | None = None, where: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.reason = reason if reason is not None else self.default
        self.what = what
        self.where = where
        self.todo = todo

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" {self.todo}" if self.todo else ""
        end = "" if not advice or self.what.endswith((".", "!", "?")) else "."
        return f"{place}{self.what}{end}{advice}"


class InputError(BlackstartError):
    """Something given by a person or a caller is wrong."""

    default = Reason.INVALID_INPUT


class CommandError(BlackstartError):
    """A command that must not be obeyed."""

    default = Reason.MALFORMED


class RegistryError(BlackstartError):
    """The registry refused, failed, lied or fell silent."""

    default = Reason.REGISTRY_ERROR


class ImageError(BlackstartError):
    """The image itself cannot be used."""

    default = Reason.IMAGE_INVALID


class EngineError(BlackstartError):
    """The container runtime did not do what it was asked."""

    default = Reason.ENGINE_ERROR


class DeviceError(BlackstartError):
    """The device cannot go on as it is."""

    default = Reason.CONFIGURATION_INVALID


class JournalError(BlackstartError):
    """The journal cannot be believed, or belongs to somebody else now."""

    default = Reason.JOURNAL_CORRUPT


class ServiceError(BlackstartError):
    """The management service cannot answer as asked."""

    default = Reason.UNAVAILABLE
