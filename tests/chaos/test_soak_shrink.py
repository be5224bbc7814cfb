"""How what a soak has found is made small, asked of an oracle that is a function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.scenario import Scenario
from chaos.scenario.model import Cancel, FaultUse, Update
from chaos.soak.draw import Guards, draw_round, time_of
from chaos.soak.found import Violation, scenario_of, with_method
from chaos.soak.shrink import FIRST_MS, SHORTEST_MS, Budget, makes_sense, shrink, smaller_than
from chaos.soak.table import WILD

MANY = Budget(tries=100_000)
ROUNDS = st.builds(
    lambda seed, device: scenario_of(
        draw_round(seed, 1, Guards(), WILD), Violation(1, f"edge-{device}", "runs", "wrong"), "1.0.0"
    ),
    st.integers(0, 2**31),
    st.integers(1, 20),
)


def shrunk(scenario: Scenario, oracle: Callable[[Scenario], bool], budget: Budget | None = None) -> Scenario:
    asked: list[Scenario] = []

    async def fails(candidate: Scenario) -> bool:
        asked.append(candidate)
        assert makes_sense(candidate.method)
        return oracle(candidate)

    spent = budget if budget is not None else Budget(tries=100_000)
    found = asyncio.run(shrink(scenario, fails, spent))
    assert len(asked) == spent.used <= spent.tries
    return found


def labels(scenario: Scenario) -> list[str]:
    """Of its items."""
    return [item.label if isinstance(item, FaultUse) else item.action for item in scenario.method]


@given(ROUNDS, st.data())
@settings(max_examples=30, deadline=None)
def test_what_has_nothing_to_do_with_it_goes(scenario: Scenario, data: st.DataObject) -> None:
    names = [use.label for use in scenario.faults]
    wanted = set(data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
    small = shrunk(scenario, lambda one: wanted <= {use.label for use in one.faults})
    assert set(labels(small)) == wanted
    assert time_of(small.method[0]) <= FIRST_MS
    lasting = [use.for_.high_ms for use in small.faults if use.for_ is not None]
    assert all(ms <= SHORTEST_MS or ms == use for ms, use in zip(lasting, lasting, strict=True))
    assert all(ms < 2 * SHORTEST_MS for ms in lasting)


@given(ROUNDS)
@settings(max_examples=30, deadline=None)
def test_an_order_that_fails_alone_is_left_alone(scenario: Scenario) -> None:
    orders = [item for item in scenario.method if isinstance(item, Update)]
    if not orders:
        return
    to = orders[0].to
    small = shrunk(scenario, lambda one: any(isinstance(i, Update) and i.to == to for i in one.method))
    assert labels(small) == ["update"]
    assert [spec.version for spec in small.bench.versions] == list(dict.fromkeys(["1.0.0", to]))[
        : 2 - (to == "1.0.0")
    ]


@given(ROUNDS, st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_the_budget_is_kept_and_what_comes_out_still_fails(scenario: Scenario, tries: int) -> None:
    def oracle(one: Scenario) -> bool:
        return len(one.method) * 2 >= len(scenario.method)

    small = shrunk(scenario, oracle, Budget(tries=tries))
    assert oracle(small)
    assert len(small.method) <= len(scenario.method)


def test_no_time_is_spent_when_there_is_none() -> None:
    scenario = scenario_of(draw_round(1, 1, Guards(), WILD), Violation(1, "edge-1", "runs", ""), "1.0.0")
    assert shrunk(scenario, lambda _: True, Budget(seconds=0.0)) == scenario


@given(ROUNDS)
@settings(max_examples=20, deadline=None)
def test_nothing_is_canceled_that_was_not_ordered(scenario: Scenario) -> None:
    for candidate in smaller_than(scenario):
        first = [i for i in sorted(candidate.method, key=time_of) if isinstance(i, Update | Cancel)][:1]
        assert not any(isinstance(item, Cancel) for item in first)


def test_the_smallest_is_not_made_smaller() -> None:
    scenario = scenario_of(draw_round(1, 1, Guards(), WILD), Violation(1, "edge-1", "runs", ""), "1.0.0")
    one = with_method(scenario, [next(item for item in scenario.method if isinstance(item, Update))])
    small = shrunk(one, lambda _: True)
    assert len(small.method) == 1
    assert shrunk(small, lambda _: True) == small
