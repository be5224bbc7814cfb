"""What must hold on the device whatever happens, rebuilt from the history: the invariants about containers and images."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.checkers.case import Case, Missing, Told, each_device, held, many, number
from chaos.checkers.client import allowed_at_once, most_processes
from chaos.checkers.evidence import (
    Entry,
    gaps,
    jobs_in,
    journaled_t,
    memory,
    orders,
    own_entries,
    switches,
    world,
)
from chaos.verdict import Verdict
from reference.core import invariants
from reference.core.invariants import Violation
from reference.core.model import Phase

PROBE_MOST_S = 0.3
"""A probe that failed may have been on its way for so long."""


def details(violations: Sequence[Violation]) -> str:
    """What was broken, in one line."""
    return "; ".join(v.detail for v in violations)


@each_device("never-two-active", "never two client processes on one volume")
def never_two_active(case: Case, device: str) -> Told:
    """At no look lived more processes than may, and in the end no two containers are active."""
    found = invariants.never_two_active(world(case, device).containers)
    if found:
        return Told(Verdict.FAIL, details(found))
    most, allowed = most_processes(case, device), allowed_at_once(case)
    return held(
        most <= allowed, f"at most {most} at once" + (f", of {allowed} allowed" if allowed > 1 else "")
    )


@each_device("same-configuration", "mounts, networks and environment stay the same")
def same_configuration(case: Case, device: str) -> Told:
    """In every container of the client that is there in the end."""
    containers = world(case, device).containers
    found = invariants.same_configuration(containers)
    return held(not found, details(found) or f"the same in {many(len(containers), 'container')}")


@each_device("current-kept", "the version that ran before is kept until the commit")
def current_kept(case: Case, device: str) -> Told:
    """Its image is there at every look, and it is not stopped before the switch is in the journal."""
    end = case.end("image", device)
    before, last = own_entries(case, device)
    asked = {order.job_id for order in orders(case, device)}
    entries = [e for e in (*before, *last) if e.job_id in asked]
    if case.scenario.bench.begins is None:
        return Told(Verdict.PASS, "nothing ran before")
    if not entries:
        return Told(Verdict.PASS, "no job was begun")
    commits = [journaled_t(case, device, job, Phase.COMMITTING) for job in jobs_in(entries, Phase.COMMITTING)]
    until = max([t for t in commits if t is not None], default=float("inf"))
    gone = [e for e in case.of("image", "missing", device) if e.t < until]
    if gone:
        return Told(Verdict.FAIL, f"its image was missing {len(gone)} times, first at {gone[0].t:.3f} s")
    if early := _stopped_early(case, device, entries):
        return Told(Verdict.FAIL, early)
    looks = number(end.get("looks"))
    if not looks:
        raise Missing("nobody looked for its image")
    return Told(Verdict.PASS, f"there at {looks} looks")


def _stopped_early(case: Case, device: str, entries: Sequence[Entry]) -> str:
    """How the client went down before `switching` was durable, though nothing had hurt it; empty: it did not."""
    switched = jobs_in(entries, Phase.SWITCHING)
    down = next(iter(gaps(case, device)), None)
    hurt = min((f.triggered_t or f.in_force_t or 0.0 for f in case.faults), default=None)
    asked = [order for order in orders(case, device) if order.job_id in switched]
    if down is None or not asked or down.begin < asked[0].t or (hurt is not None and hurt <= down.end):
        return ""
    begun = journaled_t(case, device, asked[0].job_id, Phase.SWITCHING)
    if begun is None or down.begin + PROBE_MOST_S >= begun:
        return ""
    return f"it went down {round((begun - down.begin) * 1000)} ms before the switch was in the journal"


@each_device("one-install-per-generation", "each generation is switched to once at most, and they rise")
def one_install(case: Case, device: str) -> Told:
    """In every journal that the device had."""
    before, last = own_entries(case, device)
    found = [v for part in (before, last) for v in invariants.one_install_per_generation(switches(part))]
    made = [*switches(before), *switches(last)]
    return held(
        not found, details(found) or (f"switched to {', '.join(map(str, made))}" if made else "no switch")
    )


@each_device("converges", "in the end one healthy client of a trusted version, and no job open")
def converges(case: Case, device: str) -> Told:
    """Everything came to rest; where no trusted version could be healthy, the duty to bring one back goes on."""
    never = case.last("run", "not-converged")
    if never is not None:
        return Told(Verdict.FAIL, f"not at rest: {never.data.get('what')}")
    if case.last("run", "converged") is None:
        raise Missing("nobody waited for it to come to rest")
    record = memory(case, device).record
    if record.duty:
        return Told(Verdict.PASS, "a rollback failed: the duty to bring something back goes on")
    found = invariants.converged(record, world(case, device))
    runs = record.current.image.version if record.current is not None else "nothing"
    return held(not found, details(found) or f"{runs} is confirmed and runs")
