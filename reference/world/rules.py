"""What must hold in the model world beyond a step: over everything that a cut may leave, and at the service."""

from __future__ import annotations

from collections.abc import Iterable

from reference.core.delivery import Memory
from reference.core.invariants import Violation, terminal_is_final
from reference.core.job import Report
from reference.core.model import Image, Phase
from reference.core.record import UpdateRecord
from reference.world.disk import LAYERS, Disk
from reference.world.service import Service

_KEEPS = frozenset(
    {Phase.ACCEPTED, Phase.PULLING, Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING, Phase.ROLLING_BACK}
)


def trusted_survives(records: Iterable[UpdateRecord], disk: Disk) -> list[Violation]:
    """Whatever record and disk a cut leaves, the image that this record trusts is whole in it, and current's container
    is there until the commit.

    Judged over every value that a stored thing may have, not over the last one seen. In idle the duty may be making a
    trusted version anew.
    """
    found = []
    for record in records:
        if record.phase is Phase.IDLE or record.current is None:
            continue
        if record.phase is Phase.COMMITTING:
            assert record.job is not None
            trusted: list[Image] = [record.job.image]
        else:
            trusted = [i.image for i in (record.current, record.previous) if i is not None]
        for image in trusted:
            if not _whole(disk, image.digest):
                detail = f"{record.phase}: a cut may leave {image.version} broken or gone"
                found.append(Violation("trusted_survives", detail))
        if record.phase in _KEEPS and _gone(disk, record.current.container_id):
            detail = f"{record.phase}: a cut may leave no container of {record.current.image.version}"
            found.append(Violation("trusted_survives", detail))
    return found


def _whole(disk: Disk, digest: str) -> bool:
    return any(i.digest == digest and all(i.listed) and min(i.layers) == LAYERS for i in disk.images)


def _gone(disk: Disk, container_id: str | None) -> bool:
    """Whether a container that was there is being removed."""
    return any(c.id == container_id and not c.listed[-1] for c in disk.containers)


def clean_is_settled(dirty: bool, disk: Disk) -> list[Violation]:
    """What the updater takes for synced is: a cut now loses nothing that it has ordered."""
    if dirty or disk.settled:
        return []
    return [Violation("clean_is_settled", "a cut may lose what the updater takes for synced")]


def told_is_final(before: Memory, after: Memory) -> list[Violation]:
    """A device never tells two ends of one job."""
    ends = {(r.job_id, r.generation): r for r in before.finished}
    return [
        Violation("terminal_is_final", f"{r.job_id}: {_end(ends[r.job_id, r.generation])} became {_end(r)}")
        for r in after.finished
        if (r.job_id, r.generation) in ends and _end(ends[r.job_id, r.generation]) != _end(r)
    ]


def _end(report: Report) -> tuple[object, ...]:
    return (report.status, report.outcome, report.reason)


def service_is_final(before: Service, after: Service) -> list[Violation]:
    """No job at the service changes its end, and none is forgotten."""
    found: list[Violation] = []
    for job in before.jobs:
        now = after.job(job.id)
        if now is None:
            found.append(Violation("terminal_is_final", f"job {job.id} was forgotten"))
        else:
            found += terminal_is_final(job, now)
    return found
