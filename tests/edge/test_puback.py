"""A PUBACK leaves only after the journal holds what the message changed: at the port, and as the kernel saw it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope

from reference.core import model
from reference.core.delivery import Memory
from reference.core.errors import JournalError, Reason
from reference.core.job import JobStatus
from reference.core.update import UpdateRecord
from reference.edge.conversation import Conversation
from reference.edge.journal import Journal
from reference.protocol import topics
from reference.protocol.envelope import (
    PAYLOAD_TYPE,
    SigningKey,
    generate_key,
    key_ring,
    public_key,
    sign,
    write_public_key,
)
from reference.protocol.models import (
    Acknowledgement,
    Birth,
    BirthAnswer,
    CancelCommand,
    Reply,
    StatusMessage,
    UpdateCommand,
    parse_birth,
    parse_status,
)
from reference.support.mqtt import Connected
from tests.edge.bench import Bench, FakeLink, benched, command, image
from tests.support.peer import Peer

ROOT = Path(__file__).parents[2]
KEY = generate_key()
UPDATE = topics.update("acme", "edge-1")
CANCEL = topics.cancel("acme", "edge-1")
REPLIES = topics.replies("acme", "edge-1")


def signed(
    generation: int, key: SigningKey = KEY, client: str = "edge-1", host: str = "localhost:5000"
) -> bytes:
    wanted = command(generation)
    wanted = model.Command(
        wanted.job_id, generation, model.Image(f"{host}/opc-client", image(generation).digest, "2.0.0"),
        wanted.health, wanted.expires_at_ms,
    )  # fmt: skip
    return sign(UpdateCommand.from_core(wanted, "acme", client, 0), key)


class Talk:
    """A conversation over a fake link, whose order of journal writes, publishes and acknowledgements is kept."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.link = FakeLink(self.order)
        self.agent = bench.open(UpdateRecord("epoch", floor=3))
        self.fails: JournalError | None = None
        real = Journal.write

        def write(journal: Journal, memory: Memory) -> None:
            self.order.append("write begins")
            if self.fails is not None:
                raise self.fails
            real(journal, memory)
            self.order.append("write ends")

        monkeypatch.setattr(Journal, "write", write)
        self.conversation = Conversation(bench.settings, self.link, self.agent, key_ring(public_key(KEY)))  # type: ignore[arg-type]

    @property
    def memory(self) -> Memory:
        return self.agent.memory

    def hear(self, topic: str, payload: bytes) -> list[str]:
        """What happened, in order."""
        self.order.clear()
        self.conversation._hear(self.link.message(topic, payload))
        return list(self.order)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        yield bench


@pytest.fixture
def talk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Talk:
    return Talk(bench, monkeypatch)


# ---- at the port


async def test_a_command_is_acknowledged_after_the_write_returned(talk: Talk) -> None:
    assert talk.hear(UPDATE, signed(4)) == ["write begins", "write ends", "ack"]
    assert talk.memory.record.floor == 4
    assert talk.hear(UPDATE, signed(4)) == ["ack"], "a duplicate changes nothing"


async def test_cancel_and_replies_too(talk: Talk) -> None:
    talk.hear(UPDATE, signed(4))
    cancel = CancelCommand(tenant_id="acme", client_id="edge-1", job_id="job-4", generation=4, issued_at=0)
    assert talk.hear(CANCEL, sign(cancel, KEY)) == ["write begins", "write ends", "ack"]
    (report,) = talk.memory.outbox
    assert report.status is JobStatus.CANCELED
    told = Acknowledgement(journal_epoch="epoch", job_id="job-4", generation=4, sequence=report.sequence)
    reply = sign(Reply(tenant_id="acme", client_id="edge-1", acknowledgement=told), KEY)
    assert talk.hear(REPLIES, reply) == ["write begins", "write ends", "ack"]
    assert talk.memory.outbox == ()


async def test_what_could_not_be_journaled_is_not_acknowledged(talk: Talk) -> None:
    before = talk.memory
    talk.fails = JournalError("the disk is full", reason=Reason.DISK_FULL)
    assert talk.hear(UPDATE, signed(4)) == ["write begins"]
    assert talk.memory == before
    talk.fails = None
    assert talk.hear(UPDATE, signed(4)) == ["write begins", "write ends", "ack"]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (UPDATE, signed(4, generate_key())),
        (UPDATE, signed(4, client="edge-2")),
        (UPDATE, signed(4)[:-20]),
        (UPDATE, b""),
        (UPDATE, b"\xff" * 100),
        (UPDATE, b"[" * 5000),
        (CANCEL, signed(4)),
        (topics.update("acme", "edge-2"), signed(4)),
        (topics.status("acme", "edge-1"), signed(4)),
        ("elsewhere", signed(4)),
    ],
    ids=lambda given: given if isinstance(given, str) else f"{len(given)}-bytes",
)
async def test_what_must_not_be_obeyed_is_dropped_and_leaves_no_trace(
    talk: Talk, topic: str, payload: bytes
) -> None:
    before = talk.memory
    assert talk.hear(topic, payload) == ["ack"]
    assert talk.memory == before


