"""A run as reports get it: two devices, three faults, an outage each, a rollback on one of them."""

from __future__ import annotations

import random

from chaos.checkers import Case
from chaos.history import History
from chaos.judge import judge
from chaos.plan import as_table, plan
from chaos.result import FaultRow, Report, RunResult
from chaos.scenario.model import Scenario
from chaos.verdict import Ended, overall
from tests.chaos.checkers.builder import EDGE, WALL_MS, Run, rolled_back, scenario, succeeded

SECOND = "edge-2"


def story() -> Scenario:
    """What was played."""
    method = (
        {"action": "update", "to": "2.0.0"},
        {"fault": "mqtt-drop", "name": "lost-acks", "with": {"packet": "puback"}, "for": "400ms",
         "when": {"event": "command-delivered"}},
        {"fault": "registry-throttled", "when": {"phase": "pulling"}, "for": "120ms"},
        {"fault": "agent-killed", "device": 2, "when": {"phase": "verifying"}},
    )  # fmt: skip
    expect = {"outcome": ["succeeded", "rolled_back"], "downtime": "600ms", "rollback": "300ms"}
    more = {"proves": "A lost acknowledgement is not a lost update.", "tags": ["mqtt", "registry"]}
    return scenario(method, expect=expect, bench={"devices": 2}, rollbacks=[{"action": "release"}], **more)


def history() -> Run:
    """What was seen."""
    run, chance = succeeded(EDGE), random.Random(7)
    run.events += [e for e in rolled_back(SECOND).events if e.source != "run"]
    for device in (EDGE, SECOND):
        for n in range(40):
            to, kind = (("device", "reply"), ("broker", "status"), ("broker", "birth"))[n % 3]
            t = 0.95 + n * 0.04 + chance.random() * 0.02
            run.add(t, "tap", "publish", device, to=to, kind=kind, packet=n, qos=1, bytes=300)
    run.add(1.8, "api", "unreachable", what="timeout").add(1.88, "api", "reachable", what="")
    run.add(1.9, "processes", "count", SECOND, n=0, pids=[]).add(
        2.05, "processes", "count", SECOND, n=1, pids=[14]
    )
    run.add(1.62, "processes", "count", SECOND, n=2, pids=[10, 12])
    run.add(2.35, "action", "release", SECOND)
    run.faults = [
        FaultRow("lost-acks", "mqtt-drop", 1, "", "", 1.3, 1.312, 1.712, 12.0, "3 PUBACKs were dropped"),
        FaultRow("registry-throttled", "registry-throttled", 1, "", "", 1.35, 1.36, 1.48, 9.8, "429 was served 4 times"),
        FaultRow("agent-killed", "agent-killed", 1, SECOND, "", 1.7, 1.702, 1.702, 2.1, "pid 4711 is gone"),
    ]  # fmt: skip
    return run


def result(name: str = "lost-acknowledgement") -> tuple[RunResult, History, Scenario]:
    """All three that a report is written of; judged as it is in a run."""
    of, seen = story(), history()
    case = Case(of, History.made_of(seen.events), tuple(seen.faults), plan(of, 7))
    findings, devices = judge(case)
    made = RunResult(
        name, f"scenarios/{name}.yaml", of.title, 7, Ended(overall(findings).value), proves=of.proves,
        description="Acknowledgements are lost while the registry asks for patience.", tags=list(of.tags),
        findings=findings, plan=as_table(case.plan), faults=seen.faults, devices=devices, began_wall_ms=WALL_MS,
        seconds=4.2, setup_ms=1012, teardown_ms=310, machine="Linux 6.1, 2 cores", version="0.7.0",
    )  # fmt: skip
    return made, case.history, of


def report() -> Report:
    """Several runs: one that passed, one that failed, one that is unknown, one that was skipped."""
    good, _, _ = result()
    good.ended = Ended.PASS
    bad, _, _ = result("slow-registry")
    bad.ended = Ended.FAIL
    vague, _, _ = result("broker-away")
    vague.ended, vague.faults[0].fired, vague.reason = (
        Ended.UNKNOWN,
        "",
        "a fault was not shown to have fired",
    )
    left = RunResult(
        "power-cut", "scenarios/power-cut.yaml", "The power goes", 1, Ended.SKIPPED, "no loop devices here"
    )
    return Report.of([good, bad, vague, left], 13.4)
