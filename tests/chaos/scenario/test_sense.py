"""What a moment cannot be told apart by is refused, not passed over."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from chaos.scenario.model import Scenario
from chaos.scenario.sense import impossible

UPDATE: Mapping[str, object] = {"action": "update"}


def wrong(
    when: Mapping[str, object], *, devices: int = 3, device: int | None = None
) -> list[tuple[str, str]]:
    """Where something is wrong, and what."""
    item = {"fault": "killed", "when": dict(when), **({"device": device} if device else {})}
    scenario = Scenario.model_validate(
        {"title": "t", "bench": {"devices": devices}, "method": [dict(UPDATE), item]}
    )
    return [(".".join(map(str, found.path)), found.what) for found in impossible(scenario)]


@pytest.mark.parametrize(
    ("when", "where", "what"),
    [
        (
            {"event": "pull-begins", "device": 2},
            "device",
            "pull-begins takes no device: the registry cannot tell",
        ),
        ({"pulled": "50%", "device": 2}, "device", "pulled takes no device: the registry cannot tell"),
        ({"time": "1s", "device": 2}, "device", "time takes no device: a time is of no device"),
        ({"pulled": "50%", "nth": 2}, "nth", "pulled takes no nth: it comes once"),
        ({"time": "1s", "nth": 2}, "nth", "time takes no nth: it comes once"),
    ],
)
def test_what_would_be_passed_over_is_refused(when: Mapping[str, object], where: str, what: str) -> None:
    ((path, told),) = wrong(when)
    assert path == f"method.1.when.{where}"
    assert told.startswith(what)


@pytest.mark.parametrize("when", [{"event": "pull-begins"}, {"pulled": "50%"}])
def test_a_pull_among_several_devices_is_nobodys_own(when: Mapping[str, object]) -> None:
    ((path, told),) = wrong(when, device=2)
    assert path == "method.1.when"
    assert "of any device's pull" in told
    assert wrong(when, devices=1, device=1) == []
    assert wrong(when) == []


@pytest.mark.parametrize(
    "when",
    [
        {"event": "pull-begins", "nth": 2},
        {"phase": "pulling", "nth": 2, "device": 2},
        {"time": "1s", "nth": 1},
    ],
)
def test_what_can_be_told_apart_is_taken(when: Mapping[str, object]) -> None:
    assert wrong(when) == []