async def test_a_host_that_is_not_allowed_is_refused_with_a_status(talk: Talk) -> None:
    assert talk.hear(UPDATE, signed(4, host="elsewhere:5000")) == ["write begins", "write ends", "ack"]
    (report,) = talk.memory.outbox
    assert (report.status, report.reason) == (JobStatus.REJECTED, Reason.HOST_NOT_ALLOWED)
    assert talk.memory.record.floor == 3
    assert talk.memory.record.queued is None


def resigned(payload: bytes, **changes: object) -> bytes:
    """A command that a newer or broken service would sign: fields that our models would not let out."""
    body = {**json.loads(base64.b64decode(json.loads(payload)["payload"])), **changes}
    envelope = Envelope(json.dumps(body).encode(), PAYLOAD_TYPE, {})
    envelope.sign(KEY)
    return json.dumps(envelope.to_dict()).encode()


async def test_an_unknown_schema_is_refused_with_a_status(talk: Talk) -> None:
    talk.hear(UPDATE, resigned(signed(4), schemaVersion=2))
    (report,) = talk.memory.outbox
    assert (report.job_id, report.status, report.reason) == (
        "job-4",
        JobStatus.REJECTED,
        Reason.UNSUPPORTED_SCHEMA,
    )


async def test_a_job_that_cannot_be_named_on_the_wire_does_not_sit_in_the_outbox(talk: Talk) -> None:
    assert talk.hear(UPDATE, resigned(signed(4), jobId="a job")) == ["ack"]
    assert talk.memory.outbox == ()


