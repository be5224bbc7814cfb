"""Where the agent is killed: the boundaries that each story passes, and which of them are tried.

All of them are tried with BLACKSTART_THOROUGH=1. Otherwise it is a sample, always the same for the same record: every
name in some story, every story at places spread from its beginning to its end.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from reference.core.model import Phase
from reference.world.atoms import Atom
from tests.agreement.judge import End, end_of
from tests.agreement.lives import Lives, lives
from tests.agreement.stories import STORIES, Ground, Story, ground

THOROUGH = "BLACKSTART_THOROUGH"
LEAST = 16
"""Boundaries of each story in the sample."""

Boundary = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Passed:
    """A story without a kill: the boundaries in their order, and the phases that were journaled."""

    boundaries: tuple[Boundary, ...]
    phases: tuple[Phase, ...]
    wrong: tuple[str, ...]


_PLAN = TypeAdapter(dict[str, Passed])


def recorded(factory: pytest.TempPathFactory) -> dict[str, Passed]:
    """Every story once, without a kill; the workers of one run of the tests share the record."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    folder = factory.getbasetemp().parent if worker is not None else factory.getbasetemp()
    record = folder / "agreement-record.json"
    with (folder / "agreement-record.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            found = asyncio.run(_record(factory.mktemp("record")))
            record.write_bytes(_PLAN.dump_json(found))
    return _PLAN.validate_json(record.read_bytes())


async def _record(folder: Path) -> dict[str, Passed]:
    async with ground(folder) as made, lives(folder) as agents:
        passed = await asyncio.gather(*(_pass(made, agents, story) for story in STORIES))
    return dict(zip((story.name for story in STORIES), passed, strict=True))


async def _pass(made: Ground, agents: Lives, story: Story) -> Passed:
    device = made.device(story.name)
    record = device.folder / "boundaries"
    try:
        status = await agents.live(replace(made.task(story, device), record=record))
        if status != 0:
            return Passed((), (), (f"ended with {status}: {tail(device.folder)}",))
        end = await end_of(device)
    finally:
        device.kill_all()
    lines = (line.split() for line in record.read_text().splitlines())
    boundaries = tuple((name, int(number)) for name, number in lines if certain(story, name))
    return Passed(boundaries, end.phases, differs(story, end))


def certain(story: Story, name: str) -> bool:
    """Whether the story passes it in any case. On a busy machine what is waited for may be there at the first look."""
    word, _, phase = name.partition("@")
    return (
        word != Atom.WAIT_PASS
        or phase == Phase.IDLE
        or (story.name, phase) == ("never_healthy", Phase.VERIFYING)
    )


def differs(story: Story, end: End) -> tuple[str, ...]:
    """What is not as the model says."""
    found = list(end.wrong)
    if not story.model.allows(end.ends, end.runs):
        found.append(f"ended with {end.ends} and {end.runs}, the model says {story.model.endings}")
    return tuple(found)


def tail(folder: Path) -> str:
    """The end of what the agent had to say."""
    log = folder / "agent.log"
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def chosen(record: dict[str, Passed], *, everything: bool) -> dict[str, list[Boundary]]:
    """The boundaries that are tried, by story."""
    if everything:
        return {name: list(passed.boundaries) for name, passed in record.items()}
    picked: dict[str, list[Boundary]] = {name: [] for name in record}
    found: dict[str, list[tuple[str, Boundary]]] = {}
    for story, passed in record.items():
        for boundary in passed.boundaries:
            found.setdefault(boundary[0], []).append((story, boundary))
    # The rare ones first: the others have more stories to go to.
    for turn, places in enumerate(sorted(found.values(), key=len)):
        least = min(len(picked[story]) for story, _ in places)
        here = [(story, boundary) for story, boundary in places if len(picked[story]) == least]
        story, boundary = here[turn % len(here)]
        picked[story].append(boundary)
    for story, passed in record.items():
        _spread(picked[story], passed.boundaries)
        picked[story].sort(key=passed.boundaries.index)
    return picked


def _spread(picked: list[Boundary], passed: tuple[Boundary, ...]) -> None:
    """Up to LEAST of them, spread over the story."""
    for place in range(LEAST):
        boundary = passed[place * (len(passed) - 1) // (LEAST - 1)]
        if len(picked) < LEAST and boundary not in picked:
            picked.append(boundary)


def told(story: str, picked: list[Boundary], passed: Passed) -> str:
    """One line for people: what was sampled."""
    names = Counter(name for name, _ in passed.boundaries)
    these = len({name for name, _ in picked})
    all_of_it = "all" if len(picked) == len(passed.boundaries) else f"{THOROUGH}=1 for all"
    counts = f"{len(picked)} of {len(passed.boundaries)} boundaries, {these} of {len(names)} names"
    return f"{story}: killed at {counts} ({all_of_it})"
