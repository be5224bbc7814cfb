"""What a soak draws: the same from the same seed, all within its guards, and every fault there is has its place."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.dump import dump
from chaos.faults import all_faults, fault_named
from chaos.faults.base import checked
from chaos.load import load
from chaos.scenario.model import Cancel, FaultUse, Update
from chaos.scenario.sense import dangling, impossible
from chaos.soak.draw import BAD, GOOD, Guards, draw_round, time_of
from chaos.soak.found import Violation, scenario_of
from chaos.soak.table import BODY, LEFT_OUT, WAY, WILD, one_each, slot_of

SEEDS = st.integers(0, 2**31)


def test_every_fault_is_drawn_or_left_out_with_a_reason() -> None:
    drawn = {wild.fault for wild in WILD}
    assert drawn | LEFT_OUT.keys() == all_faults().keys()
    assert not drawn & LEFT_OUT.keys()
    assert all(LEFT_OUT.values())


@pytest.mark.parametrize("use", one_each(WILD), ids=lambda use: use.label)
def test_what_is_drawn_is_what_the_fault_takes(use: FaultUse) -> None:
    fault = fault_named(use.fault)
    checked(fault, use)
    wild = next(one for one in WILD if (one.fault, one.link) == (use.fault, use.link))
    assert (wild.lasts_ms is not None) == fault.lasts


@given(SEEDS, st.integers(1, 9))
@settings(max_examples=20)
def test_the_same_seed_gives_the_same_round(seed: int, number: int) -> None:
    guards = Guards(devices=5, active_ms=20_000)
    assert draw_round(seed, number, guards, WILD) == draw_round(seed, number, guards, WILD)
    assert draw_round(seed, number, guards, WILD) != draw_round(seed, number + 1, guards, WILD)


@given(SEEDS, st.integers(2, 20))
@settings(max_examples=20)
def test_what_a_device_is_asked_for_depends_on_no_other(seed: int, devices: int) -> None:
    def orders(count: int) -> list[object]:
        made = draw_round(seed, 1, Guards(devices=count), WILD)
        return [item for item in made.method if isinstance(item, Update | Cancel) and item.device == 1]

    assert orders(devices) == orders(1)


@given(SEEDS, st.integers(1, 20), st.integers(1, 6))
@settings(max_examples=40)
def test_faults_keep_within_the_guards(seed: int, devices: int, at_once: int) -> None:
    guards = Guards(devices=devices, at_once=at_once)
    made = draw_round(seed, 1, guards, WILD)
    spans = []
    for use in made.faults:
        lasts = use.for_.high_ms if use.for_ else 0
        assert lasts <= guards.longest_ms
        assert time_of(use) + lasts <= guards.active_ms
        assert (use.device is not None) == (slot_of(use) in (BODY, WAY))
        spans.append((time_of(use), time_of(use) + lasts, slot_of(use), use.device))
    for begin, end, slot, device in spans:
        assert sum(b <= begin <= e for b, e, _, _ in spans) <= at_once
        rivals = [s for s in spans if s[2:] == (slot, device) and s[0] <= end and begin <= s[1]]
        assert len(rivals) == 1


def test_good_and_bad_versions_cancels_and_superseding_orders_are_drawn() -> None:
    made = draw_round(1, 1, Guards(), WILD)
    updates = [item for item in made.method if isinstance(item, Update)]
    assert {item.device for item in updates} == set(range(1, 21))
    assert {item.to for item in updates} & set(BAD)
    assert {item.to for item in updates} & set(GOOD)
    assert any(isinstance(item, Cancel) for item in made.method)
    times = [[time_of(one) for one in updates if one.device == number] for number in range(1, 21)]
    gaps = [later - earlier for one in times for earlier, later in pairwise(one)]
    assert min(gaps) < Guards().orders_every_ms[0]  # One that supersedes the one before.


@given(SEEDS, st.integers(1, 20))
@settings(max_examples=15)
def test_a_round_and_what_is_found_in_it_are_scenarios(
    tmp_path_factory: pytest.TempPathFactory, seed: int, device: int
) -> None:
    made = draw_round(seed, 3, Guards(), WILD)
    assert not [*dangling(made), *impossible(made)]
    found = scenario_of(made, Violation(3, f"edge-{device}", "converges", "it did not", t=30.0), "3.0.0")
    assert found.bench.devices == 1
    assert found.bench.begins == "3.0.0"
    assert all(getattr(item, "device", None) is None for item in found.method)
    assert all(time_of(item) <= 30_000 for item in found.method)
    path = tmp_path_factory.mktemp("soak") / f"found-{seed}-3.yaml"
    path.write_text(dump(found), "utf-8")
    assert load(path) == found
