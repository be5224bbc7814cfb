"""The judge of a cut: plain functions over what was said, what the disk held after the cut, and where it all ended.

What a device said before the power went must be on its disk afterwards; what the disk lists must be whole; and with
no further cut exactly one healthy client must run, of a version that the story may end with, and nobody may have been
told otherwise. Nothing is judged by the agent's word alone: what runs is asked over HTTP and seen in the process list,
and what lies on the disk is compared with what was built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reference.core import invariants
from reference.core.delivery import Memory
from reference.core.job import Job, JobStatus, Report
from reference.core.limits import Limits
from reference.core.model import Container, ContainerState, HealthState, Image, ImageState, Phase, World
from reference.core.steps import Wait
from reference.core.update import UpdateRecord
from reference.power.desk import Said
from reference.power.ends import End
from reference.power.stories import NEW, OLD

# ---- what is judged


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that the disk lists: what the runtime says of it, and whether each file is as it was built."""

    claimed: ImageState
    whole: bool


@dataclass(frozen=True, slots=True)
class StoredContainer:
    """A container that the disk lists. `digest` is None when its description is not whole."""

    id: str
    generation: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A device's disk, looked at while nothing of the device runs."""

    memory: Memory | None
    """None: the journal cannot be believed, and `trouble` says why."""
    trouble: str = ""
    images: Mapping[str, StoredImage] = field(default_factory=dict)
    """By digest."""
    containers: tuple[StoredContainer, ...] = ()
    switched: tuple[int, ...] = ()
    """Generations of the journaled switches, in order."""
    volume: str = ""
    """What is wrong with the client's data; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the service heard before the power went."""

    said: tuple[Said, ...]
    took: bool
    """The command was acknowledged to the broker."""
    generation: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Where it all ended, without further cuts."""

    settled: bool
    """It came to rest in time: the job ended, the journal idle, the client healthy."""
    clients: tuple[str, ...]
    """Digests that client processes run, one for each process."""
    answered: str | None
    """The version that answers well over HTTP."""
    job: Job
    said: tuple[Said, ...]
    stored: Stored


# ---- what is found


class Kind(StrEnum):
    """The value is the count's name in the report."""

    BRICKED = "bricked"
    """Not exactly one healthy client."""
    FALSE_REPORT = "false_reports"
    """Something was said that disk or device deny."""
    CORRUPT = "corrupt"
    """The disk lists something that is not whole."""
    UNMAPPED = "unmapped"
    """An end that the rules do not know."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding, in words for people."""

    kind: Kind
    detail: str


def claimed(stored: Stored, images: Mapping[str, ImageState] | None) -> Stored:
    """What lay on the disk, with what the runtime itself made of the images when it first looked; None: it never did."""
    if images is None:
        return stored
    found = {d: replace(one, claimed=images[d]) for d, one in stored.images.items() if d in images}
    return replace(stored, images=found)


def after_cut(heard: Heard, stored: Stored) -> list[Problem]:
    """What is wrong with a disk that has just lost power and was mounted again."""
    found = [*_listed(stored)]
    memory = stored.memory
    if memory is None:
        return [*found, Problem(Kind.CORRUPT, f"the journal after the cut: {stored.trouble}")]
    record = memory.record
    found += [Problem(Kind.FALSE_REPORT, v.detail) for v in invariants.status_not_ahead(memory)]
    found += [Problem(Kind.FALSE_REPORT, what) for what in _denied(heard, memory)]
    return found + [Problem(Kind.CORRUPT, what) for what in _missing(record, stored)]


def at_rest(after: Stored, rest: Rest, version: Mapping[str, str], limits: Limits) -> list[Problem]:
    """What is wrong with the end. `after`: the disk after the cut. `version`: digest -> `v1` or `v2`."""
    found = []
    if len(rest.clients) != 1 or rest.answered is None:
        what = f"{len(rest.clients)} client processes, and {rest.answered or 'nothing'} answers well"
        found.append(Problem(Kind.BRICKED, what))
    elif version.get(rest.clients[0]) != rest.answered:
        found.append(Problem(Kind.BRICKED, f"{rest.clients[0]} runs and answers that it is {rest.answered}"))
    memory = rest.stored.memory
    if memory is None:
        return [*found, Problem(Kind.CORRUPT, f"the journal at the end: {rest.stored.trouble}")]
    found += _listed(rest.stored)
    if rest.stored.volume:
        found.append(Problem(Kind.CORRUPT, f"the client's data: {rest.stored.volume}"))
    found += [Problem(Kind.FALSE_REPORT, what) for what in _lied(rest, memory)]
    world = _world(rest)
    broken = [
        *invariants.bounded(memory, Wait(1, "at rest"), world, limits),
        *invariants.one_install_per_generation(rest.stored.switched),
    ]
    if after.memory is not None:
        broken += invariants.generations_rise(after.memory.record, memory.record)
    if not any(problem.kind is Kind.BRICKED for problem in found):
        broken += invariants.converged(memory.record, world)
    return found + [Problem(Kind.UNMAPPED, f"{v.invariant}: {v.detail}") for v in broken]


