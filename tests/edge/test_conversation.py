"""What the device tells of itself beside its jobs: that it is there, what a rollback brings back, whose request it was."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from reference.core.model import Image, Policy
from reference.core.update import UpdateRecord
from reference.edge import conversation as conversing
from reference.protocol.envelope import sign
from reference.protocol.models import HealthSpec, ImageSpec, StatusMessage, UpdateCommand, parse_status
from reference.protocol.models import Policy as PolicySpec
from reference.support.mqtt import StaysDown
from tests.edge.bench import HEALTH, Bench, benched, command, image, installed
from tests.edge.test_announce import KEY, Device, speaking

UPDATE = "tenants/acme/clients/edge-1/commands/update"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        yield bench


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversing, "IDLE_S", 0.01)


def ordered(generation: int, correlation_id: str | None, repository: str | None = None) -> bytes:
    found = image(generation)
    wanted = Image(repository or found.repository, found.digest, found.version)
    return sign(
        UpdateCommand(
            tenant_id="acme",
            client_id="edge-1",
            job_id=f"job-{generation}",
            generation=generation,
            issued_at=1,
            expires_at=4_000_000_000_000,
            image=ImageSpec.from_core(wanted),
            health=HealthSpec.from_core(HEALTH),
            policy=PolicySpec.from_core(Policy()),
            correlation_id=correlation_id,
        ),
        KEY,
    )


def statuses(device: Device, generation: int) -> list[StatusMessage]:
    found = [parse_status(payload) for topic, payload in device.link.sent if topic.endswith("/status")]
    return [status for status in found if status.generation == generation]


async def test_it_says_again_and_again_that_it_is_there(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"heartbeat_ms": 60})
    bench.runtime.install(installed(1).image, 1)
    bench.start(UpdateRecord("epoch", floor=3, current=installed(1)))
    async with speaking(bench) as device:
        nonces = set()
        for count in range(3):
            await device.more_births_than(count)
            await device.answer()
            nonces.add(device.births()[-1].nonce)
    assert len(nonces) == 3, "each has a nonce of its own: an answer to an old one is not believed"


async def test_a_birth_opens_no_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that has no descriptor left goes on, and says that it is there."""

    def none_left(_: str) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    bench.settings = bench.settings.model_copy(update={"heartbeat_ms": 60})
    bench.runtime.install(installed(1).image, 1)
    bench.start(UpdateRecord("epoch", floor=3, current=installed(1)))
    async with speaking(bench) as device:
        await device.more_births_than(0)
        monkeypatch.setattr(conversing, "version", none_left)
        await device.answer()
        birth = await device.more_births_than(1)
    assert birth.agent_version


async def test_not_all_devices_at_once(bench: Bench) -> None:
    agent = bench.open(UpdateRecord("epoch", floor=3))
    talk = conversing.Conversation(bench.settings, Device(bench).link, agent, {})  # type: ignore[arg-type]
    waits = [talk._heartbeat_s() for _ in range(200)]
    assert all(48 <= wait <= 72 for wait in waits)
    assert max(waits) - min(waits) > 12


async def test_a_birth_says_what_a_rollback_would_bring_back(bench: Bench) -> None:
    bench.runtime.install(installed(2).image, 2)
    bench.start(UpdateRecord("epoch", floor=2, current=installed(2), previous=installed(1)))
    async with speaking(bench) as device:
        birth = await device.more_births_than(0)
        assert (birth.previous_digest, birth.previous_version) == (installed(1).image.digest, "1.0.0")


async def test_statuses_carry_the_request_and_what_comes_before(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reference.edge")
    bench.runtime.install(installed(1).image, 1)
    bench.start(UpdateRecord("epoch", floor=1, current=installed(1)))
    async with speaking(bench) as device:
        await device.more_births_than(0)
        await device.answer(1)
        await device.link.events.put(device.link.message(UPDATE, ordered(2, "req-7")))
        await bench.until(lambda: any(s.status == "SUCCEEDED" for s in statuses(device, 2)))
        told = statuses(device, 2)
    assert {status.correlation_id for status in told} == {"req-7"}
    assert told[-1].previous_digest == installed(1).image.digest
    lines = [r for r in caplog.records if getattr(r, "correlation", None) == "req-7"]
    assert {"command", "journaled", "report"} <= {r.message for r in lines}


async def test_a_refusal_carries_it_too(bench: Bench) -> None:
    bench.start(UpdateRecord("epoch", floor=1))
    async with speaking(bench) as device:
        await device.more_births_than(0)
        await device.answer(1)
        refused = ordered(2, "req-8", "elsewhere.example/opc-client")
        await device.link.events.put(device.link.message(UPDATE, refused))
        await bench.until(lambda: bool(statuses(device, 2)))
        assert statuses(device, 2)[0].correlation_id == "req-8"


async def test_a_command_without_one_has_none(bench: Bench) -> None:
    bench.start(UpdateRecord("epoch", floor=1))
    async with speaking(bench) as device:
        await device.more_births_than(0)
        await device.answer(1)
        await device.link.events.put(device.link.message(UPDATE, ordered(2, None)))
        await bench.until(lambda: bool(statuses(device, 2)))
        assert statuses(device, 2)[0].correlation_id is None


async def test_what_is_remembered_of_requests_is_bounded(bench: Bench) -> None:
    agent = bench.open(UpdateRecord("epoch", floor=1))
    talk = conversing.Conversation(bench.settings, Device(bench).link, agent, {})  # type: ignore[arg-type]
    for number in range(100):
        talk._remember(replace(command(number + 1), correlation_id=f"req-{number}"))
    assert len(talk._correlations) == conversing.CORRELATIONS_KEPT
    assert talk._correlation("job-100") == "req-99"
    assert talk._correlation("job-1") is None


async def test_a_broker_that_stays_down_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.open(UpdateRecord("epoch", floor=1))
    async with speaking(bench) as device:
        await device.link.events.put(StaysDown("refused", 60.0))
        async with asyncio.timeout(5):
            while "the broker stays down" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_a_hold_is_told_when_it_begins_and_when_it_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.runtime.install(installed(1).image, 1)
    agent = bench.start(UpdateRecord("epoch", floor=1, current=installed(1)))
    held = False
    monkeypatch.setattr(type(agent), "hold", property(lambda _: held))
    async with speaking(bench) as device:
        for held in (False, True, False):
            birth = await device.more_births_than(len(device.births()))
            assert birth.hold is held
            await device.answer(1)
