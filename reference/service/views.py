"""What the API takes and answers, as JSON with camelCase names. Instants are RFC 3339 in UTC, durations ms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from reference.core.job import JobStatus
from reference.core.model import Outcome, Phase
from reference.protocol.models import ClientId, Digest, Probe, Repository, TrialPartMs, Version
from reference.service.records import ClientRecord, JobRecord, VersionRecord


class _Given(BaseModel):
    # A misspelt field of a request is an error, unlike on the wire: nobody older or newer is speaking here.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", alias_generator=to_camel)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class UpdateRequest(_Given):
    """The version that a client shall run."""

    target_version: Version


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


class JobCreated(_Answer):
    """The answer to an order."""

    job_id: str


class ClientView(_Answer):
    """A client."""

    client_id: str
    running_version: str | None
    running_digest: str | None
    agent_version: str | None
    generation: int
    last_seen_at: str | None
    created_at: str

    @classmethod
    def of(cls, record: ClientRecord) -> Self:
        """As the API shows it."""
        return cls(
            client_id=record.id,
            running_version=record.running_version,
            running_digest=record.running_digest,
            agent_version=record.agent_version,
            generation=max(record.state.issued, record.state.reported),
            last_seen_at=None if record.last_seen_ms is None else instant(record.last_seen_ms),
            created_at=instant(record.created_ms),
        )


class HealthView(_Answer):
    """How a version proves that it is healthy."""

    probe: str
    start_period_ms: int
    window_ms: int
    stable_for_ms: int


class VersionView(_Answer):
    """A version."""

    version: str
    repository: str
    digest: str
    health: HealthView
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
            created_at=instant(record.created_ms),
        )


class ReasonView(_Answer):
    """Why a job ended as it did: the code for machines, the message for people."""

    code: str
    message: str


class JobView(_Answer):
    """A job. The words of `status` are AWS IoT Jobs'."""

    job_id: str
    client_id: str
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
            created_by=record.created_by,
            created_at=instant(record.created_ms),
            updated_at=instant(record.updated_ms),
            expires_at=instant(record.expires_ms),
        )


class Clients(_Answer):
    """`next_after` is what to ask with for more, null at the end."""

    items: list[ClientView]
    next_after: str | None


class Versions(_Answer):
    """The newest first."""

    items: list[VersionView]


class Jobs(_Answer):
    """The newest first."""

    items: list[JobView]


class Checks(_Answer):
    """Whether the service can work, and what it stands on."""

    status: str
    checks: dict[str, str]


def instant(at_ms: int) -> str:
    """RFC 3339, UTC, to the millisecond."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
