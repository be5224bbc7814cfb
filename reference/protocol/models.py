"""The messages, as JSON with `schemaVersion` 1 and camelCase names.

Unknown fields are tolerated, so that an older reader survives a newer writer; an unknown version is refused, because
its known fields may mean something else. Every string and number is bounded. Durations and instants are whole
milliseconds, instants since 1970 UTC.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from reference.core import model as core
from reference.core.errors import CommandError, Reason
from reference.core.job import JobStatus, Report
from reference.core.model import Handover, Outcome, Phase
from reference.protocol.topics import CLIENT_PATTERN, TENANT_PATTERN

SCHEMA_VERSION = 1
MAX_MESSAGE_BYTES = 64 * 1024
MAX_TEXT = 1000
"""Longest message for people, in characters; what is longer is cut where it is made."""
MAX_TRIAL_PART_MS = 480_000
"""Longest start period, window or stable time of a health check. The device says nothing during a trial, so all three
together (24 min) have to stay below the service's bound of that step (ServiceLimits.verifying_deadline_ms: 30 min):
otherwise a healthy update would be given up as silent."""
JOB_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
CORRELATION_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
MAX_PROBATION_MS = 30 * 24 * 3600 * 1000
"""Longest probation: 30 days."""
MAX_LOCK_WAIT_MS = 24 * 3600 * 1000
"""Longest wait for the update lock: as long as a command lives."""
MAX_INT = 2**53 - 1
"""The largest whole number that every JSON reader keeps (RFC 8259, section 6)."""

TenantId = Annotated[str, Field(pattern=TENANT_PATTERN)]
ClientId = Annotated[str, Field(pattern=CLIENT_PATTERN)]
JobId = Annotated[str, Field(pattern=JOB_ID_PATTERN)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Repository = Annotated[
    str, Field(max_length=255, pattern=r"^[A-Za-z0-9.\-\[\]:]+(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$")
]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")]
Epoch = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Nonce = Epoch
Generation = Annotated[int, Field(ge=1, le=MAX_INT)]
Floor = Annotated[int, Field(ge=0, le=MAX_INT)]
Sequence = Annotated[int, Field(ge=0, le=MAX_INT)]
InstantMs = Annotated[int, Field(ge=0, le=MAX_INT)]
DurationMs = Annotated[int, Field(ge=0, le=MAX_INT)]
TrialPartMs = Annotated[int, Field(ge=0, le=MAX_TRIAL_PART_MS)]


def _without_nul(text: str) -> str:
    """A NUL is text to JSON and an error to some databases; it means nothing in a message."""
    return text.replace("\0", "\ufffd")


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_without_nul)]
CorrelationId = Annotated[str, Field(pattern=CORRELATION_PATTERN)]
Probe = Annotated[str, Field(max_length=255, pattern=r"^(/[!-~]*)?$")]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class _Message(_Part):
    schema_version: Literal[1] = 1

    def to_bytes(self) -> bytes:
        """The message as it goes over the wire."""
        return self.model_dump_json(by_alias=True).encode()


class ImageSpec(_Part):
    """What to run. `repository` is `host[:port]/name`; the digest decides, the version is for people."""

    repository: Repository
    digest: Digest
    version: Version

    @classmethod
    def from_core(cls, image: core.Image) -> Self:
        """Raises pydantic.ValidationError for what cannot go over the wire."""
        return cls(repository=image.repository, digest=image.digest, version=image.version)

    def to_core(self) -> core.Image:
        """The same, as core knows it."""
        return core.Image(self.repository, self.digest, self.version)


class HealthSpec(_Part):
    """What counts as healthy; meaning and units: reference.core.model.Health."""

    probe: Probe = "/healthz"
    start_period_ms: TrialPartMs = 10_000
    window_ms: TrialPartMs = 60_000
    stable_for_ms: TrialPartMs = 10_000

    @classmethod
    def from_core(cls, health: core.Health) -> Self:
        """Raises pydantic.ValidationError for what cannot go over the wire."""
        return cls(
            probe=health.probe,
            start_period_ms=health.start_period_ms,
            window_ms=health.window_ms,
            stable_for_ms=health.stable_for_ms,
        )

    def to_core(self) -> core.Health:
        """The same, as core knows it."""
        return core.Health(self.probe, self.start_period_ms, self.window_ms, self.stable_for_ms)


class Policy(_Part):
    """How to update, beyond what is always done; meaning: reference.core.model.Policy."""

    snapshot: bool = False
    probation_ms: Annotated[int, Field(ge=0, le=MAX_PROBATION_MS)] = 0
    lock_wait_ms: Annotated[int, Field(ge=0, le=MAX_LOCK_WAIT_MS)] = 0
    handover: Handover = Handover.STOP_FIRST

    @classmethod
    def from_core(cls, policy: core.Policy) -> Self:
        """Raises pydantic.ValidationError for what cannot go over the wire."""
        return cls(
            snapshot=policy.snapshot,
            probation_ms=policy.probation_ms,
            lock_wait_ms=policy.lock_wait_ms,
            handover=policy.handover,
        )

    def to_core(self) -> core.Policy:
        """The same, as core knows it."""
        return core.Policy(self.snapshot, self.probation_ms, self.lock_wait_ms, self.handover)


class UpdateCommand(_Message):
    """Service to device, signed: run `image`."""

    tenant_id: TenantId
    client_id: ClientId
    type: Literal["update"] = "update"
    job_id: JobId
    generation: Generation
    issued_at: InstantMs
    expires_at: InstantMs
    image: ImageSpec
    health: HealthSpec = HealthSpec()
    policy: Policy = Policy()
    correlation_id: CorrelationId | None = None

    @classmethod
    def from_core(cls, command: core.Command, tenant_id: str, client_id: str, issued_at_ms: int) -> Self:
        """Raises pydantic.ValidationError for what cannot go over the wire."""
        return cls(
            tenant_id=tenant_id,
            client_id=client_id,
            job_id=command.job_id,
            generation=command.generation,
            issued_at=issued_at_ms,
            expires_at=command.expires_at_ms,
            image=ImageSpec.from_core(command.image),
            health=HealthSpec.from_core(command.health),
            policy=Policy.from_core(command.policy),
            correlation_id=command.correlation_id,
        )

    def to_core(self) -> core.Command:
        """The same, as core knows it."""
        return core.Command(
            self.job_id,
            self.generation,
            self.image.to_core(),
            self.health.to_core(),
            self.expires_at,
            self.policy.to_core(),
            self.correlation_id,
        )


class CancelCommand(_Message):
    """Service to device, signed: give the job up, if it has not switched yet."""

    tenant_id: TenantId
    client_id: ClientId
    type: Literal["cancel"] = "cancel"
    job_id: JobId
    generation: Generation
    issued_at: InstantMs
    correlation_id: CorrelationId | None = None


class BirthAnswer(_Part):
    """Answer to a birth: the nonce comes back, and the generation floor with it.

    `replaced`: a newer journal of this device is known already, and this one is never valid again. The device is to set
    it aside and to make another from what runs; the floor says nothing then.
    """

    nonce: Nonce
    journal_epoch: Epoch
    floor: Floor
    replaced: bool = False


class Acknowledgement(_Part):
    """The service has stored the status with this sequence: it may be forgotten."""

    journal_epoch: Epoch
    job_id: JobId
    generation: Generation
    sequence: Sequence


class Reply(_Message):
    """Service to device, signed: exactly one of `birth` and `acknowledgement`."""

    tenant_id: TenantId
    client_id: ClientId
    type: Literal["reply"] = "reply"
    birth: BirthAnswer | None = None
    acknowledgement: Acknowledgement | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.birth is None) is (self.acknowledgement is None):
            raise ValueError("exactly one of birth and acknowledgement belongs into a reply")
        return self


class ReasonSpec(_Part):
    """Why: the code for machines, the message for people. An older service may not know a newer device's code."""

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    message: Text = ""


