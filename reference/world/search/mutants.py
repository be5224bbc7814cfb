"""Rules of the conversation with one safeguard less. What each does can be seen only where messages come out of order, or
a service comes back from a backup: the enumeration, which delivers in good order, cannot tell them from the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reference.core import delivery, job
from reference.core.delivery import BirthVerdict, ClientState, Ingested, Memory, StatusVerdict
from reference.core.job import Job, Report
from reference.world.machine import Rules
from reference.world.search.rules import ServiceRules, Sides

# ---- the device's side


def any_answer_obeyed(memory: Memory, sent: str | None, nonce: str, epoch: str, floor: int) -> Memory:
    """An answer is taken for the one to the last birth, whichever birth it is to."""
    del nonce
    return delivery.receive_birth_answer(memory, sent or "", sent or "", epoch, floor)


def installed_not_asked(memory: Memory, sent: str | None, nonce: str, epoch: str, floor: int) -> Memory:
    """A floor is believed that is below what runs here."""
    record = memory.record
    if sent is None or nonce != sent or epoch != record.epoch:
        return memory
    known = max(floor, record.floor or 0)
    return memory if known == record.floor else replace(memory, record=replace(record, floor=known))


def newer_acknowledged_too(memory: Memory, epoch: str, job_id: str, sequence: int) -> Memory:
    """An acknowledgement of an older report of a job takes the newer one out of the outbox."""
    newest = max((r.sequence for r in memory.outbox if r.job_id == job_id), default=sequence)
    return delivery.receive_acknowledgement(memory, epoch, job_id, max(newest, sequence))


# ---- the service's side


def replaced_comes_back(
    client: ClientState, epoch: str, floor: int | None
) -> tuple[ClientState, BirthVerdict]:
    """A birth of a journal that was given up makes it valid again."""
    return delivery.birth(replace(client, replaced=client.replaced - {epoch}), epoch, floor)


def births_not_counted(client: ClientState) -> int:
    """The next generation is above what this database has issued, whatever the devices know."""
    return client.issued + 1


def floors_not_noted(client: ClientState, epoch: str, floor: int | None) -> tuple[ClientState, BirthVerdict]:
    """What a birth says of its floor is not remembered."""
    after, verdict = delivery.birth(client, epoch, floor)
    return replace(after, reported=client.reported), verdict


def phase_of_the_last_heard(client: ClientState, known: Job | None, report: Report, epoch: str) -> Ingested:
    """While a job runs, its phase is the one that arrives last."""
    if known is None or known.status.terminal or epoch != known.epoch:
        return delivery.ingest(client, known, report, epoch)
    return delivery.ingest(client, replace(known, sequence=-1), report, epoch)


def newest_of_any(client: ClientState, known: Job | None, report: Report, epoch: str) -> Ingested:
    """What runs is taken from any report, an old one too."""
    done = delivery.ingest(client, known, report, epoch)
    return replace(done, newest=epoch == client.epoch)


def sequence_of_the_last_heard(
    client: ClientState, known: Job | None, report: Report, epoch: str
) -> Ingested:
    """What runs is taken from a report that is newer than the last one that came, not than all before it."""
    done = delivery.ingest(client, known, report, epoch)
    if epoch != client.epoch:
        return done
    return replace(done, client=replace(done.client, sequence=report.sequence))


def any_journal_counts(client: ClientState, known: Job | None, report: Report, epoch: str) -> Ingested:
    """A report counts whichever journal it comes from."""
    if epoch == client.epoch or known is None:
        return delivery.ingest(client, known, report, epoch)
    after = job.told(known, report, epoch)
    verdict = StatusVerdict.STALE if after == known else StatusVerdict.APPLIED
    return Ingested(client, after, verdict, newest=False)


def never_overtaken(older: Job, newer: Job) -> Job:
    """A job that was put aside unheard waits for a word that never comes."""
    del newer
    return older


@dataclass(frozen=True)
class Mutant:
    """One of them, with the invariant that sees it, and a seed that shows it."""

    name: str
    about: str
    sides: Sides
    killed_by: str
    seed: int


def _device(rule: str, function: object, killed_by: str, seed: int) -> Mutant:
    return _mutant(function, Sides(device=Rules(**{rule: function})), killed_by, seed)  # type: ignore[arg-type]


def _service(rule: str, function: object, killed_by: str, seed: int) -> Mutant:
    return _mutant(function, Sides(service=ServiceRules(**{rule: function})), killed_by, seed)  # type: ignore[arg-type]


def _mutant(function: object, sides: Sides, killed_by: str, seed: int) -> Mutant:
    about = (getattr(function, "__doc__", "") or "").splitlines()[0]
    return Mutant(getattr(function, "__name__", ""), about, sides, killed_by, seed)


MUTANTS = (
    _device("receive_birth_answer", any_answer_obeyed, "answer_is_expected", 287),
    _device("receive_birth_answer", installed_not_asked, "generations_rise", 1821),
    _device("receive_acknowledgement", newer_acknowledged_too, "every_job_ends", 63),
    _service("birth", replaced_comes_back, "replaced_never_returns", 96),
    _service("birth", floors_not_noted, "next_generation_is_new", 4),
    _service("next_generation", births_not_counted, "next_generation_is_new", 4),
    _service("ingest", phase_of_the_last_heard, "newest_counts", 0),
    _service("ingest", newest_of_any, "newest_counts", 0),
    _service("ingest", sequence_of_the_last_heard, "newest_counts", 0),
    _service("ingest", any_journal_counts, "replaced_never_returns", 26),
    _service("overtaken", never_overtaken, "every_job_ends", 10),
)
