"""The meter passes everything on as it is, and says what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chaos.proxies.meter import Meter
from tests.chaos.proxies.far_end import FarEnd, client_of, reset, until


@asynccontextmanager
async def metered(far: FarEnd | None) -> AsyncIterator[Meter]:
    meter = Meter("way", lambda: far.port if far is not None else None)
    await meter.start()
    try:
        yield meter
    finally:
        await meter.stop()


async def test_bytes_pass_unchanged_and_are_counted() -> None:
    body = bytes(range(256)) * 8_192
    async with FarEnd.echo() as far, metered(far) as meter, client_of(meter.port) as client:
        client.writer.write(body)
        assert await client.exactly(len(body)) == body
        seen = meter.snapshot()
        assert far.received == body
    assert (seen.connections, seen.sent, seen.received) == (1, len(body), len(body))
    assert seen.exchanges >= 1
    assert 1 <= seen.largest_piece <= len(body)
    assert seen.first_sent is not None
    assert seen.first_received is not None
    assert seen.last_received is not None
    assert seen.began <= seen.first_sent <= seen.first_received <= seen.last_received <= seen.until
    assert seen.unanswered == 0


async def test_a_client_that_does_not_read_holds_the_far_end_back() -> None:
    """What waits in between is bounded: the far end cannot write what nobody takes."""
    body = b"x" * 64_000_000
    async with FarEnd.sends(body) as far, metered(far) as meter, client_of(meter.port) as client:
        await client.send(b"?")
        came, still = -1, 0
        while still < 20:
            await asyncio.sleep(0.01)
            still = still + 1 if came == meter.snapshot().received else 0
            came = meter.snapshot().received
        assert 0 < came < len(body) / 2
        assert (await client.rest()).body == body


async def test_the_far_ends_end_is_an_end() -> None:
    async with FarEnd.sends(b"done") as far, metered(far) as meter, client_of(meter.port) as client:
        await client.send(b"?")
        assert await client.rest() == (b"done", "end")
        (end,) = meter.snapshot().ends
    assert (end.got, end.was_open) == (4, False)


async def test_a_half_closed_connection_is_answered() -> None:
    async with FarEnd.answers_at_the_end() as far, metered(far) as meter, client_of(meter.port) as client:
        await client.send(b"12345")
        client.writer.write_eof()
        assert await client.rest() == (b"5", "end")
        seen = meter.snapshot()
        assert (seen.half_closes, len(seen.ends)) == (1, 1)
        await until(lambda: meter.open == 0)


async def test_the_far_ends_reset_is_a_reset() -> None:
    async with FarEnd.resets_after(3) as far, metered(far) as meter, client_of(meter.port) as client:
        await client.send(b"abc")
        assert await client.rest() == (b"", "reset")
        seen = meter.snapshot()
        assert (seen.resets, seen.ends, seen.unanswered) == (1, (), 3)


async def test_the_clients_reset_is_a_reset() -> None:
    async with FarEnd.echo() as far, metered(far) as meter, client_of(meter.port) as client:
        await client.asked(b"hello")
        reset(client.writer)
        await far.ended.wait()
        assert far.resets == 1
        seen = meter.snapshot()
        assert (seen.client_resets, seen.resets) == (1, 0)


@pytest.mark.parametrize("known", [True, False], ids=["nobody listens", "it is down"])
async def test_who_would_be_refused_is_reset_at_once_and_counted(known: bool) -> None:
    async with FarEnd.echo() as gone:
        pass
    async with metered(gone if known else None) as meter, client_of(meter.port) as client:
        assert await client.rest() == (b"", "reset")
        seen = meter.snapshot()
        assert (seen.connections, seen.refused, seen.resets) == (1, 1, 0)


async def test_cut_resets_both_ends_of_all() -> None:
    async with FarEnd.echo() as far, metered(far) as meter:
        async with client_of(meter.port) as one, client_of(meter.port) as other:
            await one.asked(b"1")
            await other.asked(b"2")
            assert meter.cut() == 2
            assert [await one.rest(), await other.rest()] == [(b"", "reset")] * 2
            await until(lambda: far.resets == 2)
            assert (meter.snapshot().cut, meter.snapshot().resets, meter.open) == (2, 0, 0)
        async with client_of(meter.port) as client:
            await client.asked(b"a new one")


async def test_stopping_ends_everything_and_again_is_success() -> None:
    async with FarEnd.echo() as far, metered(far) as meter, client_of(meter.port) as client:
        await client.asked(b"1")
        await meter.stop()
        await meter.stop()
        assert (await client.rest()).how == "reset"
        with pytest.raises(ConnectionRefusedError):
            async with client_of(meter.port):
                pass


async def test_a_watch_sees_its_own_time_only() -> None:
    async with FarEnd.echo() as far, metered(far) as meter, client_of(meter.port) as client:
        await client.asked(b"before")
        watch = meter.watch()
        await client.asked(b"within")
        final = watch.close()
        await client.asked(b"afterwards")
        assert watch.seen() is final is watch.close()
        assert (final.sent, final.received, final.exchanges) == (6, 6, 1)
        assert (final.was_open, final.connections) == (1, 0)
        assert meter.snapshot().sent == 22


async def test_what_was_sent_before_a_watch_is_no_exchange_of_it() -> None:
    async with FarEnd.swallows() as far, metered(far) as meter, client_of(meter.port) as client:
        await client.send(b"before")
        await until(lambda: far.received == b"before")
        watch = meter.watch()
        assert (watch.seen().unanswered, watch.seen().silence_s) == (0, 0.0)
        await client.send(b"!")
        await until(lambda: far.received == b"before!")
        assert watch.seen().unanswered == 1
        assert watch.seen().silence_s > 0
        assert meter.snapshot().unanswered == 7


async def test_an_answer_to_what_was_sent_before_a_watch_is_no_exchange_of_it() -> None:
    go = asyncio.Event()

    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await go.wait()
        writer.write(b"late")
        await writer.drain()

    async with FarEnd(later) as far, metered(far) as meter, client_of(meter.port) as client:
        await client.send(b"before")
        await until(lambda: far.received == b"before")
        watch = meter.watch()
        go.set()
        assert (await client.rest()).body == b"late"
        seen = watch.close()
        assert (seen.received, seen.exchanges, seen.slowest_s, seen.most_pieces) == (4, 0, 0.0, None)
        assert meter.snapshot().exchanges == 1


async def test_what_was_never_answered_stays_known_when_the_connection_is_over() -> None:
    async with FarEnd.swallows() as far, metered(far) as meter:
        async with client_of(meter.port) as client:
            await client.send(b"hello?")
            await until(lambda: far.received == b"hello?")
        await until(lambda: meter.open == 0)
        seen = meter.snapshot()
        assert seen.unanswered == 6
        assert seen.silence_s > 0
        assert meter.snapshot().silence_s == seen.silence_s


async def test_waits_pieces_and_rates_are_measured() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        for _ in range(4):
            await asyncio.sleep(0.03)
            writer.write(b"x" * 10)
            await writer.drain()

    async with FarEnd(slowly) as far, metered(far) as meter, client_of(meter.port) as client:
        await client.send(b"?")
        await client.rest()
        seen = meter.snapshot()
    assert seen.quickest_s == seen.slowest_s >= 0.029
    assert seen.most_pieces is not None
    assert (seen.most_pieces.size, seen.most_pieces.pieces) == (40, 4)
    assert seen.fastest is not None
    assert seen.fastest.seconds >= 0.05
    assert seen.fastest.size / seen.fastest.seconds <= 40 / 0.1


async def test_a_client_that_leaves_while_it_is_connected_on_leaves_nothing() -> None:
    async with FarEnd.echo() as far, metered(far) as meter:
        for _ in range(20):
            async with client_of(meter.port) as client:
                reset(client.writer)
        await until(lambda: meter.snapshot().connections == 20 and meter.open == 0)
        await until(lambda: far.connections == 20 and not far.open)


async def test_what_is_cut_while_it_is_connected_on_leaves_nothing() -> None:
    async with FarEnd.echo() as far, metered(far) as meter:
        for turns in range(30):
            async with client_of(meter.port) as client:
                while not meter.open:  # noqa: ASYNC110 - not a turn of the loop too many
                    await asyncio.sleep(0)
                for _ in range(turns % 4):
                    await asyncio.sleep(0)
                meter.cut()
                assert (await client.rest()).how == "reset"
        assert meter.snapshot().cut == 30
        await until(lambda: not far.open)
