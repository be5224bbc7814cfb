"""The judge: compares what was seen from outside with how a story has to end. Never the agent's word alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from reference.core import invariants
from reference.core.errors import BlackstartError, Reason
from reference.core.job import Job, JobStatus
from reference.core.model import Container, HealthState, Outcome, Phase, World
from reference.demo.bench import OLD, Bench
from reference.demo.observer import ask
from reference.demo.stories import Story
from reference.edge.journal import HistoryEntry, Journal
from reference.edge.main import journal_path
from reference.edge.settings import load_settings


class Verdict(StrEnum):
    """`unknown` is what could not be judged: never a pass."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judged:
    """One row of the table."""

    name: str
    outcome: str
    reason: str
    downtime_ms: int | None
    rollback_ms: int | None
    verdict: Verdict
    evidence: dict[str, object]


async def judge(story: Story, bench: Bench) -> Judged:
    """Judge a story that has ended. The agent is stopped first, which must leave the client alone."""
    observer = bench.observer
    assert observer is not None, "a story commands an update first"
    agent = bench.device.agent
    if agent is not None:
        await agent.stop()
    survivors = bench.client_pids()
    last = ask(bench.device.client_port)
    seen = bench.seen = observer.stop()
    journal = Journal.open(journal_path(load_settings(bench.device.config)))
    memory, history = journal.memory, journal.history()
    journal.close()
    world = await _world(bench, last.good)
    own = [entry for entry in history if entry.job_id == bench.job.get("jobId")]
    ends = [entry for entry in own if entry.outcome is not None]
    ended = ends[-1] if ends else None
    violations = [
        *invariants.never_two_active(world.containers),
        *invariants.same_configuration(world.containers),
        *invariants.converged(memory.record, world),
        *invariants.status_not_ahead(memory),
        *invariants.one_install_per_generation(_switches(history)),
        *invariants.agrees(_job(bench), ended.outcome if ended else None, ended.reason if ended else None),
    ]
    samples = samples_of(bench.device.samples)
    rollback_ms = _rollback_ms(bench, own)
    problems = [f"{v.invariant}: {v.detail}" for v in violations]
    problems += _compare(story, bench, last.good, last.version, len(survivors), samples)
    problems += _in_order(bench, own, ended)
    if story.outcome is Outcome.ROLLED_BACK and rollback_ms is None:
        problems.append("the old version was never seen to come back")
    evidence: dict[str, object] = {
        "job": bench.job,
        "probes": len(seen.answers),
        "probes_failed": sum(not a.good for a in seen.answers),
        "gaps_ms": [round(end - begin, 1) for begin, end in seen.gaps_ms()],
        "most_processes_at_once": seen.most_processes,
        "looks": seen.looks,
        "answers_at_the_end": last.version,
        "samples": {"first": samples.first, "last": samples.last, "broken_at": samples.broken_at},
        "phases": [f"{e.phase}" for e in own],
        "journal_epoch": memory.record.epoch,
        "problems": problems,
        **bench.notes,
    }
    return Judged(
        story.name,
        str(bench.job.get("outcome") or ("rejected" if bench.job.get("status") == "REJECTED" else "none")),
        str(_reason_of(bench) or ""),
        seen.downtime_ms(),
        rollback_ms,
        Verdict.FAIL if problems else Verdict.PASS,
        evidence,
    )


def _compare(
    story: Story, bench: Bench, good: bool, version: str | None, processes: int, samples: Samples
) -> list[str]:
    seen, problems = bench.seen, []
    reason = _reason_of(bench)
    if bench.job.get("outcome") != story.outcome.value:
        problems.append(f"the API says {bench.job.get('outcome')}, expected {story.outcome.value}")
    if reason != (story.reason.value if story.reason else None):
        problems.append(f"the reason is {reason}, expected {story.reason.value if story.reason else None}")
    if not good or version != story.runs:
        problems.append(f"in the end {version} answers (healthy: {good}), expected {story.runs}")
    if processes != 1:
        problems.append(f"{processes} client processes live after the agent has ended, expected 1")
    if seen.most_processes > 1:
        problems.append(f"{seen.most_processes} client processes lived at once")
    if not seen.answers or not seen.answers[0].good or seen.answers[0].version != OLD:
        problems.append(f"the story did not begin with a healthy {OLD}")
    if samples.broken_at is not None:
        problems.append(f"the samples break at line {samples.broken_at}: one is missing, repeated or torn")
    if not story.touches_client and seen.downtime_ms() > 0:
        problems.append(
            f"the client was down for {seen.downtime_ms()} ms though nothing should have touched it"
        )
    if bench.notes.get("same_process_after_replay") is False:
        problems.append("a replayed command restarted the client")
    return problems


