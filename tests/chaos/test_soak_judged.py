"""What each device gets of a round, for the checkers: its own, what is about all, and no other's failure."""

from __future__ import annotations

import pytest

from chaos.history import Event, History
from chaos.soak.draw import Guards, draw_round
from chaos.soak.found import Violation
from chaos.soak.judged import alone, of_device, once
from chaos.soak.table import WILD


def made(source: str, event: str, device: str = "", **data: object) -> Event:
    return Event(1.0, 1.0, source, event, device, data)


ORDERS = (
    made("action", "update", "edge-1", jobId="a"),
    made("action", "update", "edge-2", jobId="b"),
    made("api", "ended", "edge-1", jobId="a"),
)


def rest(device: str, what: str) -> str:
    """How the round came to rest, for a device."""
    history = History((*ORDERS, made("run", "not-converged", what=what)))
    return next(e.event for e in of_device(history, device) if e.source == "run")


def test_a_device_gets_its_own_and_what_is_about_all() -> None:
    history = History(
        (*ORDERS, made("run", "steady"), made("front", "request"), made("fault", "healed", "edge-2"))
    )
    found = [(e.source, e.device) for e in of_device(history, "edge-1")]
    assert found == [("action", "edge-1"), ("api", "edge-1"), ("run", "")]


@pytest.mark.parametrize(
    ("device", "what", "came"),
    [
        ("edge-1", "edge-1: the agent does not answer", "not-converged"),
        ("edge-2", "edge-1: the agent does not answer", "converged"),
        ("edge-1", "edge-11: the agent does not answer", "converged"),
        ("edge-1", "the API does not show the end of every job", "converged"),
        ("edge-2", "the API does not show the end of every job", "not-converged"),
    ],
)
def test_who_did_not_come_to_rest_is_said_of_nobody_else(device: str, what: str, came: str) -> None:
    assert rest(device, what) == came


def test_one_violation_for_each_device_and_checker_the_first() -> None:
    live = Violation(1, "edge-1", "current-kept", "gone", t=1.0, seen="live")
    later = Violation(1, "edge-1", "current-kept", "missing 3 times")
    other = Violation(1, "edge-2", "current-kept", "gone")
    assert once([live, later, other]) == [live, other]


def test_alone_it_has_what_was_done_to_it_and_to_all() -> None:
    played = draw_round(1, 1, Guards(), WILD)
    mine = alone(played, "edge-7", "3.0.0")
    assert mine.bench.devices == 1
    assert mine.bench.begins == "3.0.0"
    wanted = [item for item in played.method if getattr(item, "device", None) in (None, 7)]
    assert [item.model_copy(update={"device": None}) for item in wanted] == list(mine.method)
    assert mine.expect == played.expect