async def test_a_device_without_a_floor_obeys_after_the_answer_to_its_birth(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(bench, monkeypatch)
    talk.agent.change(Memory(UpdateRecord("epoch-2")))
    await talk.agent._eyes.look(talk.memory.record)  # It says nothing before that.
    task = asyncio.create_task(talk.conversation.run())
    try:
        talk.link.events.put_nowait(Connected())
        await bench.until(lambda: bool(talk.link.sent))
        topic, payload = talk.link.sent[0]
        assert topic == topics.birth("acme", "edge-1")
        birth: Birth = parse_birth(payload)
        assert (birth.journal_epoch, birth.generation) == ("epoch-2", None)
        assert talk.hear(UPDATE, signed(4)) == ["ack"]
        assert talk.memory.outbox == ()
        for nonce, epoch in (("other", "epoch-2"), (birth.nonce, "epoch-1")):
            answer = BirthAnswer(nonce=nonce, journal_epoch=epoch, floor=3)
            talk.hear(REPLIES, sign(Reply(tenant_id="acme", client_id="edge-1", birth=answer), KEY))
            assert talk.memory.record.floor is None
        # A birth is said again until it is answered: the last one counts.
        talk.link.events.put_nowait(Connected())
        await bench.until(lambda: parse_birth(talk.link.sent[-1][1]).nonce != birth.nonce)
        nonce = parse_birth(talk.link.sent[-1][1]).nonce
        answer = BirthAnswer(nonce=nonce, journal_epoch="epoch-2", floor=3)
        talk.hear(REPLIES, sign(Reply(tenant_id="acme", client_id="edge-1", birth=answer), KEY))
        assert talk.memory.record.floor == 3
        assert talk.hear(UPDATE, signed(4)) == ["write begins", "write ends", "ack"]
        await bench.until(lambda: talk.link.sent[-1][0] == topics.status("acme", "edge-1"))
        status: StatusMessage = parse_status(talk.link.sent[-1][1])
        assert (status.job_id, status.journal_epoch, status.status) == (
            "job-4",
            "epoch-2",
            JobStatus.IN_PROGRESS,
        )
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_report_that_cannot_be_sent_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(bench, monkeypatch)
    talk.hear(UPDATE, signed(4))
    good = talk.memory.outbox[0]
    bad = replace(good, job_id="a job", generation=3, sequence=0)
    talk.agent.change(replace(talk.memory, outbox=(bad, good)))
    task = asyncio.create_task(talk.conversation.run())
    try:
        talk.link.events.put_nowait(Connected())
        await bench.until(lambda: len(talk.link.sent) == 2)
        assert parse_status(talk.link.sent[1][1]).job_id == "job-4"
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---- as the kernel saw it

_SCRIPT = """
import asyncio, sys
from pathlib import Path
from reference.core.limits import DEFAULT_LIMITS
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.conversation import Conversation
from reference.edge.journal import Journal
from reference.edge.observe import Eyes
from reference.protocol import topics
from reference.protocol.envelope import key_ring, load_public_key
from reference.support.mqtt import MqttLink, Protocol
from tests.edge.bench import edge_settings
from tests.fakes.runtime import FakeRuntime

async def main(folder, port):
    settings, runtime = edge_settings(folder), FakeRuntime()
    Journal.create(folder / "journal.db", UpdateRecord("epoch", floor=3))
    journal = Journal.open(folder / "journal.db")
    eyes = Eyes(runtime, settings.client, folder, 1)
    agent = Agent(settings, runtime, journal, eyes, DEFAULT_LIMITS)
    link = MqttLink(
        "127.0.0.1", port, "acme.edge-1", None, protocol=Protocol(sys.argv[3]), session_expiry_s=600,
        subscriptions=topics.device_subscriptions("acme", "edge-1"),
    )
    await link.start()
    keys = key_ring(load_public_key(folder / "key.pem"))
    await Conversation(settings, link, agent, keys).run()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""
_CALL = re.compile(r"^(\d+) +(\w+)\((\d+)(<.+?>(?=[,) ]))?(?:, (?:\[\{iov_base=)?\"([^\"]*)\")?")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>")


def traced(lines: list[str]) -> list[str]:
    """The calls of a trace in the order of their effect: a sync where it *returned*, a send where it *began*."""
    found: list[str] = []
    waiting: dict[str, str] = {}
    for line in lines:
        if (again := _RESUMED.match(line)) is not None:
            if (what := waiting.pop(again[1], None)) is not None and "= 0" in line:
                found.append(what)
        elif (call := _CALL.match(line)) is not None:
            thread, name, _, file, data = call.groups()
            if name in ("fsync", "fdatasync"):
                name = bytes.fromhex((file or "<>")[1:-1].replace("\\x", "")).decode()
                what = f"synced {Path(name).name}"
                if "unfinished" in line:
                    waiting[thread] = what
                elif "= 0" in line:
                    found.append(what)
            elif data is not None and "TCP" in (file or ""):
                found.append(f"sent {data[:4]}")
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_the_kernel_sees_the_sync_before_every_puback(tmp_path: Path, version: str) -> None:
    write_public_key(KEY, tmp_path / "key.pem")
    trace = tmp_path / "trace"
    async with asyncio.timeout(30), Peer(five=version == "5") as peer:
        process = await asyncio.create_subprocess_exec(
            "strace", "-f", "-yy", "-xx", "-s", "4", "-o", str(trace), "-e", "trace=fsync,fdatasync,sendto,sendmsg,write",
            sys.executable, "-c", _SCRIPT, str(tmp_path), str(peer.port), version,
            cwd=ROOT, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            subscribing = asyncio.create_task(peer.until("SUBSCRIBE"))
            dying = asyncio.create_task(process.wait())
            await asyncio.wait({subscribing, dying}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            if dying.done():
                subscribing.cancel()
                assert process.stderr is not None
                errors = (await process.stderr.read()).decode()
                if "ptrace" in errors.lower():
                    pytest.skip("strace may not trace here")
                raise AssertionError(errors)
            wire = await subscribing
            for generation in (4, 5, 6):
                payload = signed(generation)
                body = (
                    len(UPDATE).to_bytes(2, "big")
                    + UPDATE.encode()
                    + generation.to_bytes(2, "big")
                    + (b"\0" if version == "5" else b"")
                    + payload
                )
                assert 128 <= len(body) < 16_384
                wire.writer.write(bytes([0x32, len(body) & 0x7F | 0x80, len(body) >> 7]) + body)
                await peer.until("PUBACK", generation - 3)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its session is its own: strace and what it traces
            await process.wait()
    calls = traced(trace.read_text(errors="replace").splitlines())
    begun = calls.index(next(c for c in calls if c.startswith(r"sent \x82")))
    letters = {r"sent \x40": "A", "synced journal.db-wal": "S"}
    # The first transaction of a new log syncs twice, once for its head.
    order = "".join(letters.get(call, "") for call in calls[begun:])
    assert re.fullmatch("(S+A){3}", order), calls
