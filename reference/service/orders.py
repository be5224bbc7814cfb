"""What the API does to the database: each function is one transaction, and runs inside it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from reference.core.delivery import next_generation
from reference.core.errors import InputError, Reason
from reference.core.job import Job, JobStatus, canceled, superseded
from reference.core.limits import ServiceLimits
from reference.core.model import Command, Handover, Health, Image, Policy
from reference.protocol.envelope import SigningKey, sign
from reference.protocol.models import JOB_ID_PATTERN, MAX_INT, CancelCommand, UpdateCommand
from reference.protocol.topics import CLIENT_PATTERN
from reference.service import catalogue, ingest, listing, placing, records
from reference.service.auth import Principal
from reference.service.catalogue import VersionRecord
from reference.service.problems import ConflictError, NotFoundError
from reference.service.records import ClientRecord, JobRecord, Waiting

Work = Callable[[Connection], "Ordered"]
VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"


@dataclass(frozen=True, slots=True)
class Desk:
    """What orders are made with: the key that commands are signed with, and the bounds."""

    key: SigningKey
    limits: ServiceLimits


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What an order wants otherwise than the version says; None leaves it."""

    snapshot: bool | None = None
    probation_ms: int | None = None
    lock_wait_ms: int | None = None
    handover: Handover | None = None

    def over(self, usual: Policy) -> Policy:
        """The usual policy with these changes."""
        return Policy(
            usual.snapshot if self.snapshot is None else self.snapshot,
            usual.probation_ms if self.probation_ms is None else self.probation_ms,
            usual.lock_wait_ms if self.lock_wait_ms is None else self.lock_wait_ms,
            self.handover or usual.handover,
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """How something is ordered, beside what."""

    supersede: bool = False
    """Whether a job that is open is put aside for this one."""
    policy: PolicyChange = field(default_factory=PolicyChange)
    correlation_id: str | None = None
    sending_ms: int | None = None
    """Steady time, where the caller sends the command as soon as it is committed; None: the outbox does."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A new job, and what became of the ones before it: before and after."""

    record: JobRecord
    changed: tuple[tuple[JobRecord, JobRecord], ...] = ()
    command: Waiting | None = None
    """What the caller sends once this is committed (`Terms.sending_ms`): it is noted as sent already."""

    @property
    def job(self) -> Job:
        """The new job."""
        return self.record.job


def order_update(
    connection: Connection,
    desk: Desk,
    caller: Principal,
    client_id: str,
    version: str,
    now_ms: int,
    terms: Terms | None = None,
) -> Ordered:
    """Open a job and put its command into the outbox. Raises NotFoundError, ConflictError, InputError."""
    found = (
        placing.look(connection, caller.tenant, client_id, version)
        if _is(CLIENT_PATTERN, client_id)
        else None
    )
    if found is None:
        raise _no_client(client_id)
    target = found.version
    if target is None:
        raise InputError(
            f"version {version!r} is not registered",
            where="targetVersion",
            todo="GET /api/v1/versions lists them.",
        )
    if target.withdrawn_ms is not None:
        raise ConflictError(
            f"version {version} is withdrawn",
            reason=Reason.VERSION_WITHDRAWN,
            todo="Order another one, or restore it: POST /api/v1/versions/{version}/restore.",
        )
    terms = terms or Terms()
    return _open(connection, desk, caller, found.client, found.opened, target, now_ms, terms, "update")


def order_rollback(
    connection: Connection,
    desk: Desk,
    caller: Principal,
    client_id: str,
    now_ms: int,
    terms: Terms | None = None,
) -> Ordered:
    """Open a job to the version that the client ran before. Raises NotFoundError, ConflictError.

    A withdrawn version is no hindrance: what ran before is the way out of what runs now.
    """
    client = get_client(connection, caller.tenant, client_id)
    target = _previous(connection, client)
    opened = records.find_open_job(connection, client.tenant, client.id)
    return _open(connection, desk, caller, client, opened, target, now_ms, terms or Terms(), "rollback")


def _previous(connection: Connection, client: ClientRecord) -> VersionRecord:
    """By the device's word; without it, by the history of the jobs."""
    digest, name = client.previous_digest, client.previous_version
    if digest is None or digest == client.running_digest:
        job = records.find_running_before(connection, client.tenant, client.id, client.running_digest)
        if job is None:
            raise ConflictError(
                f"no version is known that client {client.id} ran before",
                reason=Reason.NO_PREVIOUS_VERSION,
                todo="Order the wanted version by name: POST /api/v1/clients/{clientId}/update.",
            )
        digest, name = job.digest, job.version
    found = None if name is None else catalogue.find_version(connection, client.tenant, name)
    if found is None or found.image.digest != digest:
        found = catalogue.find_version_of(connection, client.tenant, digest)
    if found is None:
        raise ConflictError(
            f"what client {client.id} ran before ({digest}) is no registered version",
            reason=Reason.NO_PREVIOUS_VERSION,
            todo="Register it: POST /api/v1/versions.",
        )
    return found


def _open(
    connection: Connection,
    desk: Desk,
    caller: Principal,
    client: ClientRecord,
    opened: JobRecord | None,
    target: VersionRecord,
    now_ms: int,
    terms: Terms,
    kind: str,
) -> Ordered:
    if opened is not None and not terms.supersede:
        raise ConflictError(
            f"client {client.id} has an open job: {opened.job.id} ({opened.job.status.value})",
            todo="Wait for its end, cancel it (POST /api/v1/jobs/{jobId}/cancel), or order with ?supersede=true.",
            job_id=opened.job.id,
            opened=True,
        )
    generation = next_generation(client.state)
    if generation > MAX_INT:
        raise ConflictError(
            f"client {client.id} says that it has taken command {generation - 1}: there is no higher number",
            todo="Register the device as another client; look at it first, no device counts that far.",
        )
    expires_ms = now_ms + desk.limits.command_lifetime_ms
    job = Job(str(uuid.uuid4()), generation)
    record = JobRecord(
        client.tenant, client.id, job, target.image.version, target.image.digest, expires_ms, caller.subject,
        now_ms, now_ms, now_ms, kind, terms.correlation_id,
    )  # fmt: skip
    changed: tuple[tuple[JobRecord, JobRecord], ...] = ()
    if opened is not None:
        # First, as the database lets only one job of a client count.
        changed = (_put_aside(connection, opened, job, now_ms),)
    command = Command(
        job.id, generation, target.image, target.health, expires_ms, terms.policy.over(target.policy),
        record.correlation_id,
    )  # fmt: skip
    signed = sign(UpdateCommand.from_core(command, client.tenant, client.id, now_ms), desk.key)
    if terms.sending_ms is None:
        placing.place(connection, record, signed)
        return Ordered(record, changed)
    heard = (client.last_seen_ms or 0) >= now_ms - desk.limits.presence_ms
    due_ms = terms.sending_ms + ingest.resend_after_ms(1, desk.limits, heard=heard)
    return Ordered(record, changed, placing.place(connection, record, signed, due_ms))


def _put_aside(
    connection: Connection, opened: JobRecord, newer: Job, now_ms: int
) -> tuple[JobRecord, JobRecord]:
    sent = records.times_sent(connection, opened.job.id) > 0
    job = superseded(opened.job, newer.generation, sent=sent)
    records.set_successor(connection, opened, newer.id)
    return opened, records.save_job(connection, opened, job, now_ms, told=False)


def order_cancel(
    connection: Connection,
    desk: Desk,
    caller: Principal,
    job_id: str,
    now_ms: int,
    correlation_id: str | None = None,
) -> JobRecord:
    """Cancel a job: at once when its command was never sent, else the device is asked to, once however often this
    is called. Raises NotFoundError, and ConflictError when the job has ended.
    """
    record = get_job(connection, caller.tenant, job_id)
    if record.job.status.terminal:
        raise ConflictError(
            f"job {job_id} has ended: {record.job.status.value}",
            todo="There is nothing left to cancel.",
            job_id=job_id,
        )
    if record.job.status is JobStatus.QUEUED and records.times_sent(connection, job_id) == 0:
        return records.save_job(connection, record, canceled(record.job), now_ms, told=False)
    asked = any(
        waiting.job == job_id and waiting.kind == "cancel"
        for waiting in records.list_waiting(connection, record.tenant, record.client)
    )
    if not asked:
        message = CancelCommand(
            tenant_id=record.tenant,
            client_id=record.client,
            job_id=job_id,
            generation=record.job.generation,
            issued_at=now_ms,
            correlation_id=correlation_id,
        )
        records.add_waiting(connection, record, "cancel", sign(message, desk.key))
    return record


def register_client(
    connection: Connection, caller: Principal, client_id: str, now_ms: int
) -> tuple[ClientRecord, bool]:
    """The client, and whether it is new: registering twice is harmless."""
    found = records.peek_client(connection, caller.tenant, client_id)
    if found is not None:
        return found, False
    records.add_client(connection, caller.tenant, client_id, now_ms)
    return get_client(connection, caller.tenant, client_id), True


def register_version(
    connection: Connection,
    caller: Principal,
    image: Image,
    health: Health,
    now_ms: int,
    policy: Policy | None = None,
) -> tuple[VersionRecord, bool]:
    """The version, and whether it is new. Raises ConflictError: what a version means never changes."""
    policy = policy or Policy()
    found = catalogue.find_version(connection, caller.tenant, image.version)
    if found is not None:
        if (found.image, found.health, found.policy) != (image, health, policy):
            raise ConflictError(
                f"version {image.version} is registered with another image, health check or policy",
                todo="Give the new image a new version.",
            )
        return found, False
    record = VersionRecord(caller.tenant, image, health, now_ms, policy)
    catalogue.add_version(connection, record)
    return record, True


def withdraw_version(
    connection: Connection, caller: Principal, version: str, now_ms: int, *, withdrawn: bool
) -> VersionRecord:
    """Withdraw a version, or restore it; jobs that are open go on. Harmless when it is so. Raises NotFoundError."""
    found = get_version(connection, caller.tenant, version)
    return catalogue.set_withdrawn(connection, found, withdrawn=withdrawn, now_ms=now_ms)


def get_client(connection: Connection, tenant: str, client_id: str) -> ClientRecord:
    """Raises NotFoundError."""
    # What cannot be an id is not asked for: not every database takes every text.
    found = records.peek_client(connection, tenant, client_id) if _is(CLIENT_PATTERN, client_id) else None
    if found is None:
        raise _no_client(client_id)
    return found


def _no_client(client_id: str) -> NotFoundError:
    return NotFoundError(f"there is no client {client_id[:80]!r}")


def get_listed_client(connection: Connection, tenant: str, client_id: str) -> listing.Listed:
    """The client and its last job. Raises NotFoundError."""
    found = listing.find_client(connection, tenant, client_id) if _is(CLIENT_PATTERN, client_id) else None
    if found is None:
        raise _no_client(client_id)
    return found


def get_version(connection: Connection, tenant: str, version: str) -> VersionRecord:
    """Raises NotFoundError."""
    found = catalogue.find_version(connection, tenant, version) if _is(VERSION_PATTERN, version) else None
    if found is None:
        raise NotFoundError(f"there is no version {version[:80]!r}")
    return found


def get_job(connection: Connection, tenant: str, job_id: str) -> JobRecord:
    """Raises NotFoundError."""
    found = records.find_job(connection, tenant, job_id) if _is(JOB_ID_PATTERN, job_id) else None
    if found is None:
        raise NotFoundError(f"there is no job {job_id[:80]!r}")
    return found


def _is(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern.removesuffix("$"), text) is not None
