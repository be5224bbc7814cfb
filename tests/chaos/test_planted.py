"""Every planted defect is seen by the scenario that the table names: a harness that believes everything is worth nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.lanes import play_file
from chaos.runner import Options
from chaos.verdict import Ended, Verdict
from reference.stack import Agents
from tests.architecture.source import ROOT
from tests.chaos.planted import DEFECTS, SERVICE, SWITCH, UPDATER, Planted

AGENTS = Agents(usual="tests.chaos.planted_agent", service="tests.chaos.planted_service")


def test_there_are_enough_in_both_parts() -> None:
    assert len(DEFECTS) >= 15
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    assert {defect.part for defect in DEFECTS} == {UPDATER, SERVICE}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
async def test_a_planted_defect_turns_its_scenario_red(defect: Planted, tmp_path: Path) -> None:
    scenario = ROOT / "scenarios" / f"{defect.scenario}.yaml"
    options = Options(agents=AGENTS, environment={SWITCH: defect.name})
    result = await play_file(scenario, options, folder=tmp_path / "report")
    if result.ended is Ended.SKIPPED:
        pytest.skip(f"{defect.scenario}: {result.reason}")
    told = [
        f"{f.checker}: expected {f.expected}; {f.measured}"
        for f in result.findings
        if f.verdict is Verdict.FAIL
    ]
    assert result.ended is Ended.FAIL, f"{defect.what}: {result.ended} {result.reason}"
    assert told
