"""What the history says of one device, as the nouns that checkers and reports speak of. Pure; raises Missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pydantic import TypeAdapter, ValidationError

from chaos.checkers.case import Case, Missing, number, remembered
from chaos.history import Event
from reference.core import invariants
from reference.core.delivery import Memory
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus
from reference.core.model import Outcome, Phase, World

CLOCKS_AGREE_S = 5.0
"""A device's clock that is farther off than this is not believed: some faults set it."""
BLIND_S = 1.0
"""A time without a probe that is longer than this, and than `BLIND_PROBES` of the pauses between two, hides an outage."""
BLIND_PROBES = 20
_MEMORY, _WORLD = TypeAdapter(Memory), TypeAdapter(World)


class NeverBack(Missing):
    """A rollback was journaled, and the old version was not seen to answer after it."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """From one change of what the probe gets to the next. `version` None: nobody answers."""

    begin: float
    end: float
    version: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of phase, as the device has journaled it. `t` by the device's clock, in seconds of the run."""

    t: float
    at_ms: float
    job_id: str | None
    generation: int | None
    phase: Phase
    outcome: Outcome | None
    reason: Reason | None
    boot_id: str | None

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two of them the same."""
        return (self.at_ms, self.job_id, self.phase, self.outcome, self.reason, self.boot_id)


@dataclass(frozen=True, slots=True)
class Order:
    """A version that was asked for, and the job that it became."""

    t: float
    to: str
    digest: str
    job_id: str


@remembered
def stretches(case: Case, device: str) -> list[Stretch]:
    """What the probe got, without gaps, from its first answer to its end; neighbours differ."""
    changes = [*case.of("probe", "bad", device), *case.of("probe", "good", device)]
    changes.sort(key=lambda event: event.t)
    end = case.last("probe", "end", device)
    until = end.t if end is not None else max([e.t for e in case.history.events], default=0.0)
    found: list[Stretch] = []
    for event, later in zip_longest(changes, changes[1:]):
        version = str(event.data.get("version")) if event.event == "good" else None
        stop = max(event.t, later.t if later is not None else until)
        if found and found[-1].version == version:
            found[-1] = Stretch(found[-1].begin, stop, version)
        else:
            found.append(Stretch(event.t, stop, version))
    return found


def gaps(case: Case, device: str) -> list[Stretch]:
    """The outages since the method began; what was before the first install is none. Raises Missing."""
    case.end("probe", device)
    since, found = case.method_began, stretches(case, device)
    if not found:
        raise Missing("the probe has seen nothing")
    first = next((n for n, s in enumerate(found) if s.version is not None), len(found))
    after = found if case.scenario.bench.begins is not None else found[first:]
    return [Stretch(max(s.begin, since), s.end, None) for s in after if s.version is None and s.end > since]


def downtime_ms(case: Case, device: str) -> int | None:
    """All outages together; None where nothing ran before and nothing came. Raises Missing."""
    found = gaps(case, device)
    if case.scenario.bench.begins is None and all(s.version is None for s in stretches(case, device)):
        return None
    return round(sum(s.end - s.begin for s in found) * 1000)


@remembered
def blind(case: Case, device: str) -> list[Stretch]:
    """Since the method began: when the probe did not ask for so long that what happened then is not known.

    Raises Missing for a gap that cannot be read.
    """
    begins, found = case.first("run", "method-begins"), []
    for event in case.of("probe", "gap", device) if begins is not None else ():
        if (ms := number(event.data.get("ms"))) is None:
            raise Missing("a gap between two probes cannot be read")
        most = max(BLIND_S, BLIND_PROBES * (number(event.data.get("every_ms")) or 0) / 1000)
        begin, end = max(event.t, begins.t if begins is not None else 0.0), event.t + ms / 1000
        if end - begin > most:
            found.append(Stretch(begin, end, None))
    return found


def blind_ms(case: Case, device: str) -> int:
    """All such times together."""
    return round(sum(s.end - s.begin for s in blind(case, device)) * 1000)


def seen_down_ms(case: Case, device: str) -> int:
    """Of all outages, what was down for certain: without the times in which nobody asked. Raises Missing."""
    dark = blind(case, device)
    sure = 0.0
    for gap in gaps(case, device):
        hidden = sum(max(0.0, min(gap.end, s.end) - max(gap.begin, s.begin)) for s in dark)
        sure += max(0.0, gap.end - gap.begin - hidden)
    return round(sure * 1000)


def unwatched(case: Case, device: str) -> str:
    """In words, when nobody asked; empty where it never was so. Raises Missing."""
    dark = blind(case, device)
    times = ", ".join(f"{round((s.end - s.begin) * 1000)} ms from {s.begin:.3f} s on" for s in dark)
    return f"nobody asked the client for {times}" if dark else ""


# ---- orders and jobs


@remembered
def orders(case: Case, device: str) -> list[Order]:
    """What the method and the rollbacks asked for and the API took, in order."""
    return [
        Order(e.t, str(e.data.get("to")), str(e.data.get("digest") or ""), str(e.data.get("jobId")))
        for e in case.of("action", "update", device)
    ]


def asked_for(case: Case, device: str) -> bool:
    """Whether the device was asked for anything, taken by the API or not."""
    return bool(case.of("action", "update", device) or case.of("action", "refused", device))


def last_job(case: Case, device: str) -> Mapping[str, object] | None:
    """The last ordered job as the API showed it in the end; None when none was ordered. Raises Missing."""
    asked = {order.job_id for order in orders(case, device)}
    if not asked:
        return None
    shown = case.end("api", device).get("job")
    if not isinstance(shown, dict):
        raise Missing("the API showed no job in the end")
    if str(shown.get("jobId")) not in asked:
        raise Missing(f"the API showed job {shown.get('jobId')}, which is none of those that were ordered")
    return shown


def reason_of(job: Mapping[str, object]) -> str:
    """The reason's code; empty for none."""
    reason = job.get("reason")
    code = reason.get("code") if isinstance(reason, dict) else reason
    return str(code) if code else ""


