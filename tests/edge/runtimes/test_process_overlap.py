"""Which processes may stand by beside another one, and how they learn of it."""

from __future__ import annotations

from pathlib import Path

from reference.edge.runtimes.base import ContainerFacts, ContainerSpec
from tests.edge.runtimes.conftest import ProcessBench
from tests.edge.runtimes.contract import SLEEPER, ignore, made
from tests.edge.runtimes.registry import build

ALLOWED = {"blackstart.handover": "overlap"}


async def two(bench: ProcessBench) -> list[ContainerFacts]:
    """One whose image allows it, and one whose image says something else, both started."""
    for generation, labels in ((1, ALLOWED), (2, {"blackstart.handover": "never"})):
        image = bench.image(build([{"app/main.py": SLEEPER}], labels=labels), str(generation))
        await bench.runtime.pull(image, ignore)
        await bench.runtime.start(await bench.runtime.create(ContainerSpec(generation, image)))
    return list((await bench.runtime.observe()).containers)


def told(facts: ContainerFacts) -> list[bytes]:
    """What its process was told of a socket to answer on."""
    environment = Path(f"/proc/{facts.life.partition(':')[0]}/environ").read_bytes().split(b"\0")
    return [word for word in environment if word.startswith(b"BLACKSTART_STANDBY=")]


async def test_an_image_that_allows_it_is_told_where_to_answer(bench: ProcessBench) -> None:
    willing, other = await two(bench)
    assert (willing.overlaps, willing.standby) == (True, f"blackstart-standby-{willing.id}")
    assert told(willing) == [f"BLACKSTART_STANDBY={willing.standby}".encode()]
    assert (other.overlaps, other.standby, told(other)) == (False, "", [])


async def test_it_is_no_part_of_what_stays_the_same(bench: ProcessBench) -> None:
    willing, other = await two(bench)
    assert willing.configuration == other.configuration and not willing.environment


async def test_another_process_of_the_updater_knows_it_too(bench: ProcessBench) -> None:
    await two(bench)
    again = await (await bench.again()).observe()
    assert [c.overlaps for c in again.containers] == [True, False]


async def test_an_image_that_was_pulled_before_there_were_handovers_has_none(bench: ProcessBench) -> None:
    name = await made(bench)
    (found,) = (await bench.runtime.observe()).containers
    assert (found.id, found.overlaps) == (name, False)
