"""What is well-formed in a scenario and can still never be: names of nothing, moments that never come.

Each finding says where it is by the keys that lead there, as they stand in a file. What a fault takes is not judged
here: `chaos.load` asks the fault. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from chaos.scenario.model import (
    Action,
    FaultUse,
    Happening,
    Link,
    Scenario,
    Update,
    Wait,
    When,
)
from chaos.scenario.quantities import duration_text
from reference.core.job import JobStatus
from reference.core.limits import Limits
from reference.core.model import Outcome

Path = tuple[str | int, ...]
_PULL = Happening.PULL_BEGINS


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that can never be."""

    path: Path
    """Keys and places from the scenario's root, as in a file."""
    what: str
    todo: str = ""


def dangling(scenario: Scenario) -> list[Wrong]:
    """References to a fault or a device that is not there."""
    return [*_names(scenario), *_waits(scenario), *_devices(scenario)]


def impossible(scenario: Scenario) -> list[Wrong]:
    """What the bench cannot be, and what can never come of the method."""
    return [*_bench(scenario), *_times(scenario), *_unheard(scenario), *_expectations(scenario)]


def meant(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A suggestion of what a misspelt word was to be; else `otherwise`."""
    near = get_close_matches(word, map(str, known), 1, 0.6)
    return f"Did you mean {near[0]!r}?" if near else otherwise


def _items(scenario: Scenario) -> Iterator[tuple[Path, Action | FaultUse]]:
    for index, item in enumerate(scenario.method):
        yield ("method", index), item
    for index, action in enumerate(scenario.rollbacks):
        yield ("rollbacks", index), action


def _moments(scenario: Scenario) -> Iterator[tuple[Path, Action | FaultUse, When]]:
    for path, item in _items(scenario):
        if isinstance(item, Wait):
            key, when = "until", item.until
        else:
            key, when = "when", item.when
        if when is not None:
            yield (*path, key), item, when


def _names(scenario: Scenario) -> Iterator[Wrong]:
    seen: set[str] = set()
    for path, item in _items(scenario):
        if isinstance(item, FaultUse):
            if item.label in seen:
                key = "name" if item.name else "fault"
                todo = "Give each of them a `name` of its own."
                yield Wrong((*path, key), f"there are several faults called {item.label}", todo)
            seen.add(item.label)


def _waits(scenario: Scenario) -> Iterator[Wrong]:
    labels = [use.label for use in scenario.faults]
    after = {
        use.label: use.when.of for use in scenario.faults if use.when is not None and use.when.of is not None
    }
    for path, item, when in _moments(scenario):
        if when.of is None:
            continue
        place = (*path, "of")
        if when.of not in labels:
            there = f"There are: {', '.join(labels)}." if labels else "There is none."
            yield Wrong(place, f"there is no fault named {when.of!r} here", meant(when.of, labels, there))
        elif isinstance(item, FaultUse) and _comes_back(item.label, after):
            own = when.of == item.label
            what = "waits for itself" if own else f"waits for {when.of}, which waits for {item.label}"
            yield Wrong(place, f"{item.label} {what}: neither begins" if not own else f"{item.label} {what}")


def _comes_back(label: str, after: dict[str, str]) -> bool:
    at = after.get(label)
    for _ in after:
        if at is None or at == label:
            break
        at = after.get(at)
    return at == label


def _devices(scenario: Scenario) -> Iterator[Wrong]:
    there = scenario.bench.devices
    asked = [
        ((*path, "device"), number)
        for path, item in _items(scenario)
        if (number := getattr(item, "device", None)) is not None
    ]
    asked += [((*path, "device"), w.device) for path, _, w in _moments(scenario) if w.device is not None]
    for path, number in asked:
        if number > there:
            bench = "1 device" if there == 1 else f"{there} devices"
            yield Wrong(
                path, f"there is no device {number}: the bench has {bench}", "Say `bench: {devices: N}`."
            )


def _bench(scenario: Scenario) -> Iterator[Wrong]:
    bench = scenario.bench
    for index, use in enumerate(scenario.method):
        on_database = isinstance(use, FaultUse) and use.link is Link.SERVICE_DATABASE
        if on_database and bench.database == "sqlite":
            what = "there is no link from the service to its database: sqlite is a file"
            yield Wrong(("method", index, "link"), what, "Say `bench: {database: postgresql}`.")
    if bench.memory and bench.runtime != "docker":
        what = "the process runtime does not bound what a client takes"
        yield Wrong(("bench", "memory"), what, "Say `runtime: docker`.")
    known = [field.name for field in dataclasses.fields(Limits)]
    for name in bench.limits:
        if name not in known:
            todo = meant(name, known, "reference/core/limits.py has them all.")
            yield Wrong(("bench", "limits", name), f"the updater has no limit {name!r}", todo)


def _times(scenario: Scenario) -> Iterator[Wrong]:
    for path, _, when in _moments(scenario):
        if when.time is not None and when.time.high_ms >= scenario.time_limit:
            what = f"{when.time} is not before the method's time limit, {duration_text(scenario.time_limit)}"
            yield Wrong((*path, "time"), what, "Say a longer `time-limit`.")


def _unheard(scenario: Scenario) -> Iterator[Wrong]:
    """What is said of a moment that cannot be told of it, and would be passed over."""
    for path, item, when in _moments(scenario):
        pull = "pulled" if when.pulled is not None else "pull-begins" if when.event is _PULL else ""
        what = pull or ("time" if when.time is not None else "")
        if what and when.device is not None:
            why = "the registry cannot tell devices apart" if pull else "a time is of no device"
            yield Wrong((*path, "device"), f"{what} takes no device: {why}", "Leave it out.")
        elif pull and scenario.bench.devices > 1 and getattr(item, "device", None) is not None:
            todo = "Say a `phase` or a `time`, or leave the device out."
            yield Wrong(path, f"{what} is of any device's pull: the registry cannot tell devices apart", todo)
        if what in ("pulled", "time") and when.nth != 1:
            yield Wrong((*path, "nth"), f"{what} takes no nth: it comes once", "Leave it out.")


_BACK = (Outcome.ROLLED_BACK, Outcome.ROLLBACK_FAILED)
_BAD = (JobStatus.FAILED, JobStatus.REJECTED, JobStatus.CANCELED)


def _expectations(scenario: Scenario) -> Iterator[Wrong]:
    expect, bench = scenario.expect, scenario.bench
    if expect.runs is not None and expect.runs not in scenario.versions:
        there = f"There are: {', '.join(scenario.versions) or 'none'}."
        todo = meant(expect.runs, scenario.versions, there)
        yield Wrong(("expect", "runs"), f"version {expect.runs} is not in this scenario", todo)
    updates = sum(isinstance(item, Update) for _, item in _items(scenario))
    outcomes = expect.outcome or ()
    if bench.begins is None and updates == 0 and outcomes:
        yield Wrong(
            ("expect", "outcome"),
            "nothing was ever installed and nothing is asked for: there is no job",
            "Say `outcome: null`, or add `- action: update` to the method.",
        )
    if bench.begins is None and updates == 1 and outcomes and set(outcomes) <= set(_BACK):
        what = f"a first install cannot end as {' or '.join(outcomes)}: there is nothing to go back to"
        yield Wrong(("expect", "outcome"), what, "It ends as failed.")
    good = expect.status is JobStatus.SUCCEEDED and Outcome.SUCCEEDED not in outcomes
    bad = expect.status in _BAD and set(outcomes) == {Outcome.SUCCEEDED}
    if outcomes and (good or bad):
        what = f"a job that ended as {' or '.join(outcomes)} is never shown as {expect.status}"
        yield Wrong(("expect", "status"), what, "Leave one of the two out.")