def as_job(shown: Mapping[str, object]) -> Job:
    """The service's job of what its API shows. Raises Missing for what is none."""
    outcome, late, reason = shown.get("outcome"), shown.get("lateOutcome"), reason_of(shown)
    try:
        return Job(
            str(shown["jobId"]),
            number(shown.get("generation")) or 0,
            JobStatus(str(shown["status"])),
            outcome=Outcome(str(outcome)) if outcome else None,
            reason=Reason(reason) if reason else None,
            late_outcome=_late(str(late)) if late else None,
        )
    except (KeyError, ValueError) as error:
        raise Missing(f"the API showed what is no job: {error}") from None


def _late(text: str) -> Outcome | JobStatus:
    return Outcome(text) if text in {o.value for o in Outcome} else JobStatus(text)


@remembered
def shown(case: Case, device: str) -> list[tuple[float, Job]]:
    """Every change of a job that the API showed, in order, and the end."""
    found = [(e.t, as_job(e.data)) for e in case.of("api", "job", device)]
    end = case.last("api", "end", device)
    if end is not None and isinstance(last := end.data.get("job"), dict):
        found.append((end.t, as_job(last)))
    return found


@remembered
def gone(case: Case, device: str) -> dict[str, JobStatus | None]:
    """Ordered jobs that the API did not know any more, with the last status that it had shown; None: it had none."""
    asked = {order.job_id for order in orders(case, device)}
    found: dict[str, JobStatus | None] = {}
    for event in case.of("api", "job-gone", device):
        job_id = str(event.data.get("jobId"))
        if job_id in asked:
            before = [job.status for t, job in shown(case, device) if job.id == job_id and t <= event.t]
            found[job_id] = before[-1] if before else None
    return found


# ---- the device's own memory


@remembered
def memory(case: Case, device: str) -> Memory:
    """What the device's journal holds in the end. Raises Missing."""
    try:
        return _MEMORY.validate_python(case.end("journal", device).get("memory"))
    except ValidationError as error:
        raise Missing(f"the journal's end cannot be read: {error.errors()[0]['msg']}") from None


@remembered
def world(case: Case, device: str) -> World:
    """What the device's runtime shows in the end. Raises Missing."""
    try:
        return _WORLD.validate_python(case.end("containers", device).get("world"))
    except ValidationError as error:
        raise Missing(f"the containers' end cannot be read: {error.errors()[0]['msg']}") from None


@remembered
def journals(case: Case, device: str) -> tuple[list[Entry], list[Entry]]:
    """What was journaled and is not in the last journal any more (it was lost, or is full), and the last one.

    Raises Missing when it was not read in the end.
    """
    rows = case.end("journal", device).get("history")
    if not isinstance(rows, list | tuple):
        raise Missing("the journal's history was not read")
    last = [_entry(case, row) for row in rows]
    kept = {entry.key for entry in last}
    live = [_entry(case, event.data) for event in case.of("journal", "entry", device)]
    return [entry for entry in live if entry.key not in kept], last


