"""The demo on a real Docker Engine: its quick stories pass, and an agent that is broken is noticed there, too.

All stories are a step of their own in CI: `blackstart demo --runtime docker`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from reference.demo.judge import Judged, Verdict
from reference.demo.run import Report, chosen, run_demo
from reference.stack import DEFAULT_AGENTS, Agents
from tests.demo.mutant_agent import MUTANTS
from tests.engine import needs_engine

pytestmark = pytest.mark.xdist_group("stack")

QUICK = ("crash-on-start", "cancel-mid-pull", "healthcheck-alone", "engine-restarts-mid-update")
BROKEN = {
    "never-healthy": "the API says succeeded, expected rolled_back",
    "crash-on-start": "the image of 1.0.0 was missing at",
    "engine-restarts-with-its-containers": "the reason is candidate_exited, expected None",
}
"""What the judge says of the agents that are broken, by story."""


async def played(names: tuple[str, ...], folder: Path, agents: Agents = DEFAULT_AGENTS) -> Report:
    needs_engine()
    return await run_demo(chosen(names), 1, lambda _, __: None, folder, agents, runtime="docker")


def problems(story: Judged) -> str:
    return f"{story.name}: {story.evidence['problems']}"


async def test_quick_stories_pass(tmp_path: Path) -> None:
    report = await played(QUICK, tmp_path)
    assert [problems(s) for s in report.stories if s.verdict is not Verdict.PASS] == []
    assert [s.name for s in report.stories] == list(QUICK)
    assert not (tmp_path / "engines" / "shared" / "data").exists(), "a hundred megabytes that prove nothing"
    found = {s.name: s for s in report.stories}
    assert found["crash-on-start"].rollback_ms
    assert found["engine-restarts-mid-update"].evidence["client_untouched_by_restart"] is True
    assert '"runtime": "docker"' in report.to_json()


async def test_a_broken_agent_is_noticed(tmp_path: Path) -> None:
    module = "tests.demo.mutant_agent"
    report = await played(tuple(BROKEN), tmp_path, Agents(module, module))
    for story in report.stories:
        assert story.verdict is Verdict.FAIL, (
            f"{MUTANTS[story.name].__name__} was not noticed: {problems(story)}"
        )
        assert BROKEN[story.name] in problems(story)
