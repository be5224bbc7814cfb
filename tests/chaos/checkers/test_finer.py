"""What checkers make of less simple runs: first installs, refusals, overlaps, lost journals, clocks that are set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.checkers import CHECKERS, Case, fault_rows
from chaos.checkers.evidence import downtime_ms, rollback_ms
from chaos.plan import plan
from chaos.result import FaultRow
from chaos.verdict import Finding, Verdict, overall
from tests.chaos.checkers.builder import (
    EDGE,
    NEW,
    OLD,
    UPDATE,
    Run,
    entry,
    quiet,
    rolled_back,
    scenario,
    succeeded,
)
from tests.chaos.checkers.test_checkers import history_of, spoilt


def told(name: str, case: Case) -> Finding:
    (finding,) = CHECKERS[name](case)
    return finding


def verdict(name: str, case: Case) -> Verdict:
    return overall(CHECKERS[name](case))


# ---- downtime and rollback


def test_outages_add_up_and_the_last_goes_to_the_end() -> None:
    run = succeeded().add(2.0, "probe", "bad", EDGE).add(2.01, "probe", "good", EDGE, version=NEW)
    run.add(2.45, "probe", "bad", EDGE)
    case = run.case()
    assert downtime_ms(case, EDGE) == 80 + 10 + 50
    measured = told("downtime", case).measured
    assert measured == "140 ms in 3 outages, the longest 80 ms, not back in the end"


def test_what_was_before_the_method_is_no_downtime() -> None:
    run = succeeded().add(0.95, "probe", "bad", EDGE).add(1.0, "probe", "good", EDGE, version=OLD)
    assert downtime_ms(run.case(), EDGE) == 80


def test_nothing_before_a_first_install_is_no_downtime() -> None:
    run = succeeded().without("probe", "good").without("probe", "bad")
    run.add(0.9, "probe", "bad", EDGE).add(1.7, "probe", "good", EDGE, version=NEW)
    case = run.case(scenario(bench={"begins": None}))
    assert downtime_ms(case, EDGE) == 0
    assert verdict("runs", case) is Verdict.PASS
    never = run.without("probe", "good").case(scenario(bench={"begins": None}))
    assert downtime_ms(never, EDGE) is None


def blinded(run: Run, t: float, ms: object, **more: object) -> Run:
    """From `t` on the probe could not ask for a while."""
    return run.add(t, "probe", "gap", EDGE, **{"ms": ms, "every_ms": 5, **more})


def longer(run: Run) -> Run:
    """The same run with ten more seconds in the end, for what does not fit into the usual ones."""
    for observer in ("probe", "processes"):
        run.moved(observer, "end", 12.5)
    return run


@pytest.mark.parametrize("name", ["observed", "downtime", "untouched"])
def test_nobody_knows_what_happened_while_nobody_asked(name: str) -> None:
    def judged(run: Run) -> Verdict:
        return verdict(name, run.case(scenario(expect={"downtime": "1s", "untouched": True})))

    def passes(run: Run) -> bool:
        return judged(run) is Verdict.PASS

    assert passes(longer(quiet()))
    assert judged(blinded(longer(quiet()), 3.0, 2000)) is Verdict.UNKNOWN
    assert passes(blinded(longer(quiet()), 3.0, 900)), "machines are slow at times"
    assert passes(blinded(longer(quiet()), 3.0, 1900, every_ms=100)), "asked only every now and then"
    assert judged(blinded(longer(quiet()), 3.0, 2100, every_ms=100)) is Verdict.UNKNOWN
    assert passes(blinded(longer(quiet()), -2.0, 3100)), "before the method"
    assert judged(blinded(longer(quiet()), -2.0, 4300)) is Verdict.UNKNOWN, "and into it"
    assert judged(blinded(longer(quiet()), 3.0, "long")) is Verdict.UNKNOWN


def test_when_nobody_asked_is_said() -> None:
    found = told("observed", blinded(longer(quiet()), 3.0, 2000).case())
    assert (
        found.measured
        == "0 devices observed to the end; edge-1: nobody asked the client for 2000 ms from 3.000 s on"
    )


def test_what_was_seen_to_be_wrong_stays_wrong_though_nobody_asked_for_a_while() -> None:
    run = blinded(longer(succeeded()), 4.0, 2000)
    assert verdict("downtime", run.case(scenario(expect={"downtime": "79ms"}))) is Verdict.FAIL
    assert verdict("downtime", run.case(scenario(expect={"downtime": "80ms"}))) is Verdict.UNKNOWN
    assert verdict("downtime", run.case()) is Verdict.UNKNOWN, "there is no measure of it"
    assert verdict("untouched", run.case(scenario(expect={"untouched": True}))) is Verdict.FAIL
    moved = blinded(longer(quiet()), 4.0, 2000).add(2.0, "processes", "count", EDGE, n=1, pids=[12])
    assert verdict("untouched", moved.case(scenario(expect={"untouched": True}))) is Verdict.FAIL


def test_an_outage_that_the_observer_slept_through_is_nobodys_fault() -> None:
    """Its probe failed as it was stopped itself; the client may have been well all the time."""
    run = longer(quiet()).add(4.0, "probe", "bad", EDGE).add(6.0, "probe", "good", EDGE, version=OLD)
    strict = scenario(expect={"downtime": "100ms", "untouched": True})
    for name in ("downtime", "untouched"):
        assert verdict(name, run.case(strict)) is Verdict.FAIL
    blinded(run, 4.0, 2000)
    for name in ("downtime", "untouched"):
        assert verdict(name, run.case(strict)) is Verdict.UNKNOWN


def test_a_rollback_that_the_observer_slept_through_is_unknown() -> None:
    run = longer(rolled_back()).moved("probe", "good", 3.9, lambda e: e.t > 1.0)
    strict = scenario(expect={"rollback": "300ms"})
    assert verdict("rollback", run.case(strict)) is Verdict.FAIL
    assert verdict("rollback", blinded(run, 2.1, 1800).case(strict)) is Verdict.UNKNOWN
    assert verdict("rollback", run.case(scenario(expect={"rollback": "199ms"}))) is Verdict.FAIL
    assert verdict("rollback", run.case(scenario(expect={"rollback": "2s"}))) is Verdict.PASS


def test_a_probe_that_died_has_not_observed() -> None:
    run = succeeded().without("probe", "end").add(1.9, "probe", "died", EDGE, what="ValueError: nowhere")
    found = told("observed", run.case())
    assert found.verdict is Verdict.UNKNOWN
    assert found.measured == "0 devices observed to the end; edge-1: the probe died of ValueError: nowhere"
    for name in ("downtime", "rollback", "runs"):
        assert verdict(name, run.case()) is Verdict.UNKNOWN, name
    ended = succeeded().add(1.9, "probe", "died", EDGE, what="ValueError: nowhere")
    assert verdict("observed", ended.case()) is Verdict.UNKNOWN


def test_a_rollback_ends_with_the_old_version_not_with_any() -> None:
    run = rolled_back().add(1.95, "probe", "good", EDGE, version=NEW).add(1.96, "probe", "bad", EDGE)
    assert rollback_ms(run.case(), EDGE) == 200


def test_a_rollback_beside_the_old_version_takes_no_time() -> None:
    run = rolled_back().without("probe", "bad").without("probe", "good")
    run.add(0.9, "probe", "good", EDGE, version=OLD)
    assert rollback_ms(run.case(), EDGE) == 0


def test_a_rollback_that_never_came_back_fails() -> None:
    run = rolled_back().without("probe", "good").add(0.9, "probe", "good", EDGE, version=OLD)
    finding = told("rollback", run.case())
    assert finding.verdict is Verdict.FAIL
    assert "1.0.0 was never seen" in finding.measured


def test_a_rollback_that_only_the_api_tells_of_is_unknown() -> None:
    case = history_of(rolled_back(), [entry(1.3, "accepted")]).case()
    assert verdict("rollback", case) is Verdict.UNKNOWN


@pytest.mark.parametrize("off_ms", [3_600_000, -3_600_000])
def test_a_clock_that_was_set_does_not_change_the_measure(off_ms: int) -> None:
    """The device believes that it is another hour; its agent said the phase when it was there."""
    run = rolled_back()
    for event in [e for e in run.events if e.source == "journal"]:
        run.events.remove(event)
        rows = event.data.get("history")
        moved = [event.data] if event.event == "entry" else list(rows) if isinstance(rows, list) else []
        other = [{**row, "at_ms": int(str(row["at_ms"])) + off_ms} for row in moved]
        data = other[0] if event.event == "entry" else {**event.data, "history": other}
        run.events.append(replace(event, data=data))
    case = run.case()
    assert rollback_ms(case, EDGE) == 200
    assert verdict("status-not-ahead", case) is Verdict.PASS


def test_of_two_words_for_an_instant_the_earlier_counts() -> None:
    run = rolled_back().moved("phase", "durable", 1.95, lambda e: e.data["phase"] == "rolling_back")
    assert rollback_ms(run.case(), EDGE) == 200


def test_an_outage_that_began_before_the_method_counts_from_its_beginning() -> None:
    run = quiet().add(1.1, "probe", "bad", EDGE).add(1.5, "probe", "good", EDGE, version=OLD)
    assert downtime_ms(run.case(), EDGE) == 300


# ---- what answers


def two_updates(last: str, **job: object) -> Case:
    """2.0.0 has succeeded; then 3.0.0 was ordered."""
    run = succeeded().add(
        2.16, "action", "update", EDGE, to="3.0.0", digest="sha256:3", jobId="job-2", status=202
    )
    run = spoilt({"jobId": "job-2", "generation": 3, **job}, run).having("probe", "end", version=last)
    return run.case(scenario((UPDATE, {"action": "update", "to": "3.0.0"})))


def test_a_later_update_that_rolls_back_goes_back_to_what_succeeded_before() -> None:
    ended = {"status": "FAILED", "outcome": "rolled_back"}
    assert verdict("runs", two_updates(NEW, **ended)) is Verdict.PASS
    assert verdict("runs", two_updates(OLD, **ended)) is Verdict.FAIL
    assert verdict("runs", two_updates("3.0.0", **ended)) is Verdict.FAIL


def test_of_a_rollback_that_failed_only_the_candidate_is_wrong() -> None:
    ended = {"status": "FAILED", "outcome": "rollback_failed"}
    assert verdict("runs", two_updates(NEW, **ended)) is Verdict.PASS
    assert verdict("runs", two_updates("3.0.0", **ended)) is Verdict.FAIL


def test_of_a_job_that_was_given_up_the_device_knows_what_runs() -> None:
    case = spoilt({"status": "TIMED_OUT", "outcome": None}).case()
    assert verdict("runs", case) is Verdict.PASS, "its journal says that it succeeded"
    late = spoilt({"status": "TIMED_OUT", "outcome": None, "lateOutcome": "rolled_back"})
    assert verdict("runs", late.case()) is Verdict.FAIL


def test_what_was_said_to_run_counts_more_than_what_follows() -> None:
    case = rolled_back().case(scenario(expect={"runs": NEW}))
    assert told("runs", case) == Finding("runs", "2.0.0 answers", OLD, Verdict.FAIL, EDGE)


def test_a_job_that_was_not_ordered_is_no_evidence() -> None:
    case = spoilt({"jobId": "job-9"}).case(scenario(expect={"outcome": "succeeded"}))
    assert verdict("outcome", case) is Verdict.UNKNOWN


def test_no_job_and_no_outcome() -> None:
    nothing = scenario(({"action": "wait", "for": "1s"},), expect={"outcome": None})
    assert verdict("outcome", quiet().case(nothing)) is Verdict.PASS
    assert verdict("outcome", succeeded().case(nothing)) is Verdict.FAIL
    assert verdict("outcome", quiet().case(scenario(expect={"outcome": "succeeded"}))) is Verdict.FAIL


def test_devices_that_were_asked_for_nothing_have_no_outcome_to_judge() -> None:
    run = quiet("edge-2")
    run.events += succeeded().events
    found = CHECKERS["outcome"](run.case(scenario(expect={"outcome": "succeeded"})))
    assert [(f.device, f.verdict) for f in found] == [(EDGE, Verdict.PASS)]
    assert [f.device for f in CHECKERS["runs"](run.case())] == [EDGE, "edge-2"]


# ---- faults


def test_each_coming_has_to_be_shown() -> None:
    fault = {"fault": "down", "link": "device-broker", "repeat": {"times": 3, "every": "1s"}}
    rows = [FaultRow("down", "down", n, fired=f"{n} connections") for n in (1, 2, 3)]
    of = scenario((UPDATE, fault))
    case = Case(of, succeeded().case().history, tuple(rows), plan(of, 1))
    assert verdict("faults-fired", case) is Verdict.PASS
    short = replace(case, faults=tuple(rows[:2]))
    assert told("faults-fired", short).measured == "2 of 3 shown to have fired"
    assert verdict("faults-fired", short) is Verdict.UNKNOWN


def test_a_coming_to_several_devices_has_to_fire_on_each() -> None:
    of = scenario((UPDATE, {"fault": "killed"}))
    both = (
        FaultRow("killed", "killed", device=EDGE, fired="yes"),
        FaultRow("killed", "killed", device="edge-2"),
    )
    assert verdict("faults-fired", Case(of, succeeded().case().history, both)) is Verdict.UNKNOWN


def test_rows_of_faults_from_the_history() -> None:
    run = succeeded().add(1.3, "fault", "planned", label="broker-away", fault="down")
    run.add(1.4, "fault", "triggered", label="broker-away", fault="down", nth=1)
    run.add(1.41, "fault", "in-force", label="broker-away", fault="down", nth=1, lag_ms=10.5)
    run.add(1.8, "fault", "fired", label="broker-away", nth=1, how="3 connections refused")
    run.add(1.81, "fault", "healed", label="broker-away", nth=1)
    run.add(1.9, "fault", "failed", label="broker-away", nth=2, what="no such proxy")
    of = scenario((UPDATE, {"fault": "down", "name": "broker-away", "link": "device-broker"}))
    first, second = fault_rows(run.case(of))
    assert first == FaultRow(
        "broker-away", "down", 1, "", "device-broker", 1.4, 1.41, 1.81, 10.5, "3 connections refused"
    )  # fmt: skip
    assert (second.nth, second.failed) == (2, "no such proxy")


def test_time_ran_out_though_every_job_had_ended() -> None:
    case = succeeded().having("run", "method-ends", why="time-limit", what="waits for client-down").case()
    assert verdict("method-played", case) is Verdict.UNKNOWN