def _entry(case: Case, row: object) -> Entry:
    if not isinstance(row, Mapping):
        raise Missing("a row of the journal's history cannot be read")
    try:
        at_ms = float(str(row["at_ms"]))
        outcome, reason = row.get("outcome"), row.get("reason")
        return Entry(
            case.instant(at_ms),
            at_ms,
            _text(row.get("job_id")),
            number(row.get("generation")),
            Phase(str(row["phase"])),
            Outcome(str(outcome)) if outcome else None,
            Reason(str(reason)) if reason else None,
            _text(row.get("boot_id")),
        )
    except (KeyError, ValueError) as error:
        raise Missing(f"a row of the journal's history cannot be read: {error}") from None


@remembered
def own_entries(case: Case, device: str) -> tuple[list[Entry], list[Entry]]:
    """`journals`, without what belongs to the bench's set-up. Raises Missing."""
    before, last = journals(case, device)
    setup = _setup_jobs(case, device)
    return [e for e in before if e.job_id not in setup], [e for e in last if e.job_id not in setup]


def _setup_jobs(case: Case, device: str) -> set[str]:
    """Ids of the jobs that were there before the method began."""
    asked, since = {order.job_id for order in orders(case, device)}, case.method_began
    early: list[Event] = [*case.of("api", "job", device), *case.of("phase", "durable", device)]
    ids = {str(e.data.get("jobId") or e.data.get("job_id")) for e in early if e.t < since}
    before, last = journals(case, device)
    ids |= {e.job_id for e in (*before, *last) if e.job_id and e.t < since}
    return ids - asked


def journaled_t(case: Case, device: str, job_id: str | None, wanted: Phase | None) -> float | None:
    """When a phase of a job first became durable, or (None) its end; by the bench's clock where the agent said it.

    None: it never did. Raises Missing when the journal was not read.
    """
    said = next(
        (
            e.t
            for e in case.of("phase", "durable", device)
            if e.data.get("job_id") == job_id and _is(e, wanted)
        ),
        None,
    )
    before, last = journals(case, device)
    entries = (e for e in (*before, *last) if e.job_id == job_id)
    matching: Iterable[Entry] = (
        e for e in entries if (e.outcome is not None if wanted is None else e.phase is wanted)
    )
    written = next((e.t for e in matching), None)
    if said is None or written is None:
        return said if written is None else written
    return min(said, written) if abs(said - written) < CLOCKS_AGREE_S else said


def _is(event: Event, wanted: Phase | None) -> bool:
    return bool(event.data.get("outcome")) if wanted is None else event.data.get("phase") == wanted.value


def switches(entries: Sequence[Entry]) -> list[int]:
    """Generations in the order in which they were switched to."""
    return invariants.switched((entry.phase, entry.generation) for entry in entries)


def jobs_in(entries: Iterable[Entry], phase: Phase) -> list[str]:
    """Ids of the jobs that came to a phase, each once, in order."""
    return list(dict.fromkeys(e.job_id for e in entries if e.phase is phase and e.job_id))


def version_before(case: Case, device: str, job_id: str | None) -> str | None:
    """What was confirmed before a job: the last version that succeeded before it, else what the bench began with."""
    current = case.scenario.bench.begins
    done = {job.id for _, job in shown(case, device) if job.outcome is Outcome.SUCCEEDED}
    for order in orders(case, device):
        if order.job_id == job_id:
            break
        if order.job_id in done:
            current = order.to
    return current


def rollback_ms(case: Case, device: str) -> int | None:
    """The longest, from its being journaled to the old version's first good answer; None: there was none.

    Raises Missing; NeverBack when the old version never answered again.
    """
    before, last = own_entries(case, device)
    took: list[int] = []
    asked = {order.job_id for order in orders(case, device)}
    for job_id in jobs_in((*before, *last), Phase.ROLLING_BACK):
        if job_id not in asked:
            continue  # Of before: a clock that was set may have put it here.
        old = version_before(case, device, job_id)
        begun = journaled_t(case, device, job_id, Phase.ROLLING_BACK)
        if old is None or begun is None:
            continue
        back = next((s for s in stretches(case, device) if s.version == old and s.end > begun), None)
        if back is None:
            raise NeverBack(f"{old} was never seen to come back")
        took.append(round(max(0.0, back.begin - begun) * 1000))
    return max(took, default=None)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
