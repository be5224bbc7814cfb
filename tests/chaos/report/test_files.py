"""The files of a report: the journal's shape, JUnit, the comparison with an earlier one, and how they are written."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pydantic import TypeAdapter

from chaos.report import compare, read_report, write_all, write_run
from chaos.report.junit import junit
from chaos.result import Report, RunResult
from chaos.verdict import Ended
from reference.core.errors import InputError
from tests.chaos.report.sample import report, result

Body = dict[str, object]
_BODY = TypeAdapter(dict[str, object])
_ROWS = TypeAdapter(list[dict[str, object]])


def body(value: object) -> Body:
    return _BODY.validate_python(value)


def rows(value: object) -> list[Body]:
    return _ROWS.validate_python(value)


def journal_of(folder: Path, ended: Ended | None = None) -> Body:
    made, history, scenario = result()
    made.ended = ended or made.ended
    write_run(made, history, folder, scenario)
    return body(json.loads((folder / "journal.json").read_bytes()))


def spans(activity: Body) -> float:
    """Its duration, once its times are right."""
    begin, end = (datetime.fromisoformat(str(activity[key])) for key in ("start", "end"))
    assert begin.utcoffset() is not None
    duration = float(str(activity["duration"]))
    assert (end - begin).total_seconds() == pytest.approx(duration, abs=0.002)
    return duration


# ---- Chaos Toolkit's journal


def test_the_journal_has_what_its_specification_asks(tmp_path: Path) -> None:
    found = journal_of(tmp_path)
    assert found.keys() >= {
        "chaoslib-version", "platform", "node", "experiment", "start", "status", "deviated", "steady_states", "run",
        "rollbacks", "end", "duration",
    }  # fmt: skip
    spans(found)
    experiment = body(found["experiment"])
    assert experiment.keys() >= {
        "version",
        "title",
        "description",
        "steady-state-hypothesis",
        "method",
        "rollbacks",
    }
    hypothesis = body(experiment["steady-state-hypothesis"])
    for probe in rows(hypothesis["probes"]):
        assert probe.keys() >= {"type", "name", "provider", "tolerance"}
    assert [m["name"] for m in rows(experiment["method"])] == [
        "update-1", "lost-acks", "registry-throttled", "agent-killed",
    ]  # fmt: skip


def test_every_activity_has_what_it_asks(tmp_path: Path) -> None:
    found = journal_of(tmp_path)
    states = body(found["steady_states"])
    before, after = (body(states[name]) for name in ("before", "after"))
    probes = [*rows(before["probes"]), *rows(after["probes"])]
    assert all({"tolerance_met"} <= p.keys() for p in probes)
    for activity in [*rows(found["run"]), *rows(found["rollbacks"]), *probes]:
        assert activity.keys() >= {"activity", "status", "start", "end", "duration", "output"}
        assert activity["status"] in ("succeeded", "failed")
        spans(activity)
    assert before["steady_state_met"] is True


def test_faults_and_actions_are_in_order_with_their_proof(tmp_path: Path) -> None:
    run = rows(journal_of(tmp_path)["run"])
    names = [str(body(a["activity"])["name"]) for a in run]
    assert names == ["update 2.0.0", "update 2.0.0", "lost-acks", "registry-throttled", "agent-killed"]
    acks = run[2]
    assert (acks["output"], acks["status"]) == ("3 PUBACKs were dropped", "succeeded")
    assert spans(acks) == pytest.approx(0.412)
    rollbacks = rows(journal_of(tmp_path)["rollbacks"])
    assert [body(a["activity"])["name"] for a in rollbacks] == ["release"]


@pytest.mark.parametrize(
    ("ended", "status", "deviated"),
    [
        (Ended.PASS, "completed", False),
        (Ended.FAIL, "failed", True),
        (Ended.UNKNOWN, "failed", False),
        (Ended.SKIPPED, "aborted", False),
    ],
)
def test_a_verdict_as_the_journal_says_it(tmp_path: Path, ended: Ended, status: str, deviated: bool) -> None:
    found = journal_of(tmp_path, ended)
    assert (found["status"], found["deviated"]) == (status, deviated)
    assert body(found["blackstart"])["verdict"] == ended.value


def test_a_fault_that_was_not_shown_failed(tmp_path: Path) -> None:
    made, history, scenario = result()
    made.faults[0].fired = ""
    write_run(made, history, tmp_path, scenario)
    run = rows(body(json.loads((tmp_path / "journal.json").read_bytes()))["run"])
    acks = next(a for a in run if body(a["activity"])["name"] == "lost-acks")
    assert (acks["status"], acks["exception"], acks["output"]) == ("failed", "not shown to have fired", None)


def test_without_the_scenario_there_is_a_journal_all_the_same(tmp_path: Path) -> None:
    made, history, _ = result()
    write_run(made, history, tmp_path)
    experiment = body(body(json.loads((tmp_path / "journal.json").read_bytes()))["experiment"])
    assert experiment["title"] == made.title
    assert len(rows(experiment["method"])) == len(made.plan)


# ---- JUnit


def suites(of: Report) -> ET.Element:
    return ET.fromstring(junit(of))


def test_junit_counts_are_those_of_its_tests() -> None:
    root = suites(report())
    assert root.tag == "testsuites"
    assert [root.attrib[name] for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    assert float(root.attrib["time"]) == 13.4
    for suite in root:
        assert suite.tag == "testsuite"
        assert suite.attrib.keys() >= {
            "name",
            "tests",
            "failures",
            "errors",
            "skipped",
            "time",
            "timestamp",
            "hostname",
        }
        assert datetime.fromisoformat(suite.attrib["timestamp"]).microsecond == 0
        assert [child.tag for child in suite] == ["properties", "testcase", "system-out", "system-err"]
        (case,) = suite.iter("testcase")
        assert case.attrib.keys() == {"classname", "name", "time"}
        for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert len(case.findall(tag)) == int(suite.attrib[count])


def test_junit_says_why() -> None:
    root = suites(report())
    by_name = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert len(list(by_name["lost-acknowledgement"])) == 0
    failure = by_name["slow-registry"].find("failure")
    assert failure is not None
    assert (
        failure.attrib["message"]
        == "most-at-once on edge-2: expected at most 1 client processes at once; measured 2"
    )
    assert "blackstart chaos run scenarios/slow-registry.yaml --seed 7" in str(failure.text)
    error, skipped = by_name["broker-away"].find("error"), by_name["power-cut"].find("skipped")
    assert error is not None
    assert error.attrib["message"] == "a fault was not shown to have fired"
    assert skipped is not None
    assert skipped.attrib["message"] == "no loop devices here"


def test_junit_has_the_measures_as_properties() -> None:
    suite = next(s for s in suites(report()) if s.attrib["name"] == "slow-registry")
    found = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
    assert found["seed"] == "7"
    assert found["edge-1.downtime-ms"] == "80"
    assert found["edge-2.rollback-ms"] == "200"
    assert found["faults-fired"] == "3"


def test_junit_holds_what_xml_cannot() -> None:
    odd = RunResult("a\x00<b>", "f", "t\x1b", 1, Ended.FAIL, "\x0b]]>&\ud800")
    (case,) = suites(Report([odd])).iter("testcase")
    assert case.attrib["name"] == "a\ufffd<b>"


# ---- compared


def with_downtime(run: RunResult, value: int | None) -> RunResult:
    for device in run.devices:
        device.downtime_ms = value
    return run


def test_what_changed_is_found(tmp_path: Path) -> None:
    before, now = report(), report()
    before.runs[1].ended, now.runs[1].ended = Ended.PASS, Ended.FAIL
    with_downtime(before.runs[1], 100)
    with_downtime(now.runs[1], 350)
    before.runs[0].name, now.runs[0].name = "gone", "came"
    found = compare(before, now)
    assert [(c.name, c.before, c.now) for c in found.verdicts] == [
        ("lost-acknowledgement", Ended.PASS, Ended.FAIL)
    ]
    assert (found.new, found.vanished) == (("came",), ("gone",))
    change = next(c for c in found.both if c.name == "lost-acknowledgement")
    assert (change.downtime_before_ms, change.downtime_now_ms) == (100, 350)

    (tmp_path / "old").mkdir()
    (tmp_path / "old/report.json").write_text(before.to_json())
    for earlier in (tmp_path / "old", tmp_path / "old/report.json"):
        write_all(now, tmp_path / "new", earlier)
        written = json.loads((tmp_path / "new/report.json").read_bytes())
        assert written["compared"]["new"] == ["came"]
        assert written["compared"]["verdicts"] == [
            {"name": "lost-acknowledgement", "before": "pass", "now": "fail"}
        ]
        page = (tmp_path / "new/index.html").read_text("utf-8")
        assert "1 verdict changed" in page
        assert "+250\u00a0ms" in page


def test_the_same_again_changes_nothing() -> None:
    found = compare(report(), report())
    assert not (found.verdicts or found.new or found.vanished)
    assert len(found.both) == 4


def test_a_scenario_that_was_played_several_times_is_compared_one_by_one() -> None:
    twice = Report([with_downtime(result()[0], 10), with_downtime(result()[0], 20)])
    again = Report([with_downtime(result()[0], 11), with_downtime(result()[0], 22)])
    pairs = [(c.downtime_before_ms, c.downtime_now_ms) for c in compare(twice, again).both]
    assert pairs == [(10, 11), (20, 22)]


def test_the_earlier_report_may_be_in_the_same_folder(tmp_path: Path) -> None:
    assert write_all(report(), tmp_path) is None
    later = report()
    later.runs[1].ended = Ended.FAIL
    found = write_all(later, tmp_path, tmp_path)
    assert found is not None
    assert [c.name for c in found.verdicts] == ["lost-acknowledgement"]
    assert read_report(tmp_path).count(Ended.FAIL) == 2


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b'{"runs": [{"name": 1}]}', b"\xff"])
def test_an_earlier_report_that_is_none_does_not_cost_the_new_one(
    tmp_path: Path, content: bytes | None
) -> None:
    earlier = tmp_path / "earlier.json"
    if content is not None:
        earlier.write_bytes(content)
    with pytest.raises(InputError, match=r"earlier\.json"):
        read_report(earlier)
    found = write_all(report(), tmp_path / "new", earlier)
    assert found is not None
    assert "earlier.json" in found.problem
    assert "Not compared" in (tmp_path / "new/index.html").read_text("utf-8")
    assert len(read_report(tmp_path / "new").runs) == 4


# ---- written


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    write_all(report(), tmp_path)
    assert read_report(tmp_path) == report()
    made, history, scenario = result()
    write_run(made, history, tmp_path / "run", scenario)
    assert RunResult.from_json((tmp_path / "run/result.json").read_bytes()) == made


def test_links_lead_to_the_pages_that_are_there(tmp_path: Path) -> None:
    made, history, scenario = result()
    write_run(made, history, tmp_path / made.name, scenario)
    other, _, _ = result("kept-elsewhere")
    write_run(other, history, tmp_path / "logs/17", scenario)
    other.folder = str(tmp_path / "logs/17")
    missing, _, _ = result("without-page")
    write_all(Report.of([made, other, missing], 1.0), tmp_path)
    page = ET.fromstring((tmp_path / "index.html").read_text("utf-8").removeprefix("<!DOCTYPE html>"))
    links = [a.attrib["href"] for a in page.iter("a")]
    assert links == ["logs/17/report.html", "lost-acknowledgement/report.html"]
    assert all((tmp_path / link).is_file() for link in links)


def test_the_history_is_linked_where_it_is(tmp_path: Path) -> None:
    made, history, scenario = result()
    write_run(made, history, tmp_path, scenario)
    assert "history.jsonl" not in (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "history.jsonl").write_text("".join(e.to_json() + "\n" for e in history.events))
    write_run(made, history, tmp_path, scenario)
    assert "history.jsonl" in (tmp_path / "report.html").read_text("utf-8")


def test_the_old_file_stays_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    made, history, scenario = result()
    write_run(made, history, tmp_path, scenario)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    made.plan = [{"label": object}]
    with pytest.raises(TypeError):
        write_run(made, history, tmp_path, scenario)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert sorted(before) == ["journal.json", "report.html", "result.json"]
