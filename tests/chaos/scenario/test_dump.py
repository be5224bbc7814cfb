"""A scenario that is written is the same when it is read, and reads as if a person had written it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from chaos.load import dump, load, problems
from chaos.scenario import Scenario
from tests.chaos.scenario.generated import scenarios
from tests.chaos.scenario.written import write

FILES = sorted((Path(__file__).parents[3] / "scenarios").glob("*.yaml"))


def back(scenario: Scenario, folder: Path) -> Scenario:
    path = folder / "story.yaml"
    path.write_text(dump(scenario), encoding="utf-8")
    return load(path)


@given(scenarios)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_written_is_read_as_the_same(tmp_path: Path, scenario: Scenario) -> None:
    again = back(scenario, tmp_path)
    assert again == scenario
    assert again.expect.judges_outcome == scenario.expect.judges_outcome
    assert again.expect.judges_reason == scenario.expect.judges_reason
    assert dump(again) == dump(scenario)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_scenario_there_is_survives_it(path: Path, tmp_path: Path) -> None:
    if problems(path):
        pytest.fail(f"{path.name} does not load: {problems(path)[0]}")
    scenario = load(path)
    assert back(scenario, tmp_path) == scenario


def test_it_reads_as_if_a_person_had_written_it(tmp_path: Path) -> None:
    text = """\
title: The registry is silent for a while
description: |
  First line.
  Second line.
tags: [network, pull]
time-limit: 120s
bench:
  begins: '1.0'
  versions:
    - {version: 2.0.0, layer: 4, window: 2s}
method:
  - action: update
    to: 2.0.0
  - fault: agent-killed
    when: {phase: verifying, then: 100ms..200ms}
    for: 1500ms
    repeat: {times: 2, every: 5s}
rollbacks:
  - action: cancel
expect:
  outcome: succeeded
  reason: null
  downtime: 900ms
"""
    assert dump(load(write(tmp_path, text))) == text.replace("'1.0'", '"1.0"')


def test_what_is_usual_is_left_out() -> None:
    scenario = Scenario.model_validate(
        {"title": "x", "method": [{"action": "update"}], "bench": {"devices": 1}}
    )
    assert dump(scenario) == "title: x\nmethod:\n  - action: update\n    to: 2.0.0\n"


def test_keys_are_as_a_file_has_them() -> None:
    scenario = Scenario.model_validate(
        {
            "title": "x",
            "method": [{"action": "wait", "for": "1s"}],
            "steady-state-hypothesis": {"probes": ["service-ready"]},
        }
    )
    assert re.findall(r"^[a-z-]+", dump(scenario), re.MULTILINE) == [
        "title",
        "steady-state-hypothesis",
        "method",
    ]
