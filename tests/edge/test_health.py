"""The probe and what is made of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reference.core.model import Health, HealthState
from reference.edge.health import FAILURES_TO_UNHEALTHY, HealthTracker, ask

HEALTH = Health(start_period_ms=1_000, window_ms=5_000, stable_for_ms=500)


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port that answers each request so; None: that never answers."""
    asked: list[bytes] = []
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is not None:
            writer.write(answer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        for writer in held:
            writer.close()


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"HTTP/1.1\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"", False),
        (b"\xff" * 200_000, False),
    ],
)
async def test_only_a_2xx_is_a_yes(answer: bytes, good: bool) -> None:
    async with asyncio.timeout(5), answering(answer) as (port, asked):
        assert await ask("127.0.0.1", port, "/healthz?x=1") is good
        assert asked[0].startswith(b"GET /healthz?x=1 HTTP/1.0\r\n")


async def test_silence_is_a_no_in_time() -> None:
    async with asyncio.timeout(5), answering(None) as (port, _):
        began = asyncio.get_running_loop().time()
        assert await ask("127.0.0.1", port, "/", timeout_s=0.1) is False
        assert asyncio.get_running_loop().time() - began < 1


async def test_nobody_there_is_a_no() -> None:
    async with asyncio.timeout(5), answering(None) as (port, _):
        pass
    assert await ask("127.0.0.1", port, "/") is False
    assert await ask("no.such.host.invalid", 80, "/", timeout_s=2) is False


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracker(clock: Clock) -> HealthTracker:
    return HealthTracker(clock)


def bad(tracker: HealthTracker, times: int, up_ms: int = 5_000, life: str = "a") -> HealthState:
    for _ in range(times):
        tracker.heard(life, HEALTH, False, up_ms)
    return tracker.of(life)[0]


def test_a_life_is_starting_until_its_first_good_answer(tracker: HealthTracker) -> None:
    assert tracker.of("a") == (HealthState.STARTING, 0)
    assert bad(tracker, 50, up_ms=60_000) is HealthState.STARTING, "how late is too late is core's to say"
    tracker.heard("a", HEALTH, True, 60_001)
    assert tracker.of("a")[0] is HealthState.HEALTHY


def test_healthy_time_is_unbroken_time(tracker: HealthTracker, clock: Clock) -> None:
    tracker.heard("a", HEALTH, True, 2_000)
    clock.now += 0.4
    tracker.heard("a", HEALTH, True, 2_400)
    assert tracker.of("a") == (HealthState.HEALTHY, 400)
    tracker.heard("a", HEALTH, False, 2_500)
    assert tracker.of("a") == (HealthState.HEALTHY, 0), "one bad answer: still healthy, and counted anew"
    clock.now += 0.1
    tracker.heard("a", HEALTH, True, 2_600)
    clock.now += 0.2
    assert tracker.of("a") == (HealthState.HEALTHY, 200)


def test_a_healthy_life_turns_unhealthy_after_bad_answers_in_a_row(tracker: HealthTracker) -> None:
    tracker.heard("a", HEALTH, True, 2_000)
    assert bad(tracker, FAILURES_TO_UNHEALTHY - 1) is HealthState.HEALTHY
    tracker.heard("a", HEALTH, True, 2_000)
    assert bad(tracker, FAILURES_TO_UNHEALTHY - 1) is HealthState.HEALTHY
    assert bad(tracker, 1) is HealthState.UNHEALTHY
    tracker.heard("a", HEALTH, True, 2_000)
    assert tracker.of("a")[0] is HealthState.HEALTHY


def test_bad_answers_in_the_start_period_are_forgiven_and_not_counted(tracker: HealthTracker) -> None:
    tracker.heard("a", HEALTH, True, 100)
    assert bad(tracker, 20, up_ms=HEALTH.start_period_ms) is HealthState.HEALTHY
    assert bad(tracker, 1, up_ms=HEALTH.start_period_ms + 1) is HealthState.HEALTHY
    assert bad(tracker, FAILURES_TO_UNHEALTHY, up_ms=2_000) is HealthState.UNHEALTHY


def test_another_life_starts_with_nothing(tracker: HealthTracker, clock: Clock) -> None:
    tracker.heard("a", HEALTH, True, 2_000)
    clock.now += 9
    tracker.heard("b", HEALTH, False, 10)
    assert tracker.of("b") == (HealthState.STARTING, 0)
    assert tracker.of("a") == (HealthState.STARTING, 0), "a life that is over has no health"


def test_an_outage_lasts_from_the_stop_to_the_next_good_answer(tracker: HealthTracker, clock: Clock) -> None:
    tracker.down()
    assert tracker.outage_ms is None
    tracker.heard("a", HEALTH, True, 10)
    assert tracker.outage_ms is None, "when it began was not seen"
    tracker.down()
    clock.now += 0.1
    tracker.down()
    clock.now += 0.1
    tracker.heard("b", HEALTH, False, 10)
    assert tracker.outage_ms is None
    clock.now += 0.05
    tracker.heard("b", HEALTH, True, 60)
    assert tracker.outage_ms == 250
    tracker.heard("b", HEALTH, True, 70)
    assert tracker.outage_ms == 250
