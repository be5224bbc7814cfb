"""A soak with a planted defect has to find it, and leave a scenario on which `blackstart chaos run` fails."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from chaos.lanes import play_file
from chaos.load import load
from chaos.runner import Options
from chaos.soak import Bounds, Guards, SoakResult, Wanted, soak
from chaos.verdict import Ended
from reference.stack import Agents
from tests.chaos.planted import SWITCH

PLANTED = Options(
    agents=Agents(usual="tests.chaos.planted_agent"), environment={SWITCH: "success-reported-early"}
)
"""A success is told as the trial begins: seen as soon as the API shows one."""
GUARDS = Guards(
    devices=2, active_ms=10_000, at_once=2, longest_ms=2_000, faults_every_ms=3_000, orders_every_ms=(3_000, 6_000),
    rest_ms=10_000, bad_share=0.0,
)  # fmt: skip


async def test_a_planted_defect_is_found_and_left_as_a_scenario_that_fails(tmp_path: Path) -> None:
    said: list[str] = []
    wanted = Wanted(0.1, 2, GUARDS)
    result = await soak(
        wanted, PLANTED, lambda kind, _: said.append(kind), tmp_path, Bounds(tries=1, again=2)
    )
    assert result.exit_code() == 1
    assert {violation.checker for violation in result.violations} >= {"status-not-ahead"}
    assert any(violation.seen == "live" for violation in result.violations)
    assert {"say", "progress"} <= set(said)
    assert result.rounds == 1
    found = load(Path(result.scenarios[0]))
    assert found.bench.devices == 1
    assert (tmp_path / "found-2-1.history.jsonl").stat().st_size
    last = Path(result.scenarios[-1])
    assert len(load(last).method) <= len(found.method)
    assert (await play_file(last, PLANTED)).ended is Ended.FAIL


def test_what_it_ends_with() -> None:
    def code(**given: object) -> int:
        done = {"updates": {"succeeded": 1}, "faults_fired": {"down": 1}, "rounds": 1, **given}
        return SoakResult.from_json(json.dumps({"minutes": 1, "seed": 1, "devices": 1, **done})).exit_code()

    assert code() == 0
    assert code(updates={}) == code(faults_fired={}) == code(rounds=0) == code(broken_off="in round 1") == 3
    assert code(violations=[{"round": 1, "device": "edge-1", "checker": "runs", "what": "nothing"}]) == 1


async def test_a_cancel_leaves_nothing(tmp_path: Path) -> None:
    begun = asyncio.Event()
    playing = asyncio.create_task(
        soak(Wanted(1.0, 1, Guards(devices=1)), Options(), lambda *_: begun.set(), tmp_path)
    )
    await begun.wait()
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    assert playing.cancelled()
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
