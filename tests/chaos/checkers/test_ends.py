"""What checkers make of journals, processes and ends that are less simple, and of what was not seen."""

from __future__ import annotations

from dataclasses import replace

from chaos.checkers import CHECKERS, Case
from chaos.checkers.case import natural
from chaos.checkers.evidence import stretches
from chaos.result import FaultRow
from chaos.verdict import Finding, Verdict, overall
from tests.chaos.checkers.builder import (
    DIGESTS,
    EDGE,
    JOB,
    NEW,
    OLD,
    SETUP,
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
