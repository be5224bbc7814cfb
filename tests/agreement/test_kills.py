"""The real agent, killed at every named boundary of every step, ends where the model says: outcome and reason.

Real: agent, journal, runtime, shim, client, registry. Not real: the broker (`agent.py` plays the service), and the
interpreter's start (`forker.py`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from reference.core.model import Phase
from tests.agreement.boundaries import STEPS
from tests.agreement.judge import end_of
from tests.agreement.lives import Lives, lives
from tests.agreement.plan import THOROUGH, Boundary, Passed, chosen, differs, recorded, tail, told
from tests.agreement.stories import STORIES, Ground, Story, ground

TRIES = 3
"""A boundary that is passed by once, where a busy machine was late or early, is tried again; never reached is a failure."""
AT_ONCE = 3
"""Devices beside each other: they wait more than they work."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Made once for all tests of a worker."""

    ground: Ground
    agents: Lives


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("killed")
    async with ground(folder) as made, lives(folder) as agents:
        yield Bench(made, agents)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Passed]:
    return recorded(tmp_path_factory)


async def killed(
    bench: Bench, story: Story, at: Boundary, phases: tuple[Phase, ...], mutant: str = ""
) -> tuple[str, ...]:
    """Play the story, be killed there, begin again; what is not as the model says."""
    for _ in range(TRIES):
        if (found := await _killed(bench, story, at, phases, mutant)) is not None:
            return found
    return (f"was not reached in {TRIES} lives: nothing is known of it",)


async def _killed(
    bench: Bench, story: Story, at: Boundary, phases: tuple[Phase, ...], mutant: str
) -> tuple[str, ...] | None:
    agents = bench.agents
    device = bench.ground.device(story.name)
    task = replace(bench.ground.task(story, device), mutant=mutant)
    try:
        status = await agents.live(replace(task, kill=at))
        if status == 0:
            return None
        if status != -signal.SIGKILL:
            return (f"ended with {status} and was not killed: {tail(device.folder)}",)
        status = await agents.live(replace(task, setup=False))
        if status != 0:
            return (f"began again and ended with {status}: {tail(device.folder)}",)
        end = await end_of(device)
        found = differs(story, end)
        if end.phases != phases:
            found = (*found, f"the journal went through {end.phases}, without a kill through {phases}")
        return found
    finally:
        device.kill_all()
        shutil.rmtree(device.folder)


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.name)
def test_without_a_kill_it_ends_as_the_model_says(record: dict[str, Passed], story: Story) -> None:
    passed = record[story.name]
    assert passed.wrong == ()
    assert len(passed.boundaries) >= 15


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.name)
async def test_killed_anywhere_it_ends_as_the_model_says(
    bench: Bench,
    record: dict[str, Passed],
    story: Story,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    passed = record[story.name]
    picked = chosen(record, everything=os.environ.get(THOROUGH) == "1")[story.name]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(at: Boundary) -> tuple[str, ...]:
        async with gate:
            return await killed(bench, story, at, passed.phases)

    found = await asyncio.gather(*(one(at) for at in picked))
    line = told(story.name, picked, passed)
    record_property("sampled", line)
    with capsys.disabled():
        print(f"\n  {line}")
    wrong = [
        f"{name} {number}: {what}" for (name, number), w in zip(picked, found, strict=True) for what in w
    ]
    assert not wrong, "\n".join(wrong)


def test_the_sample_has_every_name_and_every_step(record: dict[str, Passed]) -> None:
    names = {name for passed in record.values() for name, _ in passed.boundaries}
    sampled = [name for picked in chosen(record, everything=False).values() for name, _ in picked]
    assert set(sampled) == names
    words = {name.partition("@")[0] for name in names}
    # The engine that is restarted is Docker's; no story here has a start that is refused.
    steps = {f"{when}.{step}" for step in STEPS.values() if step != "engine" for when in ("before", "after")}
    assert steps <= words, steps - words
    assert len(sampled) < sum(len(passed.boundaries) for passed in record.values()), "it is no sample"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("mutant", "name", "at", "seen"),
    [
        ("journaled_late", "never_healthy", ("after.stop@rolling_back", 1), "ended with"),
        ("start_not_journaled", "success", ("after.start@switching", 1), "the journal went through"),
        ("told_in_a_second_write", "crash", ("journal.sync@cleaning_up", 1), "the outbox tells"),
        ("copy_named_first", "bad_migration", ("snapshot.show@switching", 1), "samples from before are lost"),
        ("exchanged_blindly", "bad_migration", ("restore.exchange@rolling_back", 1), "ended with"),
    ],
)
async def test_a_broken_agent_does_not_end_so(
    bench: Bench, record: dict[str, Passed], mutant: str, name: str, at: Boundary, seen: str
) -> None:
    story = next(story for story in STORIES if story.name == name)
    phases = record[name].phases
    broken, whole = await asyncio.gather(
        killed(bench, story, at, phases, mutant), killed(bench, story, at, phases)
    )
    assert any(seen in what for what in broken), broken
    assert whole == (), "the same kill, and nothing is broken"
