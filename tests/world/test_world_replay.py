"""A way that was found is played again: the same violation, told step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core import delivery
from reference.core.delivery import Memory, Verdict
from reference.core.errors import InputError
from reference.core.limits import Limits
from reference.core.model import Command
from reference.world.explore import Explorer, Found
from reference.world.machine import Rules
from reference.world.mutants import updater
from reference.world.replay import Replay
from reference.world.stories import story


def forgets_the_floor(
    memory: Memory, order: Command, now_ms: int | None, limits: Limits
) -> tuple[Memory, Verdict]:
    """Whatever comes is taken."""
    blank = replace(memory, record=replace(memory.record, floor=0), outbox=(), finished=())
    return delivery.receive(blank, order, now_ms, limits)


BROKEN = [
    # at once, without a cut
    ("success", Rules(decide=updater.no_sync_before_a_start), 0, 0, "synced_before_start"),
    # only after a cut
    ("success", Rules(decide=updater.no_sync_before_the_switch), 1, 0, "expected_outcome"),
    # a message that comes twice
    ("success", Rules(receive=forgets_the_floor), 0, 1, "generations_rise"),
    # an event of the story and then a cut
    ("disk_full_journal", Rules(opens_synced=False), 2, 0, "one_install_per_generation"),
    # no end
    ("probation", Rules(decide=updater.probation_without_end), 0, 0, "converges"),
    # in the middle of a transaction
    ("success", Rules(journal_synced=False), 1, 0, "trusted_survives"),
    # after the updater was killed
    ("success", Rules(opens_synced=False), 2, 0, "trusted_survives"),
]


def all_found(name: str, rules: Rules, cuts: int, faults: int) -> list[Found]:
    played = story(name)
    return Explorer(played, played.machine(rules=rules), cuts=cuts, faults=faults).run().found


@pytest.mark.parametrize(("name", "rules", "cuts", "faults", "invariant"), BROKEN)
def test_what_was_found_is_found_again(
    name: str, rules: Rules, cuts: int, faults: int, invariant: str
) -> None:
    everything = all_found(name, rules, cuts, faults)
    assert invariant in {v.invariant for found in everything for v in found.violations}
    for found in everything:
        again = Replay(story(name), story(name).machine(rules=rules), found.branches)
        assert set(found.violations) <= set(again.run()), found.branches
        assert [line for line in again.lines if line.startswith("-- ")] == [
            f"-- {label}" for _, label in found.branches
        ]


def test_with_production_the_same_way_is_a_good_one() -> None:
    (found,) = all_found("success", Rules(receive=forgets_the_floor), 0, 1)
    assert found.branches == ((3, "command 2 once more"),)
    assert Replay(story("success"), story("success").machine(), found.branches).run() == ()


def test_a_story_is_told_step_by_step() -> None:
    played = story("success")
    replay = Replay(played, played.machine(), [])
    assert replay.run() == ()
    assert any("Journal committing" in line for line in replay.lines)
    order = [line for line in replay.lines if "Pull(" in line or "Stop(" in line or "Start(" in line]
    assert [line.split(":")[0] for line in order] == ["pulling", "switching", "switching"]


def test_a_cut_is_told_where_it_came() -> None:
    played = story("success")
    replay = Replay(played, played.machine(), [(22, "journal 0, plain/0")])
    assert replay.run() == ()
    at = replay.lines.index("-- journal 0, plain/0")
    assert replay.lines[at + 1] == "open the journal" and len(replay.lines) > at + 10


@pytest.mark.parametrize(
    ("branches", "match"),
    [
        ([(3, "journal 7, plain/0")], "there is no 'journal 7, plain/0' here, only "),
        ([(10_000, "the agent is killed")], "the walk ends"),
    ],
)
def test_a_way_that_does_not_exist_is_named(branches: list[tuple[int, str]], match: str) -> None:
    played = story("success")
    with pytest.raises(InputError, match=match):
        Replay(played, played.machine(), branches).run()
