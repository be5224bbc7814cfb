"""What the API does to the database: each function is one transaction, and runs inside it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from reference.core.delivery import next_generation
from reference.core.errors import InputError
from reference.core.job import Job, JobStatus, canceled
from reference.core.limits import ServiceLimits
from reference.core.model import Command, Health, Image
from reference.protocol.envelope import SigningKey, sign
from reference.protocol.models import CancelCommand, UpdateCommand
from reference.service import records
from reference.service.auth import Principal
from reference.service.problems import ConflictError, NotFoundError
from reference.service.records import ClientRecord, JobRecord, VersionRecord


@dataclass(frozen=True, slots=True)
class Desk:
    """What orders are made with: the key that commands are signed with, and the bounds."""

    key: SigningKey
    limits: ServiceLimits


def order_update(
    connection: Connection, desk: Desk, caller: Principal, client_id: str, version: str, now_ms: int
) -> JobRecord:
    """Open a job and put its command into the outbox. Raises NotFoundError, ConflictError, InputError."""
    client = get_client(connection, caller.tenant, client_id)
    target = records.find_version(connection, caller.tenant, version)
    if target is None:
        raise InputError(
            f"version {version!r} is not registered",
            where="targetVersion",
            todo="GET /api/v1/versions lists them.",
        )
    if (opened := records.find_open_job(connection, caller.tenant, client_id)) is not None:
        raise ConflictError(
            f"client {client_id} has an open job: {opened.job.id} ({opened.job.status.value})",
            todo="Wait for its end, or cancel it: POST /api/v1/jobs/{jobId}/cancel.",
            job_id=opened.job.id,
        )
    generation = next_generation(client.state)
    expires_ms = now_ms + desk.limits.command_lifetime_ms
    job = Job(str(uuid.uuid4()), generation)
    record = JobRecord(
        caller.tenant, client_id, job, version, target.image.digest, expires_ms, caller.subject, now_ms, now_ms, now_ms
    )  # fmt: skip
    command = Command(job.id, generation, target.image, target.health, expires_ms)
    signed = sign(UpdateCommand.from_core(command, caller.tenant, client_id, now_ms), desk.key)
    records.add_job(connection, record)
    records.save_client(connection, client, replace(client, state=replace(client.state, issued=generation)))
    records.add_waiting(connection, record, "update", signed, now_ms)
    return record


def order_cancel(
    connection: Connection, desk: Desk, caller: Principal, job_id: str, now_ms: int
) -> JobRecord:
    """Cancel a job: at once when its command was never sent, else the device is asked to.

    Raises NotFoundError, and ConflictError when the job has ended.
    """
    record = get_job(connection, caller.tenant, job_id)
    if record.job.status.terminal:
        raise ConflictError(f"job {job_id} has ended: {record.job.status.value}", job_id=job_id)
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
        )
        records.add_waiting(connection, record, "cancel", sign(message, desk.key), now_ms)
    return record


def register_client(
    connection: Connection, caller: Principal, client_id: str, now_ms: int
) -> tuple[ClientRecord, bool]:
    """The client, and whether it is new: registering twice is harmless."""
    found = records.find_client(connection, caller.tenant, client_id)
    if found is not None:
        return found, False
    records.add_client(connection, caller.tenant, client_id, now_ms)
    return get_client(connection, caller.tenant, client_id), True


def register_version(
    connection: Connection, caller: Principal, image: Image, health: Health, now_ms: int
) -> tuple[VersionRecord, bool]:
    """The version, and whether it is new. Raises ConflictError: what a version means never changes."""
    found = records.find_version(connection, caller.tenant, image.version)
    if found is not None:
        if (found.image, found.health) != (image, health):
            raise ConflictError(
                f"version {image.version} is registered with another image or health check",
                todo="Give the new image a new version.",
            )
        return found, False
    record = VersionRecord(caller.tenant, image, health, now_ms)
    records.add_version(connection, record)
    return record, True


def get_client(connection: Connection, tenant: str, client_id: str) -> ClientRecord:
    """Raises NotFoundError."""
    found = records.find_client(connection, tenant, client_id)
    if found is None:
        raise NotFoundError(f"there is no client {client_id[:80]!r}")
    return found


def get_job(connection: Connection, tenant: str, job_id: str) -> JobRecord:
    """Raises NotFoundError."""
    found = records.find_job(connection, tenant, job_id)
    if found is None:
        raise NotFoundError(f"there is no job {job_id[:80]!r}")
    return found
