"""The service's side for one client: each rule is a function of `core.delivery` or `core.job`, worked out once."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from reference.core.delivery import BirthVerdict, ClientState
from reference.core.invariants import Violation, terminal_is_final
from reference.core.job import Job, Report
from reference.core.limits import ServiceLimits
from reference.world.search.rules import ServiceRules
from reference.world.tables import Table


class Kept(NamedTuple):
    """What the database holds of a client, beside the outbox and its times."""

    client: ClientState = ClientState()
    jobs: tuple[Job, ...] = ()
    running: str | None = None

    def job(self, job_id: str) -> Job | None:
        """The job of that id."""
        return next((j for j in self.jobs if j.id == job_id), None)

    @property
    def counting(self) -> Job | None:
        """The open job that counts."""
        return next((j for j in self.jobs if not j.status.terminal and j.superseded_by is None), None)


class Born(NamedTuple):
    """What came of a birth."""

    after: int
    answered: bool
    found: tuple[Violation, ...]
    verdict: str


class Stored(NamedTuple):
    """What came of a status. `changed`: the job it spoke of did."""

    after: int
    acknowledge: bool
    changed: bool
    found: tuple[Violation, ...]
    verdict: str


class Desk:
    """All clients of every seed: what was worked out for one is known for all."""

    def __init__(self, rules: ServiceRules, limits: ServiceLimits) -> None:
        self.rules, self.limits = rules, limits
        self.kept: Table[Kept] = Table()
        self.codes: list[int] = []
        self.open: list[bool] = []
        self._born: dict[tuple[int, str, int | None, str | None, str | None], Born] = {}
        self._stored: dict[tuple[int, int, str, str | None], Stored] = {}

    def number(self, kept: Kept) -> int:
        """The number of what is kept."""
        number = self.kept.number(kept)
        if number == len(self.codes):
            client = kept.client
            ours = (client.issued, client.reported, client.epoch, sorted(client.replaced), client.sequence)
            self.codes.append(zlib.crc32(f"{ours} {kept.jobs} {kept.running}".encode()))
            self.open.append(any(not j.status.terminal for j in kept.jobs))
        return number

    @property
    def size(self) -> int:
        """How many values it has seen."""
        return len(self.kept) + len(self._born) + len(self._stored)

    def born(
        self, number: int, epoch: str, floor: int | None, open_job: str | None, running: str | None
    ) -> Born:
        """A device has announced itself."""
        key = (number, epoch, floor, open_job, running)
        found = self._born.get(key)
        if found is None:
            found = self._born[key] = self._birth(self.kept[number], epoch, floor, open_job, running)
        return found

    def _birth(
        self, kept: Kept, epoch: str, floor: int | None, open_job: str | None, running: str | None
    ) -> Born:
        client, verdict = self.rules.birth(kept.client, epoch, floor)
        if verdict is BirthVerdict.REPLACED:
            after = kept._replace(client=client)
            return Born(self.number(after), False, changed(kept, after), verdict.value)
        reported = kept.client.reported
        jobs = tuple(
            j if j.status.terminal else self.rules.orphaned(j, verdict, open_job, reported) for j in kept.jobs
        )
        after = Kept(client, jobs, running)
        return Born(self.number(after), True, changed(kept, after), verdict.value)

    def floor(self, number: int, untaken: int | None) -> int:
        """What a birth is answered with."""
        return self.rules.birth_floor(self.kept[number].client, untaken)

    def stored(
        self, number: int, report: Report, report_number: int, epoch: str, running: str | None
    ) -> Stored:
        """A status has arrived."""
        key = (number, report_number, epoch, running)
        found = self._stored.get(key)
        if found is None:
            found = self._stored[key] = self._status(self.kept[number], report, epoch, running)
        return found

    def _status(self, kept: Kept, report: Report, epoch: str, running: str | None) -> Stored:
        before = kept.job(report.job_id)
        if before is not None and before.generation != report.generation:
            before = None
        done = self.rules.ingest(kept.client, before, report, epoch)
        after = kept._replace(client=done.client)
        if done.newest:
            after = after._replace(running=running)
        applied = done.job is not None and before is not None and done.job != before
        if applied and done.job is not None:
            after = after._replace(jobs=self._with(kept.jobs, done.job))
        found = changed(kept, after) + _in_epoch(kept, after, epoch)
        if done.newest and epoch == kept.client.epoch and report.sequence < kept.client.sequence:
            detail = f"what runs is taken from report {report.sequence}, after {kept.client.sequence}"
            found += (Violation("newest_counts", detail),)
        return Stored(self.number(after), done.acknowledge, applied, found, done.verdict.value)

    def _with(self, jobs: tuple[Job, ...], told: Job) -> tuple[Job, ...]:
        """The jobs after one has changed: older ones may be over with it."""
        return tuple(
            told if j.id == told.id else j if j.status.terminal else self.rules.overtaken(j, told)
            for j in jobs
        )

    def ordered(self, number: int, job_id: str, *, sent: bool) -> tuple[int, int, tuple[Violation, ...]]:
        """A job is opened, and the one that counted put aside (`sent`: its command has left): after, generation."""
        kept = self.kept[number]
        generation = self.rules.next_generation(kept.client)
        counting = kept.counting
        jobs = tuple(
            self.rules.superseded(j, generation, sent=sent) if j is counting else j for j in kept.jobs
        )
        client = kept.client
        issued = ClientState(
            max(client.issued, generation), client.reported, client.epoch, client.replaced, client.sequence
        )
        after = Kept(issued, (*jobs, Job(job_id, generation)), kept.running)
        return self.number(after), generation, changed(kept, after)

    def canceled(self, number: int, job_id: str) -> tuple[int, tuple[Violation, ...]]:
        """A job is canceled whose command never left."""
        kept = self.kept[number]
        jobs = tuple(self.rules.canceled(j) if j.id == job_id else j for j in kept.jobs)
        after = kept._replace(jobs=jobs)
        return self.number(after), changed(kept, after)

    def overdue(
        self, number: int, silent_ms: dict[str, int], age_ms: dict[str, int]
    ) -> tuple[int, tuple[Violation, ...]]:
        """A look at the clock, and at jobs that were put aside for one that is over by now."""
        kept = self.kept[number]
        jobs = kept.jobs
        for j in kept.jobs:
            after = (
                j if j.status.terminal else self.rules.overdue(j, silent_ms[j.id], age_ms[j.id], self.limits)
            )
            if after is not j:
                jobs = self._with(jobs, after)
        for j in jobs:
            newer = next((n for n in jobs if n.generation == j.superseded_by), None)
            if not j.status.terminal and newer is not None:
                after = self.rules.overtaken(j, newer)
                jobs = tuple(after if k.id == j.id else k for k in jobs)
        now = kept._replace(jobs=jobs)
        return self.number(now), changed(kept, now)


def changed(before: Kept, after: Kept) -> tuple[Violation, ...]:
    """What must hold over any change at the service."""
    found: list[Violation] = []
    old, new = before.client, after.client
    if new.issued < old.issued or new.reported < old.reported:
        found.append(Violation("generations_rise", f"issued {old.issued} and reported {old.reported} fell"))
    if not old.replaced <= new.replaced:
        found.append(Violation("replaced_never_returns", "a replaced epoch is forgotten"))
    if new.epoch is not None and new.epoch in old.replaced:
        found.append(Violation("replaced_never_returns", f"{new.epoch} was replaced, and is valid again"))
    if new.epoch == old.epoch and new.sequence < old.sequence:
        found.append(Violation("newest_counts", f"report {new.sequence} after {old.sequence}"))
    now = {j.id: j for j in after.jobs}
    for job in before.jobs:
        if job.id not in now:
            found.append(Violation("terminal_is_final", f"job {job.id} was forgotten"))
            continue
        found += terminal_is_final(job, now[job.id])
        if job.epoch == now[job.id].epoch and now[job.id].sequence < job.sequence:
            detail = f"{job.id}: report {now[job.id].sequence} after {job.sequence}"
            found.append(Violation("newest_counts", detail))
    return tuple(found)


def _in_epoch(before: Kept, after: Kept, epoch: str) -> tuple[Violation, ...]:
    if epoch == before.client.epoch or before == after:
        return ()
    detail = f"a report of {epoch} counts, and {before.client.epoch} is valid"
    return (Violation("replaced_never_returns", detail),)