def end_of(rest: Rest, version: Mapping[str, str]) -> End:
    """The end in the model's words."""
    runs = rest.answered if len(rest.clients) == 1 else None
    record = rest.stored.memory.record if rest.stored.memory is not None else None
    current = record.current.image.digest if record is not None and record.current is not None else None
    previous = record.previous.image.digest if record is not None and record.previous is not None else None

    def named(digest: str | None) -> str | None:
        return version.get(digest, digest) if digest is not None else None

    outcome = rest.job.outcome if rest.settled else None
    return End(outcome, rest.job.reason, runs, named(current), named(previous))


# ---- the rules


def _listed(stored: Stored) -> Iterable[Problem]:
    """What the disk lists is whole, or the runtime itself says that it is broken."""
    for digest, image in stored.images.items():
        if image.claimed is ImageState.PRESENT and not image.whole:
            yield Problem(Kind.CORRUPT, f"the image {digest} passes for whole and is not as it was built")
    for container in stored.containers:
        if container.digest is None:
            yield Problem(Kind.CORRUPT, f"the description of container {container.id} is not whole")


def _denied(heard: Heard, memory: Memory) -> Iterable[str]:
    """What was said before the cut and is not in the journal after it."""
    epoch, finished = memory.record.epoch, (*memory.finished, *memory.outbox)
    for epoch_then, report in _pairs(heard.said):
        what = f"{report.status} in {report.phase} (sequence {report.sequence}) was said"
        if epoch_then != epoch:
            yield f"{what}, and the journal is another one now"
        elif report.sequence > memory.sequence:
            yield f"{what}, and the journal has come to sequence {memory.sequence} only, in {memory.record.phase}"
        elif report.status.terminal and not any(_same(report, other) for other in finished):
            yield f"{what}, and the journal knows no such end of job {report.job_id}"
    floor = memory.record.floor
    if heard.took and (floor is None or floor < heard.generation):
        yield f"the command was acknowledged, and the journal knows no generation above {floor}"


def _pairs(said: Sequence[Said]) -> Iterable[tuple[str, Report]]:
    return ((one.epoch, one.report) for one in said)


def _same(one: Report, other: Report) -> bool:
    return (one.job_id, one.status, one.outcome, one.reason) == (
        other.job_id,
        other.status,
        other.outcome,
        other.reason,
    )


_NEEDS_CURRENT = frozenset(Phase) - {Phase.COMMITTING}
_NEEDS_IMAGE = frozenset({Phase.STAGED, Phase.SWITCHING, Phase.VERIFYING, Phase.COMMITTING})
_NEEDS_CANDIDATE = frozenset({Phase.SWITCHING, Phase.VERIFYING, Phase.COMMITTING})


def _missing(record: UpdateRecord, stored: Stored) -> Iterable[str]:
    """What the journal stands on and the disk does not have."""
    phase, job, current = record.phase, record.job, record.current

    def whole(digest: str) -> bool:
        image = stored.images.get(digest)
        return image is not None and image.claimed is ImageState.PRESENT and image.whole

    def there(digest: str) -> bool:
        return any(container.digest == digest for container in stored.containers)

    if current is not None and not whole(current.image.digest):
        yield f"{phase} is journaled, and the image of current is not whole"
    if current is not None and phase in _NEEDS_CURRENT and not there(current.image.digest):
        yield f"{phase} is journaled, and the container of current is not there"
    if job is not None and phase in _NEEDS_IMAGE and not whole(job.image.digest):
        yield f"{phase} is journaled, and the image of the candidate is not whole"
    if job is not None and phase in _NEEDS_CANDIDATE and not there(job.image.digest):
        yield f"{phase} is journaled, and the container of the candidate is not there"


def _lied(rest: Rest, memory: Memory) -> Iterable[str]:
    """What the service was told in the end, against what runs and what the journal holds."""
    job = rest.job
    ends = {(r.status, r.outcome) for _, r in _pairs(rest.said) if r.status.terminal and r.job_id == job.id}
    if len(ends) > 1:
        yield f"one job was told to have ended as {' and as '.join(sorted(str(status) for status, _ in ends))}"
    if job.status is JobStatus.SUCCEEDED and rest.answered not in (NEW, None):
        yield f"SUCCEEDED was said, and {rest.answered} runs"
    if job.status is JobStatus.FAILED and rest.answered not in (OLD, None):
        yield f"FAILED was said, and {rest.answered} runs"
    if job.status.terminal:
        kept = [
            r
            for r in (*memory.finished, *memory.outbox)
            if (r.job_id, r.generation) == (job.id, job.generation)
        ]
        if not any(not invariants.agrees(job, r.outcome, r.reason) for r in kept if r.status is job.status):
            yield f"{job.status} was said, and the journal knows no such end of job {job.id}"


def _world(rest: Rest) -> World:
    """The device at rest as core sees one."""
    healthy = HealthState.HEALTHY if rest.answered is not None else HealthState.STARTING
    containers = tuple(
        Container(
            id=found.id,
            generation=found.generation,
            image=Image("", found.digest or "", ""),
            state=ContainerState.RUNNING if found.digest in rest.clients else ContainerState.EXITED,
            health=healthy if found.digest in rest.clients else HealthState.STARTING,
        )
        for found in rest.stored.containers
    )
    images = {digest: image.claimed for digest, image in rest.stored.images.items()}
    return World(boot_id="", containers=containers, images=images)
