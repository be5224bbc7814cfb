"""The eyes while two run: which one stands by, which one works, and what the outage was."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from reference.core.model import Container, HealthState, Phase, World
from reference.core.steps import Stop
from reference.core.update import UpdateRecord
from reference.edge.health import ask_standby
from reference.edge.observe import Eyes
from reference.edge.runtimes.procfs import descends
from tests.edge.bench import client_port, command, edge_settings, image, installed
from tests.fakes.runtime import FakeRuntime

RECORD = UpdateRecord(
    "e", floor=2, current=installed(1), job=command(2), phase=Phase.SWITCHING, candidate_id="c2"
)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not ours to answer for."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


@asynccontextmanager
async def standing_by(name: str, answer: bytes = b"HTTP/1.0 200 OK\r\n\r\n") -> AsyncIterator[list[bytes]]:
    """Somebody in this process answers so on the abstract socket."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, f"\0{name}")
    try:
        yield asked
    finally:
        server.close()


class Pair:
    """Two containers that overlap, of this process by their names, and what the port says."""

    def __init__(self, folder: Path) -> None:
        self.runtime, self.folder, self.good = FakeRuntime(), folder, True
        self.runtime.install(image(1), 1)
        self.runtime.install(image(2), 2)
        self.name = f"blackstart-standby-test-{os.getpid()}"
        for number in (1, 2):
            self.change(
                number, overlaps=True, standby=f"{self.name}-{number}", life=f"{os.getpid()}:{number}"
            )

    def change(self, number: int, **changes: object) -> None:
        known = self.runtime.containers[f"c{number}"]
        self.runtime.containers[f"c{number}"] = replace(known, **changes)  # type: ignore[arg-type]

    def eyes(self, port: int, clock: Callable[[], float] = time.monotonic) -> Eyes:
        return Eyes(self.runtime, edge_settings(self.folder, port).client, self.folder, 1, clock)

    def standby(self, number: int, answer: bytes = b"HTTP/1.0 200 OK\r\n\r\n"):  # type: ignore[no-untyped-def]
        return standing_by(f"{self.name}-{number}", answer)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def seen(world: World) -> dict[str, Container]:
    return {c.id: c for c in world.containers}


async def test_who_answers_on_its_own_socket_stands_by_and_the_port_is_the_other_ones(pair: Pair) -> None:
    async with client_port(lambda: pair.good) as port, pair.standby(2) as asked:
        eyes = pair.eyes(port)
        found = seen(await eyes.look(RECORD))
        assert asked[0].startswith(b"GET /healthz HTTP/1.0\r\n")
        assert [(c.overlaps, c.standby, c.health) for c in found.values()] == [
            (True, False, HealthState.HEALTHY), (True, True, HealthState.HEALTHY),
        ]  # fmt: skip
        assert eyes.running == image(1)
        assert not found["c2"].stable(command(2).health)


async def test_a_standby_that_is_not_well_is_not_ready(pair: Pair) -> None:
    async with client_port(lambda: True) as port, pair.standby(2, b"HTTP/1.0 503 Sorry\r\n\r\n"):
        found = seen(await pair.eyes(port).look(RECORD))
    assert (found["c2"].standby, found["c2"].health) == (True, HealthState.STARTING)


@pytest.mark.parametrize("health", [HealthState.STARTING, HealthState.UNHEALTHY])
async def test_a_standby_that_its_image_finds_unwell_is_not_ready(pair: Pair, health: HealthState) -> None:
    pair.change(2, engine_health=health)
    async with client_port(lambda: True) as port, pair.standby(2):
        found = seen(await pair.eyes(port).look(RECORD))
    assert (found["c2"].standby, found["c2"].health) == (True, HealthState.STARTING)


async def test_whose_answer_it_is_nobody_can_say_before_one_stands_by(pair: Pair) -> None:
    """The answer is not taken for the candidate's; but it is waited for, or one that hangs would be waited for for ever."""
    now = [100.0]
    async with client_port(lambda: True) as port:
        eyes = pair.eyes(port, lambda: now[0])
        await eyes.look(RECORD)
        now[0] += 9
        found = seen(await eyes.look(RECORD))
    assert [(c.standby, c.health) for c in found.values()] == [(False, HealthState.STARTING)] * 2
    assert eyes.running is None
    assert found["c2"].watched_ms == 9000


async def test_what_it_was_as_a_standby_says_nothing_of_it_at_work(pair: Pair) -> None:
    now = [100.0]
    async with client_port(lambda: False) as port:
        eyes = pair.eyes(port, lambda: now[0])
        await eyes.look(RECORD)  # It has not come so far yet that it answers.
        now[0] += 3
        async with pair.standby(2):
            await eyes.look(RECORD)
            now[0] += 5
            waiting = seen(await eyes.look(RECORD))["c2"]
            assert (waiting.healthy_ms, waiting.watched_ms) == (5000, 5000)
        now[0] += 1
        await pair.runtime.stop("c1", 0)
        found = seen(await eyes.look(RECORD))["c2"]
    assert (found.standby, found.health, found.healthy_ms, found.watched_ms) == (
        False,
        HealthState.STARTING,
        0,
        0,
    )


async def test_somebody_elses_answer_is_none(pair: Pair, stranger: subprocess.Popen[bytes]) -> None:
    pair.change(2, life=f"{stranger.pid}:1")
    async with client_port(lambda: True) as port, pair.standby(2):
        assert not seen(await pair.eyes(port).look(RECORD))["c2"].standby
        assert await ask_standby(f"{pair.name}-2", stranger.pid, "/healthz") is None
        assert await ask_standby(f"{pair.name}-2", os.getpid(), "/healthz") is True
        assert await ask_standby(f"{pair.name}-2", 0, "/healthz") is True, "an agent that sees no processes"
    assert await ask_standby(f"{pair.name}-2", os.getpid(), "/healthz") is None


