"""What checkers make of less simple runs: first installs, refusals, overlaps, lost journals, clocks that are set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.checkers import CHECKERS, Case, fault_rows
from chaos.checkers.case import natural
from chaos.checkers.evidence import downtime_ms, rollback_ms, stretches
from chaos.plan import plan
from chaos.result import FaultRow
from chaos.verdict import Finding, Verdict, overall
from tests.chaos.checkers.builder import (
    DIGESTS,
    EDGE,
    JOB,
    NEW,
    OLD,
    SETUP,
    UPDATE,
    WALL_MS,
    Run,
    container,
    entry,
    memory,
    quiet,
    rolled_back,
    scenario,
    succeeded,
    world,
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


# ---- several processes, journals and ends


def test_two_may_live_at_once_where_an_update_overlaps() -> None:
    run = succeeded().having("processes", "end", most=2)
    overlap = {"versions": [{"version": NEW, "handover": "overlap"}]}
    assert verdict("most-at-once", run.case(scenario(bench=overlap))) is Verdict.PASS
    assert verdict("never-two-active", run.case(scenario(bench=overlap))) is Verdict.PASS
    assert verdict("never-two-active", run.case()) is Verdict.FAIL


def test_a_journal_made_anew_may_switch_again() -> None:
    """What the lost one held was seen live; the last one begins with what runs."""
    run = succeeded().having("journal", "end", history=[entry(2.0, "accepted"), entry(2.01, "switching")])
    assert verdict("one-install-per-generation", run.case()) is Verdict.PASS
    counted = run.case(scenario(expect={"delivery": {"installs": 2}}))
    assert verdict("delivery", counted) is Verdict.PASS


def test_a_boot_within_a_trial_is_no_further_switch() -> None:
    rows = [entry(1.3, "accepted"), entry(1.6, "switching"), entry(1.7, "switching", boot_id="later")]
    case = history_of(succeeded(), rows).case(scenario(expect={"delivery": {"installs": 1}}))
    assert verdict("one-install-per-generation", case) is Verdict.PASS
    assert verdict("delivery", case) is Verdict.PASS


def test_the_image_may_go_after_the_commit() -> None:
    run = succeeded().add(2.01, "image", "missing", EDGE, digest=DIGESTS[OLD])
    assert verdict("current-kept", run.case()) is Verdict.PASS


def test_nobody_looked_for_the_image() -> None:
    assert verdict("current-kept", succeeded().having("image", "end", looks=0).case()) is Verdict.UNKNOWN
    assert verdict("current-kept", quiet().having("image", "end", looks=0).case()) is Verdict.PASS


def test_a_client_that_is_stopped_before_the_switch_was_not_kept() -> None:
    run = succeeded().without("probe", "bad").add(1.27, "probe", "bad", EDGE)
    assert verdict("current-kept", run.case()) is Verdict.FAIL
    run.faults.append(FaultRow("container-killed", "container-killed", triggered_t=1.26, fired="gone"))
    assert verdict("current-kept", run.case()) is Verdict.PASS, "that was the fault"


def test_a_success_of_another_digest_is_not_proved() -> None:
    other = container(NEW)
    image = replace(other.image, digest="sha256:other")
    run = succeeded().having("containers", "end", world=world(replace(other, image=image)))
    assert verdict("success-proved", run.case()) is Verdict.FAIL


def test_a_success_that_nobody_saw_answer_is_not_proved() -> None:
    run = succeeded().without("probe", "good").without("probe", "bad")
    run.add(0.9, "probe", "good", EDGE, version=OLD)
    assert "never seen it answer" in told("success-proved", run.case()).measured


def test_a_success_shown_before_the_commit_is_not_proved() -> None:
    run = succeeded().moved("api", "job", 1.9, lambda e: e.data["status"] == "SUCCEEDED")
    assert "100 ms before the commit" in told("success-proved", run.case()).measured


def test_what_runs_already_needs_no_commit() -> None:
    reason = {"code": "already_running", "message": ""}
    run = history_of(quiet(), [])
    run.add(1.25, "action", "update", EDGE, to=OLD, digest=DIGESTS[OLD], jobId=JOB, status=202)
    job = {"jobId": JOB, "status": "SUCCEEDED", "outcome": "succeeded", "reason": reason}
    run.add(2.5, "api", "end", EDGE, job=job)
    assert verdict("success-proved", run.case()) is Verdict.PASS
    assert verdict("success-proved", run.having("containers", "end", world=None).case()) is Verdict.UNKNOWN


def test_a_report_ahead_of_the_record_is_found() -> None:
    report = {
        "job_id": JOB, "generation": 2, "sequence": 3, "status": "SUCCEEDED", "phase": "verifying",
        "outcome": "succeeded", "reason": None, "message": "", "downtime_ms": None,
    }  # fmt: skip
    made = memory(NEW)
    assert isinstance(made, dict)
    command = {
        "job_id": JOB, "generation": 2, "image": made["record"]["current"]["image"], "health": {},
        "expires_at_ms": WALL_MS,
    }  # fmt: skip
    record = {**made["record"], "phase": "verifying", "job": command}
    run = succeeded().having("journal", "end", memory={**made, "record": record, "outbox": [report]})
    assert verdict("status-not-ahead", run.case()) is Verdict.FAIL
    assert verdict("converges", run.case()) is Verdict.FAIL


def test_a_canceled_command_that_waited_has_no_end_in_the_history() -> None:
    ended = {"status": "CANCELED", "outcome": "failed", "reason": {"code": "canceled", "message": ""}}
    run = spoilt(ended, history_of(succeeded().without("api", "job"), [entry(1.3, "accepted", "job-other")]))
    report = {
        "job_id": JOB, "generation": 2, "sequence": 3, "status": "CANCELED", "phase": "idle",
        "outcome": "failed", "reason": "canceled", "message": "", "downtime_ms": None,
    }  # fmt: skip
    made = memory(OLD)
    assert isinstance(made, dict)
    run.having("journal", "end", memory={**made, "finished": [report]})
    assert verdict("status-not-ahead", run.case()) is Verdict.PASS
    assert verdict("service-agrees", run.case()) is Verdict.PASS
    other = run.having("journal", "end", memory=made).case()
    assert verdict("service-agrees", other) is Verdict.FAIL, "the device has never said so"


def test_what_the_service_gave_up_agrees_with_the_late_word() -> None:
    gone = {"status": "TIMED_OUT", "outcome": None, "reason": {"code": "deadline_passed", "message": ""}}
    assert verdict("service-agrees", spoilt(gone).case()) is Verdict.FAIL
    late = spoilt({**gone, "lateOutcome": "succeeded"}).case()
    assert verdict("service-agrees", late) is Verdict.PASS


def test_a_job_that_had_ended_is_not_lost() -> None:
    run = succeeded().without("api", "end").add(2.4, "api", "job-gone", EDGE, jobId=JOB)
    found = told("terminal-is-final", run.case())
    assert (found.verdict, found.measured) == (Verdict.FAIL, "job job-1 was SUCCEEDED, and is gone")
    assert verdict("service-agrees", run.case()) is Verdict.FAIL
    back = succeeded().add(2.4, "api", "job-gone", EDGE, jobId=JOB)
    assert verdict("terminal-is-final", back.case()) is Verdict.FAIL, "though it came back"


def test_a_job_that_is_lost_before_its_end_is_none_that_the_service_agrees_on() -> None:
    run = succeeded().add(1.27, "api", "job-gone", EDGE, jobId=JOB)
    assert verdict("terminal-is-final", run.case()) is Verdict.PASS
    assert verdict("service-agrees", run.case()) is Verdict.FAIL
    others = succeeded().add(1.27, "api", "job-gone", EDGE, jobId=SETUP)
    assert verdict("service-agrees", others.case()) is Verdict.PASS, "nobody has ordered it"


def test_a_job_that_is_open_in_the_end_does_not_agree() -> None:
    case = spoilt({"status": "IN_PROGRESS", "outcome": None}).case()
    assert verdict("service-agrees", case) is Verdict.FAIL


def test_not_at_rest_fails_whatever_the_device_says() -> None:
    run = succeeded().without("run", "converged").add(2.45, "run", "not-converged", what="edge-1: verifying")
    assert verdict("converges", run.case()) is Verdict.FAIL
    assert verdict("converges-in", run.case()) is Verdict.FAIL


def test_after_a_rollback_that_failed_the_duty_goes_on() -> None:
    made = memory(OLD)
    assert isinstance(made, dict)
    run = rolled_back().having("journal", "end", memory={**made, "record": {**made["record"], "duty": True}})
    run.having("containers", "end", world=world())
    assert verdict("converges", run.case()) is Verdict.PASS


def test_samples_that_may_be_lost_are_counted() -> None:
    run = succeeded().having("samples", "end", broken_at=17, lost=2)
    assert verdict("samples", run.case(scenario(expect={"samples-lost": 2}))) is Verdict.PASS
    torn = succeeded().having("samples", "end", broken_at=17, lost=0)
    assert verdict("samples", torn.case()) is Verdict.FAIL
    none = succeeded().having("samples", "end", first=None, last=None)
    assert verdict("samples", none.case()) is Verdict.UNKNOWN


def test_stretches_have_no_gaps() -> None:
    found = stretches(succeeded().case(), EDGE)
    assert [(s.version, round(s.begin, 3), round(s.end, 3)) for s in found] == [
        (OLD, 0.9, 1.62), (None, 1.62, 1.7), (NEW, 1.7, 2.5),
    ]  # fmt: skip


def test_garbage_is_no_evidence() -> None:
    for broken in (
        succeeded().having("journal", "end", history=[{"at_ms": "soon", "phase": "idle"}]),
        succeeded().having("journal", "end", history="none", memory="none"),
        succeeded().having("containers", "end", world="none"),
        succeeded().having("api", "end", job={"status": "SO_SO", "jobId": JOB}),
    ):
        case = broken.case()
        assert Verdict.UNKNOWN in {overall(check(case)) for check in CHECKERS.values() if check(case)}


def test_numbers_in_names_count() -> None:
    assert sorted(["edge-10", "edge-2", "edge-1", "b"], key=natural) == ["b", "edge-1", "edge-2", "edge-10"]
    assert Run().case().devices == ()


def test_what_could_not_be_done_is_told_and_a_job_that_did_not_end_weighs_more() -> None:
    run = succeeded().having("run", "method-ends", why="time-limit", problems=["down: no proxy"])
    assert told("method-played", run.case()).measured == "90000 ms passed: down: no proxy"
    late = run.moved("api", "job", 2.45, lambda e: e.data["status"] == "SUCCEEDED").case()
    assert verdict("method-played", late) is Verdict.FAIL
    assert (
        verdict("method-played", run.having("run", "method-ends", why="not-begun").case()) is Verdict.UNKNOWN
    )


def test_samples_that_were_not_counted_are_unknown_where_some_may_be_lost() -> None:
    run = succeeded().having("samples", "end", broken_at=17, lost=None)
    assert verdict("samples", run.case()) is Verdict.FAIL
    assert verdict("samples", run.case(scenario(expect={"samples-lost": 5}))) is Verdict.UNKNOWN


def test_a_device_without_orders_needs_no_word_of_the_api() -> None:
    for name in ("success-proved", "status-not-ahead", "terminal-is-final", "service-agrees", "runs"):
        assert verdict(name, quiet().case()) is Verdict.PASS, name


def test_verdicts_of_commands_are_no_refusals() -> None:
    run = quiet().having("refusals", "end", reasons=["accepted", "expired", "expired"])
    found = told("refused", run.case(scenario(expect={"refused": "expired"})))
    assert found.measured == "expired (2 times)"


def test_a_hundred_jobs_are_judged_soon() -> None:
    """What a soak's rounds are: looked at once for each device, not once for each job."""
    run, rows = succeeded(), []
    for n in range(2, 300):
        run.add(1.25, "action", "update", EDGE, to=NEW, digest=DIGESTS[NEW], jobId=f"job-{n}", status=202)
        more = [
            entry(1.3, "switching", f"job-{n}", generation=n + 1),
            entry(1.31, "rolling_back", f"job-{n}"),
        ]
        rows += more
    run = spoilt({"jobId": "job-299"}, history_of(run, rows))
    case = run.case()
    found = [check(case) for check in CHECKERS.values()]
    assert all(isinstance(findings, list) for findings in found)
    assert len(case.memo) < 20


