"""The judge: compares what was seen from outside with how a story has to end. Never the agent's word alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum

from reference.core import invariants
from reference.core.errors import BlackstartError, Reason
from reference.core.job import Job, JobStatus
from reference.core.model import Container, HealthState, Outcome, Phase, World
from reference.demo.bench import Bench
from reference.demo.story import Story
from reference.demo.timeline import timeline
from reference.edge.journal import HistoryEntry, Journal
from reference.edge.main import journal_path
from reference.edge.settings import load_settings
from reference.stack.probe import Answer, ask
from reference.stack.samples import Samples, samples_of


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
    await bench.rest()
    agent = bench.device.agent
    if agent is not None:
        await agent.stop()
    survivors = bench.client_pids()
    last = await asyncio.to_thread(ask, bench.device.client_port)
    seen = bench.seen = await asyncio.to_thread(observer.stop)
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
        *invariants.one_install_per_generation(invariants.switched((e.phase, e.generation) for e in history)),
    ]
    if bench.job:
        outcome, reason = (ended.outcome, ended.reason) if ended else (None, None)
        violations += invariants.agrees(_job(bench), outcome, reason)
    samples = samples_of(bench.device.samples)
    rollback_ms = _rollback_ms(bench, own)
    problems = [f"{v.invariant}: {v.detail}" for v in violations]
    problems += _said(story, bench)
    problems += _seen(story, bench, last, len(survivors), samples)
    problems += _in_order(story, bench, own, ended) if bench.job else _nothing_done(bench, history)
    if story.outcome is Outcome.ROLLED_BACK and rollback_ms is None:
        problems.append("the old version was never seen to come back")
    evidence: dict[str, object] = {
        "about": story.about,
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
        "timeline": timeline(bench, own),
        **bench.notes,
    }
    return Judged(
        story.name,
        str(bench.job.get("outcome") or _without_outcome(bench)),
        str(_reason_of(bench) or story.refused or ""),
        seen.downtime_ms() if story.begins is not None else None,
        rollback_ms,
        Verdict.FAIL if problems else Verdict.PASS,
        evidence,
    )


def _without_outcome(bench: Bench) -> str:
    if not bench.job:
        return "refused"
    return "rejected" if bench.job.get("status") == "REJECTED" else "none"


def _said(story: Story, bench: Bench) -> list[str]:
    """What the service and the device said, against what they had to say."""
    problems = []
    outcome, reason = bench.job.get("outcome"), _reason_of(bench)
    wanted = story.outcome.value if story.outcome else None
    if outcome != wanted:
        problems.append(f"the API says {outcome}, expected {wanted}")
    if reason != (story.reason.value if story.reason else None):
        problems.append(f"the reason is {reason}, expected {story.reason.value if story.reason else None}")
    if story.status is not None and bench.job.get("status") != story.status.value:
        problems.append(f"the status is {bench.job.get('status')}, expected {story.status.value}")
    if story.refused is not None:
        reasons = [entry.get("reason") or entry.get("verdict") for entry in bench.refusals()]
        if story.refused.value not in reasons:
            problems.append(f"the device refused nothing for {story.refused.value}; it refused for {reasons}")
    return problems


def _seen(story: Story, bench: Bench, last: Answer, processes: int, samples: Samples) -> list[str]:
    """What was seen from outside, against what had to be seen."""
    seen, problems = bench.seen, []
    if not last.good or last.version != story.runs:
        problems.append(f"in the end {last.version} answers (healthy: {last.good}), expected {story.runs}")
    if processes != 1:
        problems.append(f"{processes} client processes live after the agent has ended, expected 1")
    if seen.most_processes > story.most_at_once:
        problems.append(f"{seen.most_processes} client processes lived at once")
    first = seen.answers[0] if seen.answers else None
    if story.begins is None:
        if first is None or first.good:
            problems.append("something answered before the first install")
    elif first is None or not first.good or first.version != story.begins:
        problems.append(f"the story did not begin with a healthy {story.begins}")
    if samples.broken_at is not None:
        problems.append(f"the samples break at line {samples.broken_at}: one is missing, repeated or torn")
    if not story.touches_client and seen.downtime_ms() > 0:
        problems.append(
            f"the client was down for {seen.downtime_ms()} ms though nothing should have touched it"
        )
    problems += [what for note, what in _MUST_HOLD.items() if bench.notes.get(note) is False]
    return problems


_MUST_HOLD = {
    "same_process_after_replay": "a message that had to be ignored restarted the client",
    "client_untouched_by_damage": "the client was restarted when its agent found a damaged journal",
    "client_untouched_by_restart": "the client was restarted when the engine restarted in the pull",
    "kept_from_a_prune": "`docker image prune` took the image of an update under way",
    "candidate_pruned": "`docker image prune --all` took nothing: the story did not happen",
    "both_revived": "the engine did not start both: the story did not happen",
    "foreign_container_untouched": "a container that is not ours was touched",
}


TAKES_DOWN = ("killed", "engine restarts with its containers")
"""What is done from outside and ends the client."""


def _nothing_done(bench: Bench, history: list[HistoryEntry]) -> list[str]:
    """A story without a job: the journal must not know of one that was sent by hand."""
    sent = bench.notes.get("sent_generation")
    begun = [e for e in history if e.generation == sent and e.phase is not Phase.IDLE]
    return [f"generation {sent} was begun: {begun[0].phase}"] if begun else []


def _in_order(story: Story, bench: Bench, own: list[HistoryEntry], ended: HistoryEntry | None) -> list[str]:
    """Journal first, then act, then tell: compared by wall time, which is one clock here."""
    problems = []
    down = bench.seen.first_failed_ms() if bench.begins is not None else None
    taken_down = next((at for at, what in bench.marks if what in TAKES_DOWN), None)
    if down is not None and taken_down is not None and down > taken_down:
        down = None  # That was us.
    switching = next((e.at_ms for e in own if e.phase is Phase.SWITCHING), None)
    if down is not None and (switching is None or switching > down):
        problems.append("the client went down before `switching` was in the journal")
    if story.goes_on_ms and (down is None or switching is None or down - switching < story.goes_on_ms):
        problems.append(f"the old version was not left its {story.goes_on_ms} ms to stop")
    if ended is None or ended.at_ms > bench.ended_ms:
        problems.append("the API showed an end that the journal did not hold yet")
    if sum(e.phase is Phase.ACCEPTED for e in own) > 1:
        problems.append("the job was begun more than once")
    if bench.seen.image_missing:
        problems.append(
            f"the image of {bench.begins} was missing at {bench.seen.image_missing} of {bench.seen.looks} looks"
        )
    return problems


async def _world(bench: Bench, healthy: bool) -> World:
    """The engine as seen without its agent; health is the observer's."""
    boot_id, view = await bench.device.box.view()
    state = HealthState.HEALTHY if healthy else HealthState.UNHEALTHY
    containers = tuple(
        Container(
            f.id, f.generation, f.image, f.state, f.started_this_boot, f.up_ms, state if f.life else HealthState.STARTING,
            configuration=f.configuration, restart_policy=f.restart_policy, exit_code=f.exit_code,
        )
        for f in view.containers
    )  # fmt: skip
    return World(boot_id=boot_id, containers=containers, images=dict(view.images))


def _rollback_ms(bench: Bench, own: list[HistoryEntry]) -> int | None:
    begun = next((e.at_ms for e in own if e.phase is Phase.ROLLING_BACK), None)
    if begun is None or bench.begins is None:
        return None
    back = bench.seen.first_good_after(begun, bench.begins)
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
    if bench.observer is not None:
        bench.seen = bench.observer.stop()
    evidence: dict[str, object] = {
        "about": story.about,
        "problems": [f"not judged: {error}"],
        "job": bench.job,
        "timeline": timeline(bench, []),
        **bench.notes,
    }
    return Judged(story.name, "none", error.reason.value, None, None, Verdict.UNKNOWN, evidence)