def test_descent(stranger: subprocess.Popen[bytes]) -> None:
    assert descends(stranger.pid, stranger.pid) and descends(stranger.pid, os.getpid())
    assert not descends(os.getpid(), stranger.pid)
    assert descends(0, stranger.pid), "one that cannot be seen from here"


async def test_one_that_takes_the_question_and_is_silent_is_not_ready(pair: Pair) -> None:
    async with pair.standby(2, b""):
        assert await ask_standby(f"{pair.name}-2", os.getpid(), "/healthz") is False


async def test_two_that_do_not_overlap_are_an_outage_as_ever(pair: Pair) -> None:
    pair.change(1, overlaps=False)
    async with client_port(lambda: True) as port, pair.standby(2) as asked:
        found = seen(await pair.eyes(port).look(RECORD))
        assert not asked
    assert [c.health for c in found.values()] == [HealthState.STARTING] * 2


# ---- the outage


async def handed_over(pair: Pair, eyes: Eyes, *, bad_ms: int = 0) -> int | None:
    """c1 is stopped, and the port is bad for a while; answers what is taken for the outage then."""
    eyes.journaled(replace(RECORD, phase=Phase.STAGED), RECORD)
    eyes.stopping(Stop("c1"))
    if bad_ms:
        pair.good = False
        await asyncio.sleep(bad_ms / 1000)
        pair.good = True
    await asyncio.sleep(0.02)
    await pair.runtime.stop("c1", 0)
    return (await eyes.look(RECORD)).outage_ms


async def test_a_handover_without_a_bad_answer_was_no_outage(pair: Pair) -> None:
    async with client_port(lambda: pair.good) as port:
        eyes = pair.eyes(port)
        async with pair.standby(2):
            await eyes.look(RECORD)
        assert await handed_over(pair, eyes) == 0
        assert eyes._handover is None


async def test_bad_answers_while_it_is_handed_over_are_an_outage(pair: Pair) -> None:
    async with client_port(lambda: pair.good) as port:
        eyes = pair.eyes(port)
        async with pair.standby(2):
            await eyes.look(RECORD)
        first = await handed_over(pair, eyes, bad_ms=80)
        assert first is not None and first >= 50
        pair.good = False
        await eyes.look(RECORD)
        await asyncio.sleep(0.05)
        pair.good = True
        second = (await eyes.look(RECORD)).outage_ms
        assert second is not None and second >= first + 50, "all of them are summed"


async def test_the_answer_of_one_that_stands_by_is_no_end_of_an_outage(pair: Pair) -> None:
    async with client_port(lambda: pair.good) as port, pair.standby(2):
        eyes = pair.eyes(port)
        await eyes.look(RECORD)
        eyes._tracker.down()
        pair.good = False
        assert (await eyes.look(RECORD)).outage_ms is None
        assert (await eyes.look(RECORD)).outage_ms is None, "it goes on"
        pair.good = True
        assert (await eyes.look(RECORD)).outage_ms is not None


async def test_a_stop_without_a_ready_standby_is_an_outage_from_its_beginning(pair: Pair) -> None:
    async with client_port(lambda: pair.good) as port:
        eyes = pair.eyes(port)
        async with pair.standby(2, b"HTTP/1.0 503 Sorry\r\n\r\n"):
            await eyes.look(RECORD)
        found = await handed_over(pair, eyes)
        assert found is not None and found >= 20


async def test_the_stop_of_one_that_stands_by_is_no_outage(pair: Pair) -> None:
    async with client_port(lambda: pair.good) as port, pair.standby(2):
        eyes = pair.eyes(port)
        await eyes.look(RECORD)
        eyes.journaled(replace(RECORD, phase=Phase.STAGED), RECORD)
        eyes.stopping(Stop("c2"))
        await pair.runtime.stop("c2", 0)
        assert (await eyes.look(RECORD)).outage_ms == 0


# ---- by what it is judged


@pytest.mark.parametrize(
    ("probe", "port_good", "engine", "healthy"),
    [
        ("/healthz", True, None, True),
        ("/healthz", False, None, False),
        ("/healthz", True, HealthState.HEALTHY, True),
        ("/healthz", True, HealthState.STARTING, False),
        ("/healthz", True, HealthState.UNHEALTHY, False),
        ("/healthz", False, HealthState.HEALTHY, False),
        ("", False, HealthState.HEALTHY, True),
        ("", True, HealthState.UNHEALTHY, False),
        ("", True, None, False),
    ],
)
async def test_whatever_there_is_has_to_be_good(
    pair: Pair, probe: str, port_good: bool, engine: HealthState | None, healthy: bool
) -> None:
    await pair.runtime.stop("c1", 0)
    pair.change(2, engine_health=engine)
    order = replace(command(2), health=replace(command(2).health, probe=probe))
    async with client_port(lambda: port_good) as port:
        found = seen(await pair.eyes(port).look(replace(RECORD, job=order)))["c2"]
    assert (found.health is HealthState.HEALTHY) is healthy


async def test_it_is_asked_at_its_own_address_where_that_is_set_up(pair: Pair) -> None:
    await pair.runtime.stop("c1", 0)
    async with client_port(lambda: True) as port:
        client = edge_settings(pair.folder, port).client.model_copy(update={"address": "container"})
        for address, healthy in (("127.0.0.1", True), ("", True), ("127.0.0.9", False)):
            pair.change(2, address=address, life=f"{os.getpid()}:{address}")
            found = seen(await Eyes(pair.runtime, client, pair.folder, 1).look(RECORD))["c2"]
            assert (found.health is HealthState.HEALTHY) is healthy