def _in_order(bench: Bench, own: list[HistoryEntry], ended: HistoryEntry | None) -> list[str]:
    """Journal first, then act, then tell: compared by wall time, which is one clock here."""
    problems = []
    down = bench.seen.first_failed_ms()
    switching = next((e.at_ms for e in own if e.phase is Phase.SWITCHING), None)
    if down is not None and (switching is None or switching > down):
        problems.append("the client went down before `switching` was in the journal")
    if ended is None or ended.at_ms > bench.ended_ms:
        problems.append("the API showed an end that the journal did not hold yet")
    if sum(e.phase is Phase.ACCEPTED for e in own) > 1:
        problems.append("the job was begun more than once")
    if bench.seen.image_missing:
        problems.append(
            f"the image of {OLD} was missing at {bench.seen.image_missing} of {bench.seen.looks} looks"
        )
    return problems


@dataclass(frozen=True, slots=True)
class Samples:
    """The sequence on the volume. `broken_at`: the first line (1 is the first) that does not follow."""

    first: int | None
    last: int | None
    broken_at: int | None


def samples_of(path: Path) -> Samples:
    """Read the client's file: sequence numbers rise by one from line to line, over every restart."""
    first = last = None
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return Samples(None, None, 1)
    for number, line in enumerate(lines, start=1):
        if number == len(lines):
            continue  # After the last newline: empty, or being written now.
        try:
            sequence = int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            return Samples(first, last, number)
        if last is not None and sequence != last + 1:
            return Samples(first, last, number)
        first, last = sequence if first is None else first, sequence
    return Samples(first, last, None if last is not None else 1)


async def _world(bench: Bench, healthy: bool) -> World:
    """The engine as seen without its agent; health is the observer's."""
    runtime = bench.stack.runtime(bench.device)
    view = await runtime.observe()
    boot_id = runtime.boot_id
    await runtime.close()
    state = HealthState.HEALTHY if healthy else HealthState.UNHEALTHY
    containers = tuple(
        Container(
            f.id, f.generation, f.image, f.state, f.started_this_boot, f.up_ms, state if f.life else HealthState.STARTING,
            configuration=f.configuration, restart_policy=f.restart_policy, exit_code=f.exit_code,
        )
        for f in view.containers
    )  # fmt: skip
    return World(boot_id=boot_id, containers=containers, images=dict(view.images))


def _switches(history: list[HistoryEntry]) -> list[int]:
    """Generations in the order in which they were switched to; a boot within a trial is not another switch."""
    switched: list[int] = []
    before: HistoryEntry | None = None
    for entry in history:
        begins = entry.phase is Phase.SWITCHING and (before is None or before.phase is not Phase.SWITCHING)
        if begins and entry.generation is not None:
            switched.append(entry.generation)
        before = entry
    return switched


def _rollback_ms(bench: Bench, own: list[HistoryEntry]) -> int | None:
    begun = next((e.at_ms for e in own if e.phase is Phase.ROLLING_BACK), None)
    if begun is None:
        return None
    back = bench.seen.first_good_after(begun, OLD)
    return None if back is None else round(back - begun)


def _reason_of(bench: Bench) -> str | None:
    reason = bench.job.get("reason")
    if isinstance(reason, dict):
        code = reason.get("code")
        return str(code) if code else None
    return str(reason) if reason else None


def _job(bench: Bench) -> Job:
    found, reason = bench.job, _reason_of(bench)
    job = Job(str(found.get("jobId")), int(str(found.get("generation", 0))))
    outcome = found.get("outcome")
    return replace(
        job,
        status=JobStatus(str(found.get("status", "QUEUED"))),
        outcome=Outcome(str(outcome)) if outcome else None,
        reason=Reason(reason) if reason else None,
    )


def unjudged(story: Story, bench: Bench, error: BlackstartError) -> Judged:
    """A story that could not be played to its end."""
    evidence: dict[str, object] = {"problems": [f"not judged: {error}"], "job": bench.job, **bench.notes}
    if bench.observer is not None:
        bench.observer.stop()
    return Judged(story.name, "none", error.reason.value, None, None, Verdict.UNKNOWN, evidence)