def test_an_answer_before_the_switch_proves_nothing() -> None:
    run = succeeded().without("probe", "good").without("probe", "bad")
    run.add(0.9, "probe", "good", EDGE, version=NEW).add(1.55, "probe", "bad", EDGE)
    run.add(2.2, "probe", "good", EDGE, version=OLD)
    assert "never seen it answer" in told("success-proved", run.case()).measured


def test_processes_that_were_counted_on_the_way_count() -> None:
    run = succeeded().add(1.65, "processes", "count", EDGE, n=2, pids=[10, 11])
    assert verdict("most-at-once", run.case()) is Verdict.FAIL


def test_only_commands_since_the_method_began_were_delivered() -> None:
    run = succeeded().add(0.5, "tap", "publish", EDGE, to="device", kind="command")
    run.add(1.5, "tap", "publish", EDGE, to="device", kind="reply")
    run.add(1.5, "tap", "publish", EDGE, to="broker", kind="birth")
    for wanted, verdicts in (({"commands": 1}, Verdict.PASS), ({"commands": 2}, Verdict.FAIL)):
        assert verdict("delivery", run.case(scenario(expect={"delivery": wanted}))) is verdicts
    assert verdict("delivery", run.case(scenario(expect={"delivery": {"statuses": 4}}))) is Verdict.FAIL
