"""A round of many devices, cut into what each of them has lived through, for the checkers of a single run. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chaos.history import Event, History
from chaos.scenario import Scenario
from chaos.soak.found import Violation, number_of, with_method

_GLOBAL = frozenset({"run", "fault", "action", "api"})
"""Sources whose events about no device are about all; what the registry was asked is nobody's."""


def alone(scenario: Scenario, device: str, begins: str) -> Scenario:
    """The round as that device has lived it."""
    number = number_of(device)
    kept = [item for item in scenario.method if getattr(item, "device", None) in (None, number)]
    return with_method(scenario, [item.model_copy(update={"device": None}) for item in kept], begins)


def of_device(history: History, device: str) -> tuple[Event, ...]:
    """What is about it; that another one did not come to rest is not."""
    found = []
    for event in history.events:
        if (event.source, event.event) == ("run", "not-converged"):
            what = str(event.data.get("what"))
            concerned = f"{device}:" in what if "edge-" in what else _has_open_jobs(history, device)
            if not concerned:
                event = replace(event, event="converged", data={"ms": 0})  # noqa: PLW2901
        if event.device == device or (not event.device and event.source in _GLOBAL):
            found.append(event)
    return tuple(found)


def _has_open_jobs(history: History, device: str) -> bool:
    """Whether the API showed no end of a job that was ordered."""
    ended = {str(event.data.get("jobId")) for event in history.of("api", "ended", device)}
    return any(str(event.data.get("jobId")) not in ended for event in history.of("action", "update", device))


def once(violations: Iterable[Violation]) -> list[Violation]:
    """One for each device and checker: what was seen live knows when."""
    found: dict[tuple[str, str], Violation] = {}
    for violation in violations:
        found.setdefault((violation.device, violation.checker), violation)
    return list(found.values())
