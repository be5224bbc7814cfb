"""The judge over whole runs: what applies, in which order, and that nothing which was not seen passes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos import judge as judging
from chaos.checkers import CHECKERS, Case
from chaos.history import History
from chaos.judge import judge
from chaos.result import DeviceRow
from chaos.scenario.model import Invariant
from chaos.verdict import Verdict, overall
from tests.chaos.checkers.builder import EDGE, NEW, OLD, Run, quiet, rolled_back, scenario, succeeded

DEVICES = (EDGE, "edge-2", "edge-10")


def of_three() -> Run:
    """One device succeeds, one goes back, one is not asked."""
    run = succeeded(EDGE)
    for other in (rolled_back("edge-2"), quiet("edge-10")):
        run.events += [e for e in other.events if e.source != "run"]
    return run


def test_a_good_run_passes_whole() -> None:
    findings, rows = judge(succeeded().case())
    assert overall(findings) is Verdict.PASS, [f for f in findings if f.verdict is not Verdict.PASS]
    assert rows == [DeviceRow(EDGE, "succeeded", "", "SUCCEEDED", NEW, 80, None, 0)]


def test_a_rollback_passes_whole() -> None:
    expect = {"outcome": "rolled_back", "reason": "candidate_exited", "downtime": "1s", "rollback": "1s"}
    findings, rows = judge(rolled_back().case(scenario(expect=expect)))
    assert overall(findings) is Verdict.PASS, [f for f in findings if f.verdict is not Verdict.PASS]
    assert rows == [DeviceRow(EDGE, "rolled_back", "candidate_exited", "FAILED", OLD, 480, 200, 0)]


def test_it_goes_in_the_order_of_the_checkers() -> None:
    names = [f.checker for f in judge(succeeded().case())[0]]
    assert names == [name for name in CHECKERS if name in names]


def test_without_a_steady_state_nothing_else_is_judged() -> None:
    run = succeeded().having("run", "steady", holds=False, probes={"service-ready": "503"})
    findings, rows = judge(run.having("probe", "end", good=False).case())
    assert [(f.checker, f.verdict) for f in findings] == [("steady", Verdict.UNKNOWN)]
    assert [row.device for row in rows] == [EDGE]


def test_only_invariants_that_are_asked_for() -> None:
    case = succeeded().case(scenario(expect={"invariants": ["converges"]}))
    names = {f.checker for f in judge(case)[0]}
    assert names & {i.value for i in Invariant} == {"converges"}


def test_every_invariant_has_a_checker() -> None:
    assert {i.value for i in Invariant} <= CHECKERS.keys()


def test_a_checker_that_raises_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Case) -> list[object]:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(judging, "CHECKERS", {**CHECKERS, "samples": broken})
    findings, _ = judge(succeeded().case())
    (found,) = [f for f in findings if f.checker == "samples"]
    assert found.verdict is Verdict.UNKNOWN
    assert found.measured == "ZeroDivisionError: by nothing"
    assert overall(findings) is Verdict.UNKNOWN


@pytest.mark.parametrize("source", ["probe", "processes", "image", "samples", "containers", "journal", "api"])
def test_no_observer_may_be_missing(source: str) -> None:
    findings, rows = judge(succeeded().without(source, "end").case())
    assert overall(findings) is Verdict.UNKNOWN
    assert len(rows) == 1


def test_several_devices_are_judged_each() -> None:
    findings, rows = judge(of_three().case(scenario(bench={"devices": 3})))
    assert overall(findings) is Verdict.PASS, [f for f in findings if f.verdict is not Verdict.PASS]
    assert [row.device for row in rows] == list(DEVICES)
    assert [row.outcome for row in rows] == ["succeeded", "rolled_back", ""]


@given(st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_how_devices_interleave_changes_nothing(chance: random.Random) -> None:
    """Events of different devices, and of different observers, at the same time come in any order."""
    run, of = of_three(), scenario(bench={"devices": 3})
    expected = judge(run.case(of))
    keyed: dict[tuple[str, str], list[int]] = {}
    for index, event in enumerate(run.events):
        keyed.setdefault((event.device, event.source), []).append(index)
    groups = list(keyed.values())
    chance.shuffle(groups)
    mixed = [run.events[index] for group in groups for index in group]
    assert judge(Case(of, History.made_of(mixed))) == expected


@given(st.floats(0, 1e6), st.sampled_from(["downtime", "rollback", "converges-in"]))
@settings(max_examples=40, deadline=None)
def test_when_a_run_began_changes_no_measure(shift: float, name: str) -> None:
    """A later start, by the monotonic clock: every interval stays the same."""
    run = rolled_back()
    moved = Run([type(e)(e.t + shift, e.wall_ms, e.source, e.event, e.device, e.data) for e in run.events])
    assert CHECKERS[name](moved.case()) == CHECKERS[name](run.case())


@given(st.sampled_from(sorted({(e.source, e.event) for e in rolled_back().events})))
@settings(max_examples=60, deadline=None)
def test_what_is_taken_away_never_makes_a_pass_of_a_fail(kind: tuple[str, str]) -> None:
    """A run with a torn sample stays failed or becomes unknown, whatever else was not seen."""
    run = rolled_back().having("samples", "end", broken_at=3, lost=1)
    assert overall(judge(run.case())[0]) is Verdict.FAIL
    assert overall(judge(run.without(*kind).case())[0]) is not Verdict.PASS


def test_a_history_that_breaks_off_is_never_a_pass_and_never_raises() -> None:
    """Wherever it breaks off: an observer, or the whole run, may have ended there."""
    run, of = (
        of_three(),
        scenario(bench={"devices": 3}, expect={"untouched": True, "delivery": {"commands": 1}}),
    )
    whole = run.case(of).history.events
    for count in range(len(whole)):
        case = Case(of, History(whole[:count]))
        for name, checker in CHECKERS.items():
            assert checker(case) is not None, name
        assert overall(judge(case)[0]) is not Verdict.PASS, whole[count]
