"""When a device says who it is: after it has looked, and again when the service cannot know it any more."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from reference.core import delivery
from reference.core.errors import JournalError, Reason
from reference.core.model import Phase
from reference.core.update import UpdateRecord
from reference.edge import conversation as conversing
from reference.edge.conversation import Conversation
from reference.edge.journal import Journal, _make_durable
from reference.protocol.envelope import generate_key, key_ring, public_key, sign
from reference.protocol.models import Birth, BirthAnswer, Reply, parse_birth
from reference.support.mqtt import Connected
from tests.edge.bench import Bench, FakeLink, benched, command, installed
from tests.edge.test_puback import REPLIES

KEY = generate_key()


class Device:
    """An agent and its conversation, both running, and a service that answers births when told to."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.link = FakeLink([])

    def births(self) -> list[Birth]:
        return [parse_birth(payload) for topic, payload in self.link.sent if topic.endswith("/birth")]

    def statuses(self) -> int:
        return sum(topic.endswith("/status") for topic, _ in self.link.sent)

    async def answer(self, floor: int = 3) -> None:
        birth = self.births()[-1]
        said = BirthAnswer(nonce=birth.nonce, journal_epoch=birth.journal_epoch, floor=floor)
        reply = Reply(tenant_id="acme", client_id="edge-1", birth=said)
        await self.link.events.put(self.link.message(REPLIES, sign(reply, KEY)))

    async def tell_replaced(self, nonce: str | None = None, epoch: str | None = None) -> None:
        birth = self.births()[-1]
        said = BirthAnswer(
            nonce=nonce or birth.nonce, journal_epoch=epoch or birth.journal_epoch, floor=0, replaced=True
        )
        reply = Reply(tenant_id="acme", client_id="edge-1", birth=said)
        await self.link.events.put(self.link.message(REPLIES, sign(reply, KEY)))

    async def more_births_than(self, count: int) -> Birth:
        await self.bench.until(lambda: len(self.births()) > count)
        return self.births()[-1]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        yield bench


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversing, "IDLE_S", 0.01)
    monkeypatch.setattr(conversing, "DRIFT_S", 0.05)


@contextlib.asynccontextmanager
async def speaking(bench: Bench) -> AsyncIterator[Device]:
    device = Device(bench)
    talk = Conversation(bench.settings, device.link, bench.agent, key_ring(public_key(KEY)))  # type: ignore[arg-type]
    task = asyncio.create_task(talk.run())
    await device.link.events.put(Connected())
    try:
        yield device
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_says_nothing_before_it_has_looked_what_runs(bench: Bench) -> None:
    bench.runtime.install(installed(1).image, 1)
    agent = bench.open(UpdateRecord("epoch", floor=3, current=installed(1)))
    async with speaking(bench) as device:
        await asyncio.sleep(0.1)
        assert device.births() == []
        await agent._turn()
        assert (await device.more_births_than(0)).running_digest == installed(1).image.digest


async def test_what_runs_is_told_again_when_it_came_back_without_a_job(bench: Bench) -> None:
    name = bench.runtime.install(installed(1).image, 1, running=False)
    bench.start(UpdateRecord("epoch", floor=3, current=installed(1)))
    async with speaking(bench) as device:
        first = await device.more_births_than(0)
        await device.answer()
        later = await device.more_births_than(1) if first.running_digest is None else first
        assert later.running_digest == installed(1).image.digest
        await device.answer()
        assert bench.runtime.running() == [name]
        await asyncio.sleep(0.2)
        assert device.births()[-1] == later, "nothing new is nothing to tell"


async def test_a_report_that_stays_unanswered_brings_a_birth(bench: Bench) -> None:
    bench.runtime.install(installed(1).image, 1)
    agent = bench.start(UpdateRecord("epoch", floor=3, current=installed(1)))
    agent.limits = replace(agent.limits, outbox_resend_ms=20)
    async with speaking(bench) as device:
        await device.more_births_than(0)
        await device.answer()
        await bench.until(lambda: agent.has_looked)
        known = len(device.births())
        memory, _ = delivery.reject(agent.memory, "job-1", 1, Reason.STALE_GENERATION, "old")
        agent.change(memory)
        again = await device.more_births_than(known)
        assert again.nonce != device.births()[0].nonce
        assert device.statuses() >= conversing.UNANSWERED_SENDS


async def test_a_journal_that_was_replaced_is_given_up(bench: Bench) -> None:
    """Else the service would never listen to this device again. The process sets it aside and makes another."""
    bench.runtime.install(installed(1).image, 1)
    bench.start(UpdateRecord("epoch", floor=3, current=installed(1)))
    async with speaking(bench) as device:
        await device.more_births_than(0)
        await device.tell_replaced(nonce="somebody-elses-nonce")
        await device.tell_replaced(epoch="another-epoch")
        await asyncio.sleep(0.1)
        assert bench.record.floor == 3, "that is an answer to nothing that was asked"
        await device.tell_replaced()
        with pytest.raises(JournalError) as caught:
            await bench.until(lambda: False)
    with pytest.raises(JournalError):
        await bench.stop()
    assert caught.value.reason is Reason.JOURNAL_CORRUPT and "replaced" in str(caught.value)


async def test_a_long_step_is_told_again(bench: Bench) -> None:
    bench.runtime.install(installed(1).image, 1)
    bench.runtime.hold["pull"] = asyncio.Event()
    agent = bench.start(UpdateRecord("epoch", floor=1, current=installed(1)))
    agent.limits = replace(agent.limits, remind_ms=30)
    async with speaking(bench) as device:
        bench.order(command(2))
        await bench.until(lambda: bench.record.phase is Phase.PULLING)
        before = agent.memory.sequence
        await bench.until(lambda: agent.memory.sequence >= before + 2)
        assert bench.record.phase is Phase.PULLING
        assert device.statuses() >= 2


class _Full:
    """A connection on a full disk, where the log cannot be moved into the database."""

    def execute(self, _: str) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error


def test_a_journal_on_a_full_disk_can_still_be_believed(tmp_path: Path) -> None:
    Journal.create(tmp_path / "journal.db", UpdateRecord("epoch"))
    _make_durable(cast(sqlite3.Connection, _Full()), tmp_path / "journal.db")


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a b"])
def test_a_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "journal.db"
    path.parent.mkdir()
    Journal.create(path, UpdateRecord("epoch", floor=7))
    journal = Journal.open(path)
    assert journal.memory.record.floor == 7
    journal.close()
    with pytest.raises(JournalError, match="is missing"):
        Journal.open(tmp_path / name / "absent.db")
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]
