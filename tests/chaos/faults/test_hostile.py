"""Hostile faults on a real device, broker and service: they arrive, are judged, and change nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from chaos.faults._hostile import judgements, size_of, stored_command
from chaos.faults.base import FaultError
from chaos.faults.foreign_certificate import connect
from reference.core.errors import InputError
from reference.pki.authority import CertificateFiles, DevelopmentCA
from reference.stack import HOST, Device, Stack
from tests.chaos.faults.parts_ground import StandIn, answers, fault, running, stand_in

ON_STACK = pytest.mark.asyncio(loop_scope="module")
COMMANDS = (
    "command-forged",
    "command-downgraded",
    "command-expired",
    "command-for-another",
    "command-replayed",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StandIn]:
    folder = tmp_path_factory.mktemp("hostile")
    async with running(Stack(folder / "stack", seed=1), folder) as found:
        yield found


async def untouched(ground: StandIn, before: list[int]) -> None:
    """The client runs on as the process that it was, and no order of the service's has changed."""
    assert await answers(ground.device) == "1.0.0"
    assert ground.device.box.processes() == before
    assert ground.api is not None
    jobs = (await ground.api.get("/api/v1/jobs")).json()["items"]
    assert [(job["jobId"], job["status"]) for job in jobs] == [(ground.jobs["edge-1"][0], "SUCCEEDED")]


@ON_STACK
@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("command-forged", {}, "2 put on the wire to edge-1, its log says bad_signature (2)"),
        ("command-downgraded", {}, "1 put on the wire to edge-1, its log says stale_generation (1)"),
        ("command-expired", {"ago": "30min"}, "1 put on the wire to edge-1, its log says expired (1)"),
        (
            "command-for-another",
            {"to": "1.0.0"},
            "1 put on the wire to edge-1, its log says wrong_device (1)",
        ),
        ("command-replayed", {"times": 4}, "4 put on the wire to edge-1, its log says duplicate (4)"),
        ("command-replayed", {"job": "first"}, "3 put on the wire to edge-1, its log says duplicate (3)"),
    ],
)
async def test_a_hostile_command_arrives_and_is_judged(
    ground: StandIn, name: str, given: Mapping[str, object], said: str
) -> None:
    before = ground.device.box.processes()
    one = fault(ground, name, given)
    await one.begin()
    assert await one.fired() == said
    await one.heal()
    await untouched(ground, before)


