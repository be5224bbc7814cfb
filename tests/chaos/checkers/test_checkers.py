"""Each checker with a history that it must pass, one that it must not, and one that it cannot judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from chaos.checkers import CHECKERS, Case
from chaos.result import FaultRow
from chaos.verdict import Verdict, overall
from tests.chaos.checkers.builder import (
    DIGESTS,
    EDGE,
    NEW,
    OLD,
    UPDATE,
    Run,
    container,
    entry,
    quiet,
    rolled_back,
    scenario,
    succeeded,
    world,
)

KILL = {"fault": "agent-killed", "when": {"phase": "pulling"}}
NEVER_FAIL = {"steady", "observed", "faults-fired"}
"""What these find wrong makes a run unknown: it says nothing of the product."""


def expecting(run: Run, **expect: object) -> Case:
    """The run, judged by these expectations."""
    return run.case(scenario(expect=expect))


def with_fault(*rows: FaultRow) -> Case:
    run = succeeded()
    run.faults = list(rows)
    return run.case(scenario((UPDATE, KILL)))


def spoilt(job: Mapping[str, object], run: Run | None = None) -> Run:
    """The API's last word is another one."""
    run = run or succeeded()
    end = next(e for e in run.events if (e.source, e.event) == ("api", "end"))
    shown = end.data["job"]
    assert isinstance(shown, dict)
    return run.having("api", "end", job={**shown, **job})


def history_of(run: Run, rows: list[dict[str, object]]) -> Run:
    """The journal has other rows, seen live or in the end."""
    return (
        run.without("journal", "entry")
        .without("phase", "durable")
        .phases(EDGE, rows)
        .having("journal", "end", history=rows)
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """A checker's three histories."""

    good: Callable[[], Case]
    bad: Callable[[], Case]
    unseen: Callable[[], Case]


TWICE = [
    entry(1.3, "accepted"), entry(1.6, "switching"), entry(1.7, "rolling_back"), entry(1.8, "switching"),
    entry(1.9, "committing"), entry(2.0, "cleaning_up", outcome="succeeded"),
]  # fmt: skip
NO_COMMIT = [entry(1.3, "accepted"), entry(1.6, "switching"), entry(2.0, "cleaning_up", outcome="succeeded")]

CASES: Mapping[str, Shown] = {
    "steady": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().having("run", "steady", holds=False, probes={"client-healthy": "503"}).case(),
        lambda: succeeded().without("run", "steady").case(),
    ),
    "observed": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().without("probe", "end").case(),
        lambda: succeeded().case(scenario(bench={"devices": 2})),
    ),
    "method-played": Shown(
        lambda: succeeded().case(),
        lambda: succeeded()
        .having("run", "method-ends", why="time-limit")
        .moved("api", "job", 2.45, lambda e: e.data["status"] == "SUCCEEDED")
        .case(),
        lambda: succeeded().having("run", "method-ends", why="done", problems=["down: no such part"]).case(),
    ),
    "faults-fired": Shown(
        lambda: with_fault(FaultRow("agent-killed", "agent-killed", fired="pid 7 is gone")),
        lambda: with_fault(FaultRow("agent-killed", "agent-killed", fired="pid 7", failed="not healed")),
        lambda: with_fault(FaultRow("agent-killed", "agent-killed")),
    ),
    "outcome": Shown(
        lambda: expecting(succeeded(), outcome="succeeded"),
        lambda: expecting(rolled_back(), outcome=["succeeded", "failed"]),
        lambda: expecting(succeeded().without("api", "end"), outcome="succeeded"),
    ),
    "status": Shown(
        lambda: expecting(succeeded(), status="SUCCEEDED"),
        lambda: expecting(rolled_back(), status="SUCCEEDED"),
        lambda: expecting(succeeded().without("api", "end"), status="SUCCEEDED"),
    ),
    "reason": Shown(
        lambda: expecting(rolled_back(), reason="candidate_exited"),
        lambda: expecting(rolled_back(), reason=None),
        lambda: expecting(rolled_back().without("api", "end"), reason="candidate_exited"),
    ),
    "runs": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().having("probe", "end", version=OLD).case(),
        lambda: succeeded().without("probe", "end").case(),
    ),
    "refused": Shown(
        lambda: expecting(quiet().having("refusals", "end", reasons=["expired"]), refused="expired"),
        lambda: expecting(quiet().having("refusals", "end", reasons=["malformed"]), refused="expired"),
        lambda: expecting(quiet().without("refusals", "end"), refused="expired"),
    ),
    "downtime": Shown(
        lambda: expecting(succeeded(), downtime="80ms"),
        lambda: expecting(succeeded(), downtime="79ms"),
        lambda: succeeded().without("probe", "end").case(),
    ),
    "rollback": Shown(
        lambda: expecting(rolled_back(), rollback="200ms"),
        lambda: expecting(rolled_back(), rollback="199ms"),
        lambda: rolled_back().without("journal", "end").case(),
    ),
    "untouched": Shown(
        lambda: expecting(quiet(), untouched=True),
        lambda: expecting(
            quiet().add(2.0, "processes", "count", EDGE, n=1, pids=[12]), untouched=True
        ),
        lambda: expecting(quiet().without("processes", "end"), untouched=True),
    ),
    "samples": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().having("samples", "end", broken_at=17, lost=2).case(),
        lambda: succeeded().without("samples", "end").case(),
    ),
    "most-at-once": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().having("processes", "end", most=2).case(),
        lambda: succeeded().without("processes", "end").case(),
    ),
    "delivery": Shown(
        lambda: expecting(succeeded(), delivery={"commands": 1, "installs": 1, "statuses": 3}),
        lambda: expecting(succeeded(), delivery={"commands": 2}),
        lambda: expecting(
            succeeded().without("tap", "publish").without("tap", "connected"), delivery={"commands": 1}
        ),
    ),
    "converges-in": Shown(
        lambda: expecting(succeeded(), converges="90ms"),
        lambda: expecting(succeeded(), converges="89ms"),
        lambda: succeeded().without("run", "converged").case(),
    ),
    "nobody-got-in": Shown(
        lambda: quiet().add(1.5, "hostile", "knocked", who="a stranger", ended="refused").case(),
        lambda: quiet()
        .add(1.5, "hostile", "knocked", who="a stranger", ended="connack")
        .add(1.6, "hostile", "got-in", who="a stranger")
        .case(),
        lambda: quiet().add(1.5, "hostile", "knocked", who="a stranger").case(),
    ),
    "nothing-got-out": Shown(
        lambda: quiet()
        .add(1.5, "hostile", "lured", path="/run/escaped")
        .add(2.6, "hostile", "stayed-in", path="/run/escaped")
        .case(),
        lambda: quiet()
        .add(1.5, "hostile", "lured", path="/run/escaped")
        .add(1.6, "hostile", "got-out", path="/run/escaped")
        .add(2.6, "hostile", "stayed-in", path="/run/escaped")
        .case(),
        lambda: quiet().add(1.5, "hostile", "lured", path="/run/escaped").case(),
    ),
    "never-two-active": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().having("containers", "end", world=world(container(OLD), container(NEW))).case(),
        lambda: succeeded().without("containers", "end").case(),
    ),
    "same-configuration": Shown(
        lambda: succeeded().case(),
        lambda: succeeded()
        .having(
            "containers", "end", world=world(container(OLD, state="exited"), container(NEW, configuration="other"))
        )
        .case(),
        lambda: succeeded().without("containers", "end").case(),
    ),
    "current-kept": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().add(1.8, "image", "missing", EDGE, digest=DIGESTS[OLD]).case(),
        lambda: succeeded().without("image", "end").case(),
    ),
    "success-proved": Shown(
        lambda: succeeded().case(),
        lambda: history_of(succeeded(), NO_COMMIT).case(),
        lambda: succeeded().without("journal", "end").case(),
    ),
    "status-not-ahead": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().moved("api", "job", 2.04, lambda e: e.data["status"] == "SUCCEEDED").case(),
        lambda: succeeded().without("journal", "end").case(),
    ),
    "one-install-per-generation": Shown(
        lambda: succeeded().case(),
        lambda: history_of(succeeded(), TWICE).case(),
        lambda: succeeded().without("journal", "end").case(),
    ),
    "terminal-is-final": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().job(2.3, EDGE, "FAILED", "rolled_back").case(),
        lambda: succeeded().without("api", "end").case(),
    ),
    "service-agrees": Shown(
        lambda: rolled_back().case(),
        lambda: spoilt({"outcome": "failed"}, rolled_back()).case(),
        lambda: rolled_back().without("journal", "end").case(),
    ),
    "converges": Shown(
        lambda: succeeded().case(),
        lambda: succeeded().having("containers", "end", world=world(container(NEW, health="unhealthy"))).case(),
        lambda: succeeded().without("containers", "end").case(),
    ),
}  # fmt: skip


