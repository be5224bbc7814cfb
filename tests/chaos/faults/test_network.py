"""Each fault of the network fires against a real Toxiproxy, says so with numbers, and heals; unused it says nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.faults import all_faults
from chaos.faults._network import NetworkFault, ToxicFault
from chaos.faults.base import Family, Fault, FaultError, Need, Wants, checked
from chaos.faults.flapping import Flapping
from chaos.proxies.watch import End, Seen
from chaos.scenario.model import FaultUse, Link
from reference.core.errors import InputError
from tests.chaos.faults.network_ground import NetworkGround, fault_on, ground_in
from tests.chaos.proxies.far_end import FarEnd, client_of, until
from tests.chaos.proxies.real_toxiproxy import hurt

FAULTS: dict[str, dict[str, object]] = {
    "latency": {"latency": "80ms"},
    "jitter": {"jitter": "60ms"},
    "bandwidth": {"rate": "20000B"},
    "slow-close": {"delay": "120ms"},
    "black-hole": {},
    "reset": {},
    "slicer": {"size": "16B", "delay": "2ms"},
    "limit-data": {"bytes": "7B"},
    "down": {},
    "flapping": {"down": "20ms", "up": "20ms"},
}


@asynccontextmanager
async def in_force(fault: Fault) -> AsyncIterator[None]:
    await fault.begin()
    try:
        yield
    finally:
        await fault.heal()


def ways_of(ground: NetworkGround) -> list[int]:
    return [passage.port for passage in ground.ways[Link.DEVICE_BROKER]]


async def test_these_are_all_of_the_family() -> None:
    family = {name for name, fault in all_faults().items() if fault.family is Family.NETWORK}
    assert family == FAULTS.keys()


@pytest.mark.parametrize("name", FAULTS)
async def test_on_a_link_that_nobody_uses_it_did_not_fire(name: str, tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        fault = fault_on(ground, name, FAULTS[name])
        async with in_force(fault):
            assert await fault.fired() == ""
        async with client_of(port) as client:
            await client.asked(b"afterwards")
        assert await fault.fired() == "", "what came after it was healed is none of its doing"


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"reset", "down", "flapping"}))
async def test_a_connection_that_says_nothing_shows_nothing(name: str, tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        async with client_of(port) as client:
            await client.asked(b"before")
            fault = fault_on(ground, name, FAULTS[name])
            async with in_force(fault):
                assert await fault.fired() == ""


HARMLESS: dict[str, dict[str, object]] = {
    **{name: given for name, given in FAULTS.items() if name not in ("reset", "down", "flapping")},
    "latency": {"latency": "60s"},
    "jitter": {"jitter": "60s"},
    "slow-close": {"delay": "60s"},
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_when_its_toxics_do_nothing_it_did_not_fire(name: str, tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        (passage,) = ground.ways[Link.DEVICE_BROKER]
        fault = fault_on(ground, name, HARMLESS[name])
        async with in_force(fault):
            for toxic in list(fault.ways[0].toxics):
                await passage.remove(toxic)
            async with client_of(port) as client:
                for _ in range(3):
                    await client.asked(b"twenty bytes, or more")
            await until(lambda: passage.meter.open == 0)
            assert await fault.fired() == ""


async def test_what_comes_after_it_was_healed_is_not_its_doing(tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        first, second = (fault_on(ground, "latency", {"latency": "30ms"}) for _ in range(2))
        async with in_force(first):
            pass
        async with in_force(second), client_of(port) as client:
            await client.asked(b"late")
            assert await second.fired() != ""
        assert await first.fired() == ""


async def test_what_was_sent_just_before_it_was_in_force_is_not_its_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ground_in(tmp_path, far := FarEnd.swallows()) as ground:
        (passage,) = ground.ways[Link.DEVICE_BROKER]
        fault = fault_on(ground, "black-hole")
        add = passage.add
        async with client_of(passage.port) as client:

            async def sends_first(*given: Any, **attributes: Any) -> str:
                if not far.received:
                    await client.send(b"x")
                    await until(lambda: len(far.received) > 0)
                return await add(*given, **attributes)

            monkeypatch.setattr(passage, "add", sends_first)
            async with in_force(fault):
                assert await fault.fired() == ""


@pytest.mark.parametrize("name", FAULTS)
async def test_healed_it_lets_everything_pass_and_healing_again_is_success(name: str, tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        fault = fault_on(ground, name, FAULTS[name])
        await fault.heal()
        await fault.begin()
        await fault.heal()
        await fault.heal()
        assert await ground.ways[Link.DEVICE_BROKER][0]._server.process.toxics.toxics("edge-1") == {}
        async with client_of(port) as client:
            for _ in range(3):
                await client.asked(b"x" * 1_000)


async def fires(
    folder: Path,
    name: str,
    far: FarEnd,
    meets: Callable[[int], Awaitable[None]],
    given: dict[str, object] | None = None,
) -> str:
    """What the fault says after somebody has met it."""
    async with ground_in(folder, far) as ground:
        (port,) = ways_of(ground)
        fault = fault_on(ground, name, given or FAULTS[name])
        async with in_force(fault):
            await meets(port)
            told = await fault.fired()
        assert await fault.fired() == told
        return told


async def test_latency(tmp_path: Path) -> None:
    async def meets(port: int) -> None:
        async with client_of(port) as client:
            assert await client.asked(b"hello") >= 0.078

    told = await fires(tmp_path, "latency", FarEnd.echo(), meets)
    found = re.fullmatch(r"edge-1: 1 answer \(5 bytes\) took from (\d+) ms to (\d+) ms", told)
    assert found is not None
    assert int(found[1]) >= 78


async def test_jitter(tmp_path: Path) -> None:
    async def meets(port: int) -> None:
        async with client_of(port) as client:
            for _ in range(12):
                await client.asked(b"hello")

    told = await fires(tmp_path, "jitter", FarEnd.echo(), meets)
    assert re.fullmatch(r"edge-1: 12 answers took from \d+ ms to \d+ ms", told)


async def test_bandwidth(tmp_path: Path) -> None:
    async def meets(port: int) -> None:
        async with client_of(port) as client:
            await client.send(b"?")
            assert len((await client.rest()).body) == 5_000

    told = await fires(tmp_path, "bandwidth", FarEnd.sends(b"x" * 5_000), meets)
    assert told.startswith("edge-1: 5000 bytes came, at most ")


async def test_slow_close(tmp_path: Path) -> None:
    async def meets(port: int) -> None:
        async with client_of(port) as client:
            await client.asked(b"hello")
            client.writer.write_eof()
            assert (await client.rest()).how == "end"

    told = await fires(tmp_path, "slow-close", FarEnd.echo(), meets)
    found = re.fullmatch(
        r"edge-1: 1 connection that the client had ended ended late, one of them after (\d+) ms", told
    )
    assert found is not None
    assert int(found[1]) >= 118


async def test_a_far_end_that_ends_first_shows_no_slow_close(tmp_path: Path) -> None:
    """It may have waited for anything before it did."""

    async def meets(port: int) -> None:
        async with client_of(port) as client:
            await client.send(b"?")
            assert await client.rest() == (b"done", "end")

    assert await fires(tmp_path, "slow-close", FarEnd.sends(b"done"), meets) == ""


async def test_black_hole(tmp_path: Path) -> None:
    async with ground_in(tmp_path, far := FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        fault = fault_on(ground, "black-hole")
        async with client_of(port) as old:
            await old.asked(b"before")
            async with in_force(fault):
                await old.send(b"hello")
                async with client_of(port) as new:
                    await new.send(b"anybody?")
                    await until(lambda: ground.ways[Link.DEVICE_BROKER][0].seen().sent == 19)
                    assert await fault.fired() == "", "any link is silent for a moment"
                    async with asyncio.timeout(20):
                        while not (told := await fault.fired()):  # noqa: ASYNC110
                            await asyncio.sleep(0.02)
                    passage = ground.ways[Link.DEVICE_BROKER][0]
                    assert (passage.meter.open, passage.seen().ends) == (2, ()), "connections stay"
            assert re.fullmatch(r"edge-1: 13 bytes were sent, and nothing came back for \d+\.\d\d s", told)
            assert (await old.rest()).body == b"", "healing ends what was in it"
        assert far.received == b"before"


SENT: dict[str, Any] = {"unanswered": 2, "sent": 2}


@pytest.mark.parametrize(
    ("name", "seen", "shown"),
    [
        ("black-hole", Seen(100.0, 100.4, **SENT), False),
        ("black-hole", Seen(100.0, 104.0, **SENT), True),
        ("black-hole", Seen(100.0, 104.0, **SENT, received=9, last_received=100.3), True),
        ("black-hole", Seen(100.0, 104.0, **SENT, received=9, last_received=102.0), False),
        ("black-hole", Seen(100.0, 104.0), False),
        ("limit-data", Seen(0.0, 1.0, ends=(End(7, was_open=False),)), True),
        ("limit-data", Seen(0.0, 1.0, ends=(End(8, was_open=False),)), False),
        ("limit-data", Seen(0.0, 1.0, ends=(End(7 + (64 << 10), was_open=True),)), True),
        ("limit-data", Seen(0.0, 1.0, ends=(End(8 + (64 << 10), was_open=True),)), False),
        ("jitter", Seen(0.0, 1.0, exchanges=9, quickest_s=0.001, slowest_s=0.009), False),
        ("jitter", Seen(0.0, 1.0, exchanges=9, quickest_s=0.001, slowest_s=0.017), True),
        ("slow-close", Seen(0.0, 1.0, ends=(End(7, was_open=False),), slowest_end_s=0.5), False),
        ("slow-close", Seen(0.0, 1.0, client_ends=1, slowest_end_s=0.059), False),
        ("slow-close", Seen(0.0, 1.0, client_ends=1, slowest_end_s=0.061), True),
    ],
)
def test_what_any_link_shows_is_no_proof(name: str, seen: Seen, shown: bool) -> None:
    fault = fault_on(NetworkGround(), name, FAULTS[name])
    assert isinstance(fault, ToxicFault)
    assert bool(fault.proof(seen)) is shown


async def test_reset(tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        fault = fault_on(ground, "reset")
        async with client_of(port) as old:
            await old.asked(b"before")
            async with in_force(fault):
                assert await old.rest() == (b"", "reset")
                async with client_of(port) as new:
                    await new.send(b"hello")
                    assert await new.rest() == (b"", "reset")
                told = await fault.fired()
        assert told == "edge-1: 2 connections reset, 1 of them open before"


async def test_slicer(tmp_path: Path) -> None:
    async def meets(port: int) -> None:
        async with client_of(port) as client:
            await client.asked(bytes(range(256)))

    told = await fires(tmp_path, "slicer", FarEnd.echo(), meets)
    found = re.fullmatch(
        r"edge-1: an answer of 256 bytes came in (\d+) pieces; the largest of all: (\d+)", told
    )
    assert found is not None
    assert int(found[1]) >= 4


async def test_limit_data(tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        async with client_of(port) as old:
            await old.asked(b"before")
            fault = fault_on(ground, "limit-data", {"bytes": "7B"})
            async with in_force(fault):
                await old.send(b"1234567890")
                assert (await old.rest()).body == b"1234567"
                async with client_of(port) as new:
                    await new.send(b"1234567890")
                    assert (await new.rest()).body == b"1234567"
                assert await fault.fired() == "edge-1: 2 connections ended after 7 bytes"


async def test_down(tmp_path: Path) -> None:
    async with ground_in(tmp_path, far := FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        fault = fault_on(ground, "down")
        async with client_of(port) as old:
            await old.asked(b"before")
            async with in_force(fault):
                assert (await old.rest()).body == b""
                for _ in range(3):
                    async with client_of(port) as new:
                        assert await new.rest() == (b"", "reset")
                told = await fault.fired()
        assert told == "edge-1: 1 connection cut, 3 attempts to connect refused"
        assert far.connections == 1


async def reconnect(port: int) -> None:
    """One who talks as long as it can."""
    async with client_of(port) as client:
        try:
            while True:
                await client.asked(b"x")
        except (ConnectionError, asyncio.IncompleteReadError):
            pass


async def test_flapping(tmp_path: Path) -> None:
    async with ground_in(tmp_path, far := FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        fault = fault_on(ground, "flapping", {"down": "20ms", "up": "20ms"})
        assert isinstance(fault, Flapping)
        async with in_force(fault):
            while far.connections < 4:
                await reconnect(port)
            told = await fault.fired()
        found = re.fullmatch(
            r"edge-1: (\d+) connections cut, \d+ attempts? to connect refused; down (\d+) times", told
        )
        assert found is not None
        assert int(found[1]) >= 3
        assert int(found[2]) >= 3
        assert fault._task is not None
        assert fault._task.done(), "it flaps no longer"
        async with client_of(port) as client:
            await client.asked(b"afterwards")


async def test_a_request_that_ends_by_itself_was_not_cut_by_flapping(tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.sends(b"done")) as ground:
        (port,) = ways_of(ground)
        (passage,) = ground.ways[Link.DEVICE_BROKER]
        fault = fault_on(ground, "flapping", {"down": "10ms", "up": "1h"})
        async with in_force(fault):
            await until(lambda: passage._server.port_of("edge-1") is not None)
            async with client_of(port) as client:
                await client.send(b"one request")
                assert await client.rest() == (b"done", "end")
            await until(lambda: passage.meter.open == 0)
            assert len(passage.seen().ends) == 1
            assert await fault.fired() == ""


async def test_it_is_on_every_way_or_on_the_devices_own(tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo(), FarEnd.echo(), FarEnd.echo()) as ground:
        first, second, third = ways_of(ground)
        everywhere, one = (
            fault_on(ground, "latency", {"latency": "60ms"}),
            fault_on(ground, "latency", {"latency": "1s"}, device=2),
        )
        async with in_force(everywhere):
            for port in (first, second, third):
                assert await everywhere.fired() == "", "there is one whom it has not happened to"
                async with client_of(port) as client:
                    assert await client.asked(b"late") >= 0.058
            told = await everywhere.fired()
        assert told.startswith("edge-1: 1 answer")
        assert told.endswith("(and on 2 more)")
        async with in_force(one):
            for port in (first, third):
                async with client_of(port) as client:
                    await client.asked(b"not late")
            assert await one.fired() == ""


async def test_faults_on_one_way_do_not_heal_each_other(tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        first, second = fault_on(ground, "down"), fault_on(ground, "down")
        async with in_force(second):
            async with in_force(first):
                pass
            async with client_of(port) as client:
                assert (await client.rest()).how == "reset"
        slow, slower = (
            fault_on(ground, "latency", {"latency": "60ms"}),
            fault_on(ground, "latency", {"latency": "50ms"}),
        )
        async with in_force(slow):
            async with in_force(slower):
                pass
            async with client_of(port) as client:
                assert await client.asked(b"late") >= 0.058


async def test_a_server_that_dies_meanwhile_does_not_forget_the_fault(tmp_path: Path) -> None:
    async with ground_in(tmp_path, FarEnd.echo()) as ground:
        (port,) = ways_of(ground)
        (passage,) = ground.ways[Link.DEVICE_BROKER]
        first, second = (
            fault_on(ground, "latency", {"latency": "60ms"}),
            fault_on(ground, "jitter", {"jitter": "50ms"}),
        )
        async with in_force(first):
            await hurt(passage._server, hang=False)
            async with in_force(second), client_of(port) as client:
                assert await client.asked(b"late") >= 0.058
            assert await first.fired() != ""


async def test_without_a_way_it_cannot_be_done(tmp_path: Path) -> None:
    fault = fault_on(NetworkGround(), "latency", {"latency": "1s"})
    with pytest.raises(FaultError, match="no way through Toxiproxy on device-broker"):
        await fault.begin()
    await fault.heal()
    assert await fault.fired() == ""


@pytest.mark.parametrize("name", FAULTS)
def test_it_asks_for_its_link_and_for_what_has_to_be_there(name: str) -> None:
    fault = all_faults()[name]
    assert issubclass(fault, NetworkFault)
    assert set(fault.links) == set(Link)
    wants = Wants()
    use = FaultUse.model_validate({"fault": name, "link": "device-registry", "with": FAULTS[name]})
    fault.wants(use, wants)
    assert wants.toxic == {Link.DEVICE_REGISTRY}
    assert fault.needs_for(use) == (Need.TOXIPROXY,)
    database = FaultUse.model_validate({"fault": name, "link": "service-database"})
    assert fault.needs_for(database) == (Need.TOXIPROXY, Need.POSTGRESQL)


@pytest.mark.parametrize(
    ("name", "given", "where"),
    [
        ("latency", {}, "with.latency"),
        ("latency", {"latency": "0ms"}, "with.latency"),
        ("latency", {"latency": 5}, "with.latency"),
        ("latency", {"latency": "19ms"}, "with.latency"),
        ("latency", {"latency": "100ms", "jitter": "100ms"}, "with"),
        ("latency", {"latency": "100ms", "jitter": "81ms"}, "with"),
        ("jitter", {"jitter": "49ms"}, "with.jitter"),
        ("bandwidth", {"rate": "999B"}, "with.rate"),
        ("bandwidth", {"rate": "51MiB"}, "with.rate"),
        ("slow-close", {"delay": "99ms"}, "with.delay"),
        ("black-hole", {"timeout": "1s"}, "with.timeout"),
        ("slicer", {"size": "1B"}, "with.size"),
        ("slicer", {"size": "10B", "delay": "0ms"}, "with.delay"),
        ("limit-data", {"bytes": "0B"}, "with.bytes"),
        ("flapping", {"down": "2s..1s"}, "with.down"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name: str, given: dict[str, object], where: str) -> None:
    use = FaultUse.model_validate({"fault": name, "link": "api-client", "with": given})
    with pytest.raises(InputError) as caught:
        checked(all_faults()[name], use)
    assert caught.value.where == where


def test_without_a_link_it_is_refused() -> None:
    with pytest.raises(InputError, match="needs a link"):
        checked(all_faults()["down"], FaultUse(fault="down"))