class Birth(_Message):
    """Device to service, at every connect. `generation` is the floor, null when it is not known."""

    nonce: Nonce
    journal_epoch: Epoch
    generation: Floor | None = None
    running_digest: Digest | None = None
    running_version: Version | None = None
    previous_digest: Digest | None = None
    """What a rollback would bring back."""
    previous_version: Version | None = None
    open_job_id: JobId | None = None
    hold: bool = False
    """An operator on the device has forbidden every change."""
    reason: ReasonSpec | None = None
    """Why the device acted on its own, without a job: a probation that failed."""
    agent_version: Annotated[str, Field(max_length=64), AfterValidator(_without_nul)] = ""


class StatusMessage(_Message):
    """Device to service: what a job has come to, and what runs now."""

    job_id: JobId
    generation: Generation
    journal_epoch: Epoch
    sequence: Sequence
    status: JobStatus
    phase: Phase
    outcome: Outcome | None = None
    rolled_back: bool = False
    reason: ReasonSpec | None = None
    running_digest: Digest | None = None
    running_version: Version | None = None
    previous_digest: Digest | None = None
    previous_version: Version | None = None
    downtime_ms: DurationMs | None = None
    correlation_id: CorrelationId | None = None
    at: InstantMs

    @classmethod
    def from_core(
        cls,
        report: Report,
        epoch: str,
        running: core.Image | None,
        at_ms: int,
        *,
        previous: core.Image | None = None,
        correlation_id: str | None = None,
    ) -> Self:
        """`at_ms` is the device's own clock, for people only. Messages for people are cut to MAX_TEXT."""
        reason = None
        if report.reason is not None:
            reason = ReasonSpec(code=report.reason.value, message=report.message[:MAX_TEXT])
        return cls(
            job_id=report.job_id,
            generation=report.generation,
            journal_epoch=epoch,
            sequence=report.sequence,
            status=report.status,
            phase=report.phase,
            outcome=report.outcome,
            rolled_back=report.rolled_back,
            reason=reason,
            running_digest=running.digest if running is not None else None,
            running_version=running.version if running is not None else None,
            previous_digest=previous.digest if previous is not None else None,
            previous_version=previous.version if previous is not None else None,
            downtime_ms=report.downtime_ms,
            correlation_id=correlation_id,
            at=at_ms,
        )

    def to_core(self) -> Report:
        """The same, as core knows it. A reason code that is not known here survives in the message."""
        reason, message = None, ""
        if self.reason is not None:
            message = self.reason.message
            try:
                reason = Reason(self.reason.code)
            except ValueError:
                message = f"{self.reason.code}: {message}"
        return Report(
            self.job_id,
            self.generation,
            self.sequence,
            self.status,
            self.phase,
            self.outcome,
            reason,
            message,
            self.downtime_ms,
        )