def verdict(name: str, case: Case) -> Verdict:
    return overall(CHECKERS[name](case))


def test_every_checker_is_shown() -> None:
    assert CASES.keys() == CHECKERS.keys()


@pytest.mark.parametrize("name", CHECKERS)
def test_it_passes_what_is_right(name: str) -> None:
    findings = CHECKERS[name](CASES[name].good())
    assert findings
    assert {f.verdict for f in findings} == {Verdict.PASS}, findings
    assert {f.checker for f in findings} == {name}
    assert all(f.expected and f.measured for f in findings)


@pytest.mark.parametrize("name", CHECKERS)
def test_it_does_not_pass_what_is_wrong(name: str) -> None:
    wanted = Verdict.UNKNOWN if name in NEVER_FAIL else Verdict.FAIL
    assert verdict(name, CASES[name].bad()) is wanted


@pytest.mark.parametrize("name", CHECKERS)
def test_it_knows_nothing_of_what_was_not_seen(name: str) -> None:
    assert verdict(name, CASES[name].unseen()) is Verdict.UNKNOWN


@pytest.mark.parametrize("name", CHECKERS)
def test_an_empty_history_is_never_a_pass(name: str) -> None:
    """But for what the scenario does not ask."""
    asked = {"outcome": "succeeded", "status": "SUCCEEDED", "reason": "expired", "refused": "expired"}
    more = {"untouched": True, "delivery": {"commands": 1, "installs": 1, "statuses": 1}}
    case = Run().case(scenario((UPDATE, KILL), expect={**asked, **more}))
    assert verdict(name, case) is Verdict.UNKNOWN


@pytest.mark.parametrize("name", ["outcome", "status", "reason", "refused", "untouched", "delivery"])
def test_what_is_not_asked_is_not_judged(name: str) -> None:
    assert CHECKERS[name](succeeded().case()) == []