@ON_STACK
async def test_one_that_the_device_takes_has_fired_too(
    ground: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a device obeys what it must not, the verdict has to be a failure: so the fault must not be unknown."""
    log = ground.device.log
    one = fault(ground, "command-forged")
    await one.begin()
    await one.fired()
    monkeypatch.setattr("chaos.faults._hostile.JUDGED_S", 0.0)
    since, job = size_of(log), one._sent[0].job_ids[0]  # type: ignore[attr-defined]
    one._sent[0].since = since  # type: ignore[attr-defined]
    with log.open("a") as file:
        file.write(json.dumps({"message": "command", "job": job, "verdict": "accepted"}) + "\n")
        file.write(json.dumps({"message": "refused", "reason": "malformed"}) + "\n" + '{"not whole')
    assert [found.verdict for found in judgements(log, since)] == ["accepted", ""]
    assert (await one.fired()).endswith("its log says accepted (1)")
    with log.open("a") as file:
        file.write("\n")


@ON_STACK
async def test_what_does_not_arrive_has_not_fired(ground: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.faults._hostile.CONNECTED_S", 0.0)
    monkeypatch.setattr("chaos.faults._hostile.JUDGED_S", 0.0)
    way = ground.mqtt(ground.device)
    await way.disable()
    try:
        for name in COMMANDS:
            one = fault(ground, name)
            await one.begin()
            assert await one.fired() == "", name
        flood = fault(ground, "flood", lasts="1s")
        await flood.begin()
        await flood.heal()
        assert await flood.fired() == ""
    finally:
        await way.enable()
    async with asyncio.timeout(20):
        while not way.sessions:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@ON_STACK
async def test_the_same_seed_makes_the_same_job(ground: StandIn) -> None:
    first, second = (fault(ground, "command-forged") for _ in range(2))
    made = [await one.made(ground.device) for one in (first, second)]  # type: ignore[attr-defined]
    assert made[0][1] == made[1][1]


@ON_STACK
async def test_there_has_to_be_something_to_repeat_and_a_version_to_ask_for(ground: StandIn) -> None:
    nobody = stand_in(ground.folder, ground.stack, ground.device)
    with pytest.raises(FaultError, match="nothing was ordered yet"):
        await fault(nobody, "command-replayed").begin()
    with pytest.raises(FaultError, match=r"the version 7\.7\.7 is not known \(404\)"):
        await fault(ground, "command-forged", {"to": "7.7.7"}).begin()
    with pytest.raises(FaultError, match="no command of the job nobody's"):
        await stored_command(fault(ground, "command-forged").ground, "nobody's")


# ---- strangers at the broker


async def knocked(stack: Stack, files: CertificateFiles, level: int) -> bytes:
    """What edge-7 is answered, who has a good certificate."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.cert, files.key)
    reader, writer = await asyncio.open_connection(HOST, stack.broker_port, ssl=context)
    try:
        writer.write(connect(f"{stack.tenant}.edge-7", level))
        async with asyncio.timeout(10):
            return await reader.read(64)
    finally:
        writer.transport.abort()


@ON_STACK
async def test_strangers_get_no_connack(ground: StandIn) -> None:
    before = ground.device.box.processes()
    one = fault(ground, "foreign-certificate", {"times": 2})
    await one.begin()
    assert await one.fired() == (
        "4 attempts to connect under the device's name (2 with a certificate of a foreign authority, "
        "2 with no certificate): none of them was let in"
    )
    knocked = [*ground.recorder.history().of("hostile", "knocked", "edge-1")]
    assert len(knocked) == 4
    assert ground.recorder.history().first("hostile", "got-in") is None
    await untouched(ground, before)


@ON_STACK
async def test_the_knock_is_one_that_a_good_certificate_opens(ground: StandIn) -> None:
    """Otherwise no CONNACK would prove nothing."""
    authority = DevelopmentCA.open_or_create(ground.stack.data / "ca")
    files = authority.issue_device(ground.stack.tenant, "edge-7")
    assert await knocked(ground.stack, files, 4) == b"\x20\x02\x00\x00"
    assert connect("a", 5) == b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x14\x00\x00\x01a"


async def test_mosquitto_dies_comes_back_and_lets_no_stranger_in(tmp_path: Path) -> None:
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("mosquitto: not installed (Debian: apt-get install mosquitto)")
    async with Stack(tmp_path / "stack", broker="mosquitto") as stack:
        lone = stand_in(tmp_path, stack, Device(stack.tenant, "edge-1", stack.data, 1, stack.box))
        for _ in range(2):
            one = fault(lone, "foreign-certificate", {"times": 1})
            await one.begin()
            assert (await one.fired()).endswith("none of them was let in")
            killed = fault(lone, "broker-killed", lasts="1s")
            await killed.begin()
            assert "its port" in await killed.fired()
            await killed.heal()
        authority = DevelopmentCA.open_or_create(stack.data / "ca")
        stack.allow("edge-7")
        assert (await knocked(stack, authority.issue_device(stack.tenant, "edge-7"), 5))[:1] == b"\x20"


async def test_whoever_gets_in_is_noted(tmp_path: Path) -> None:
    """A broker that lets everybody in, as one with `require_certificate false` does."""
    authority = DevelopmentCA.open_or_create(tmp_path / "ca")
    files: CertificateFiles = authority.issue_server("broker")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"\x20\x02\x00\x00")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0, ssl=context)
    stack = Stack(tmp_path / "stack", broker_port=server.sockets[0].getsockname()[1])
    lone = stand_in(tmp_path, stack, Device(stack.tenant, "edge-1", stack.data, 1, stack.box))
    one = fault(lone, "foreign-certificate", {"times": 1})
    async with server:
        await one.begin()
        await one.fired()
    assert (await one.fired()).endswith("2 of them GOT IN")
    assert len([*lone.recorder.history().of("hostile", "got-in", "edge-1")]) == 2
    nobody = fault(lone, "foreign-certificate", {"times": 1})
    await nobody.begin()
    assert await nobody.fired() == "", "where nobody listens, nobody refuses"


# ---- floods


@ON_STACK
@pytest.mark.parametrize(
    ("of", "said"),
    [
        ("commands", "junk commands were sent to edge-1, it refused"),
        ("births", "births of edge-1 were sent, the broker acknowledged"),
        ("requests", "requests were sent about edge-1; the API answered 200"),
    ],
)
async def test_a_flood_is_handled_and_ends(ground: StandIn, of: str, said: str) -> None:
    before = ground.device.box.processes()
    one = fault(ground, "flood", {"of": of, "rate": 200}, lasts="1s")
    await one.begin()
    [stream] = one._streams  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while stream.sent < 40:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert said in await one.fired()
    await one.heal()
    sent = stream.sent
    await one.heal()
    await asyncio.sleep(0.1)
    assert stream.sent == sent, "healed is healed"
    await untouched(ground, before)


@ON_STACK
async def test_a_flood_is_bounded(ground: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.faults.flood.MOST_S", 0.2)
    one = fault(ground, "flood", {"rate": 50})
    await one.begin()
    assert one._task is not None  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        await one._task  # type: ignore[attr-defined]
    assert one._streams[0].sent <= 10  # type: ignore[attr-defined]
    await one.heal()
    with pytest.raises(InputError, match="less than or equal to 500"):
        fault(ground, "flood", {"rate": 501})


@ON_STACK
async def test_a_device_without_a_birth_cannot_be_made_to_repeat_it(
    ground: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ground.mqtt(ground.device), "first", {})
    one = fault(ground, "flood", {"of": "births"})
    with pytest.raises(FaultError, match="has not announced itself"):
        await one.begin()
    await one.heal()


@pytest.mark.parametrize("name", [*COMMANDS, "foreign-certificate", "flood"])
async def test_healing_what_was_never_begun_is_success(name: str, tmp_path: Path) -> None:
    await fault(stand_in(tmp_path, Stack(tmp_path / "stack")), name).heal()