_M = TypeVar("_M", bound=_Message)


def parse(model: type[_M], data: bytes) -> _M:
    """Read a message. Raises CommandError: UNSUPPORTED_SCHEMA for an unknown version, else MALFORMED."""
    version = read_object(data, model.__name__).get("schemaVersion")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        if isinstance(version, int) and not isinstance(version, bool):
            raise CommandError(
                f"schema version {version!r:.40} is not known",
                reason=Reason.UNSUPPORTED_SCHEMA,
                where=f"{model.__name__}.schemaVersion",
                todo=f"Known: {SCHEMA_VERSION}.",
            )
        raise CommandError("the schema version is missing", where=f"{model.__name__}.schemaVersion")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        what, where = _first(error, model.__name__)
        raise CommandError(what, where=where) from None


def parse_update(data: bytes) -> UpdateCommand:
    """Raises CommandError."""
    return parse(UpdateCommand, data)


def parse_cancel(data: bytes) -> CancelCommand:
    """Raises CommandError."""
    return parse(CancelCommand, data)


def parse_reply(data: bytes) -> Reply:
    """Raises CommandError."""
    return parse(Reply, data)


def parse_birth(data: bytes) -> Birth:
    """Raises CommandError."""
    return parse(Birth, data)


def parse_status(data: bytes) -> StatusMessage:
    """Raises CommandError."""
    return parse(StatusMessage, data)


def read_object(data: bytes, name: str) -> dict[str, object]:
    """A JSON object of bounded size, unchecked. Raises CommandError(MALFORMED)."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise CommandError(
            f"{len(data)} bytes are too many", where=name, todo=f"At most {MAX_MESSAGE_BYTES} are read."
        )
    try:
        found: object = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise CommandError(f"not JSON: {error}", where=name) from None
    if not isinstance(found, dict):
        raise CommandError("not a JSON object", where=name)
    return found


def _first(error: ValidationError, name: str) -> tuple[str, str]:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join([name, *(str(part) for part in first["loc"])])
    return first["msg"], place
