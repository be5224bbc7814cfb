"""From a violation to a scenario: the device that it is about alone, with what was asked of it and what hurt it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from chaos.scenario import Scenario
from chaos.scenario.model import Action, FaultUse, Update
from chaos.soak.draw import time_of

Item = Action | FaultUse


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never be, and was."""

    round: int
    device: str
    """Its client id."""
    checker: str
    """The invariant's name, or the checker's."""
    what: str
    expected: str = ""
    t: float | None = None
    """Seconds since the round began; None: seen when it was judged."""
    seen: Literal["live", "judged"] = "judged"

    def __str__(self) -> str:
        when = f" after {self.t:.1f} s" if self.t is not None else ""
        return f"round {self.round}, {self.device}{when}: {self.checker}: {self.what}"


def number_of(device: str) -> int:
    """`edge-3` -> 3."""
    return int(device.rpartition("-")[2])


def scenario_of(played: Scenario, violation: Violation, begins: str) -> Scenario:
    """The round on a bench of that one device, which runs `begins` when it starts, until just after the violation."""
    number = number_of(violation.device)
    last_ms = None if violation.t is None else round(violation.t * 1000)
    kept = [
        item
        for item in played.method
        if getattr(item, "device", None) in (None, number) and (last_ms is None or time_of(item) <= last_ms)
    ]
    method = tuple(item.model_copy(update={"device": None}) for item in kept)
    return with_method(
        played,
        method,
        begins=begins,
        title=f"{played.title}: {violation.checker} of {violation.device}",
        description=f"Found by a soak: {violation.what}"[:1000],
    )


def with_method(
    scenario: Scenario,
    method: Iterable[Item],
    begins: str | None = None,
    title: str | None = None,
    description: str | None = None,
) -> Scenario:
    """The same with another method, on a bench of one device with the versions that are named."""
    items = tuple(method)
    first = begins or scenario.bench.begins
    named = {first, *(item.to for item in items if isinstance(item, Update))}
    named |= {str(item.with_["to"]) for item in items if isinstance(item, FaultUse) and "to" in item.with_}
    versions = tuple(spec for spec in scenario.bench.versions if spec.version in named)
    bench = scenario.bench.model_copy(update={"devices": 1, "begins": first, "versions": versions})
    return scenario.model_copy(
        update={
            "bench": bench,
            "method": items,
            "title": (title or scenario.title)[:200],
            "description": scenario.description if description is None else description,
        }
    )
