"""What the API takes and answers, as JSON with camelCase names. Instants are RFC 3339 in UTC, durations ms."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from reference.core.job import JobStatus
from reference.core.model import Handover, Outcome, Phase
from reference.core.model import Policy as CorePolicy
from reference.protocol.models import (
    MAX_LOCK_WAIT_MS,
    MAX_PROBATION_MS,
    ClientId,
    Digest,
    Probe,
    Repository,
    TrialPartMs,
    Version,
)
from reference.service.catalogue import VersionRecord
from reference.service.enrolment_records import NewToken
from reference.service.eventlog import Event
from reference.service.listing import LastJob, Presence, presence_of
from reference.service.orders import PolicyChange
from reference.service.records import ClientRecord, JobRecord


class _Given(BaseModel):
    # A misspelt field of a request is an error, unlike on the wire: nobody older or newer is speaking here.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, given: object) -> object:
        """`5.0` is a whole number to JSON Schema, which describes this API, and to many who write JSON."""
        if not isinstance(given, dict):
            return given
        return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in given.items()}


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class PolicyRequest(_Given):
    """How to update, beyond what is always done; what is not given is as usual. For an update: as the version says."""

    snapshot: bool | None = None
    probation_ms: Annotated[int, Field(ge=0, le=MAX_PROBATION_MS)] | None = None
    lock_wait_ms: Annotated[int, Field(ge=0, le=MAX_LOCK_WAIT_MS)] | None = None
    handover: Annotated[Handover, Field(strict=False)] | None = None

    def to_change(self) -> PolicyChange:
        """The same, as orders know it."""
        return PolicyChange(self.snapshot, self.probation_ms, self.lock_wait_ms, self.handover)


class UpdateRequest(_Given):
    """The version that a client shall run."""

    target_version: Version
    policy: PolicyRequest = PolicyRequest()


class ClientRequest(_Given):
    """A client to be known."""

    client_id: ClientId


class HealthRequest(_Given):
    """How a version proves that it is healthy; what is not given is as the service was started with."""

    probe: Probe | None = None
    start_period_ms: TrialPartMs | None = None
    window_ms: TrialPartMs | None = None
    stable_for_ms: TrialPartMs | None = None


class VersionRequest(_Given):
    """A version that can be commanded from now on."""

    version: Version
    repository: Repository
    digest: Digest
    health: HealthRequest = HealthRequest()
    policy: PolicyRequest = PolicyRequest()


class JobCreated(_Answer):
    """The answer to an order."""

    job_id: str


class LastJobView(_Answer):
    """The newest order of a client."""

    job_id: str
    status: JobStatus


class ReasonView(_Answer):
    """Why something ended as it did: the code for machines, the message for people."""

    code: str
    message: str


class ClientView(_Answer):
    """A client. `presence`: `online` when it was heard lately, `offline` when not, `never` when it never was.

    `trouble`: why the device acted on its own, without a job (`probation_failed`, `current_failed`, `journal_corrupt`); null once a job is worked on.
    """

    client_id: str
    presence: Presence
    running_version: str | None
    running_digest: str | None
    previous_version: str | None
    previous_digest: str | None
    hold: bool
    trouble: ReasonView | None
    agent_version: str | None
    generation: int
    last_job: LastJobView | None
    last_seen_at: str | None
    created_at: str

    @classmethod
    def of(cls, record: ClientRecord, last: LastJob | None, now_ms: int, presence_ms: int) -> Self:
        """As the API shows it."""
        return cls(
            client_id=record.id,
            presence=presence_of(record.last_seen_ms, now_ms, presence_ms),
            running_version=record.running_version,
            running_digest=record.running_digest,
            previous_version=record.previous_version,
            previous_digest=record.previous_digest,
            hold=record.hold,
            trouble=None
            if (why := record.trouble) is None
            else ReasonView(code=why.code, message=why.message),
            agent_version=record.agent_version,
            generation=max(record.state.issued, record.state.reported),
            last_job=None if last is None else LastJobView(job_id=last.id, status=last.status),
            last_seen_at=None if record.last_seen_ms is None else instant(record.last_seen_ms),
            created_at=instant(record.created_ms),
        )


class RegisteredView(ClientView):
    """A client that is known now. The token, which a device trades for its certificate, is shown this once."""

    registration_token: str | None
    registration_token_expires_at: str | None

    @classmethod
    def shown(cls, client: ClientView, token: NewToken | None) -> Self:
        """As the API shows it."""
        return cls(
            **{name: getattr(client, name) for name in ClientView.model_fields},
            registration_token=None if token is None else token.token,
            registration_token_expires_at=None if token is None else instant(token.expires_ms),
        )


class HealthView(_Answer):
    """How a version proves that it is healthy."""

    probe: str
    start_period_ms: int
    window_ms: int
    stable_for_ms: int


class PolicyView(_Answer):
    """How to update, beyond what is always done."""

    snapshot: bool
    probation_ms: int
    lock_wait_ms: int
    handover: Handover

    @classmethod
    def of(cls, policy: CorePolicy) -> Self:
        """As the API shows it."""
        return cls(
            snapshot=policy.snapshot,
            probation_ms=policy.probation_ms,
            lock_wait_ms=policy.lock_wait_ms,
            handover=policy.handover,
        )


class VersionView(_Answer):
    """A version. One that is withdrawn is refused by new updates."""

    version: str
    repository: str
    digest: str
    health: HealthView
    policy: PolicyView
    withdrawn: bool
    withdrawn_at: str | None
    created_at: str

    @classmethod
    def of(cls, record: VersionRecord) -> Self:
        """As the API shows it."""
        health = record.health
        return cls(
            version=record.image.version,
            repository=record.image.repository,
            digest=record.image.digest,
            health=HealthView(
                probe=health.probe,
                start_period_ms=health.start_period_ms,
                window_ms=health.window_ms,
                stable_for_ms=health.stable_for_ms,
            ),
            policy=PolicyView.of(record.policy),
            withdrawn=record.withdrawn_ms is not None,
            withdrawn_at=None if record.withdrawn_ms is None else instant(record.withdrawn_ms),
            created_at=instant(record.created_ms),
        )


class JobKind(StrEnum):
    """What was asked for. To the device both are an update."""

    UPDATE = "update"
    ROLLBACK = "rollback"


class JobView(_Answer):
    """A job. The words of `status` are AWS IoT Jobs'. `supersededBy` is the id of the job that was ordered over it."""

    job_id: str
    client_id: str
    kind: JobKind
    generation: int
    target_version: str
    digest: str
    status: JobStatus
    phase: Phase
    outcome: Outcome | None
    rolled_back: bool
    reason: ReasonView | None
    downtime_ms: int | None
    late_outcome: str | None
    superseded_by: str | None
    correlation_id: str | None
    created_by: str
    created_at: str
    updated_at: str
    expires_at: str

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """As the API shows it."""
        job = record.job
        reason = None
        if job.reason is not None or job.message:
            reason = ReasonView(code=job.reason.value if job.reason else "unknown", message=job.message)
        return cls(
            job_id=job.id,
            client_id=record.client,
            kind=JobKind(record.kind),
            generation=job.generation,
            target_version=record.version,
            digest=record.digest,
            status=job.status,
            phase=job.phase,
            outcome=job.outcome,
            rolled_back=job.outcome is Outcome.ROLLED_BACK,
            reason=reason,
            downtime_ms=job.downtime_ms,
            late_outcome=job.late_outcome.value if job.late_outcome else None,
            superseded_by=record.successor,
            correlation_id=record.correlation_id,
            created_by=record.created_by,
            created_at=instant(record.created_ms),
            updated_at=instant(record.updated_ms),
            expires_at=instant(record.expires_ms),
        )


class Clients(_Answer):
    """`nextCursor` is what to ask with for more, null at the end."""

    items: list[ClientView]
    next_cursor: str | None


class Versions(_Answer):
    """`nextCursor` is what to ask with for more, null at the end."""

    items: list[VersionView]
    next_cursor: str | None


class Jobs(_Answer):
    """`nextCursor` is what to ask with for more, null at the end."""

    items: list[JobView]
    next_cursor: str | None


class EventView(_Answer):
    """Something that happened. What `data` holds depends on `type`; new types and members may come."""

    id: int
    type: str
    at: str | None
    data: dict[str, str | int | bool | dict[str, str] | None]

    @classmethod
    def of(cls, event: Event) -> Self:
        """As the API shows it."""
        return cls(
            id=event.id,
            type=event.type,
            at=instant(event.at_ms) if event.at_ms else None,
            data=json.loads(event.data),
        )


class Events(_Answer):
    """In order. `next` is what to ask after for more."""

    items: list[EventView]
    next: int


class Checks(_Answer):
    """Whether the service can work, and what it stands on."""

    status: str
    checks: dict[str, str]


def instant(at_ms: int) -> str:
    """RFC 3339, UTC, to the millisecond."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
