"""The service of the model world: one client's jobs. Every rule is a function of `core.delivery` or `core.job`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from reference.core import delivery
from reference.core import job as jobs
from reference.core.delivery import BirthVerdict, ClientState
from reference.core.job import Job, Report
from reference.core.model import Command
from reference.world.nouns import FAR


class Service(NamedTuple):
    """What the service's database holds of one client."""

    client: ClientState = ClientState()
    jobs: tuple[Job, ...] = ()
    """By generation."""
    cancels: tuple[str, ...] = ()
    """Jobs whose cancel was sent."""

    def job(self, job_id: str) -> Job | None:
        """The job of that id."""
        return next((j for j in self.jobs if j.id == job_id), None)


def ordered(service: Service, command: Command) -> Service:
    """The service after an order: the job that was open is superseded."""
    older = (jobs.superseded(j, command.generation, sent=True) for j in service.jobs)
    client = service.client
    issued = max(client.issued, command.generation)
    client = ClientState(issued, client.reported, client.epoch, client.replaced, client.sequence)
    return service._replace(client=client, jobs=(*older, Job(command.job_id, command.generation)))


def waiting(service: Service, now_ms: int = 0, expires_at_ms: int = FAR) -> tuple[Job, ...]:
    """Jobs whose command is to be sent again."""
    return tuple(j for j in service.jobs if delivery.command_pending(j, now_ms, expires_at_ms))


def canceling(service: Service) -> tuple[Job, ...]:
    """Jobs whose cancel is to be sent again."""
    return tuple(j for j in service.jobs if j.id in service.cancels and not j.status.terminal)


def born(service: Service, epoch: str, floor: int | None, open_job: str | None) -> tuple[Service, int | None]:
    """The service after a birth, and the floor that it answers with; None: it does not answer."""
    reported = service.client.reported
    client, verdict = delivery.birth(service.client, epoch, floor)
    if verdict is BirthVerdict.REPLACED:
        return service._replace(client=client), None
    after = tuple(delivery.orphaned(j, verdict, open_job, reported) for j in service.jobs)
    service = service._replace(client=client, jobs=after)
    untaken = next((j.generation for j in waiting(service)), None)
    return service, delivery.birth_floor(client, untaken)


def heard(
    service: Service, reports: Iterable[Report], epoch: str
) -> tuple[Service, tuple[tuple[str, int], ...]]:
    """The service after statuses, and what it acknowledges: job and sequence."""
    acknowledged = []
    for report in reports:
        before = service.job(report.job_id)
        if before is not None and before.generation != report.generation:
            before = None
        found = delivery.ingest(service.client, before, report, epoch)
        service = service._replace(client=found.client)
        if found.job is not None and found.job is not before:
            service = _changed(service, found.job)
        if found.acknowledge:
            acknowledged.append((report.job_id, report.sequence))
    return service, tuple(acknowledged)


def _changed(service: Service, after: Job) -> Service:
    told = tuple(after if j.id == after.id else jobs.overtaken(j, after) for j in service.jobs)
    return service._replace(jobs=told)
