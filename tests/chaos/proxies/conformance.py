"""What everything has to do that speaks Toxiproxy's HTTP API: proxies, toxics, and what they do to plain TCP.

A test class inherits `ToxicContract` and gives a fixture `base`, the address of a server that has no proxies yet:
`http://127.0.0.1:PORT`. Taken from what Toxiproxy 2.12 does; where it does something odd, nothing is asked.
Times are lower bounds only: a proxy may be slow, never early.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import httpx
import pytest

from tests.chaos.proxies.far_end import HOST, PATIENCE_S, FarEnd, client_of, until

EARLY_S = 0.005
"""Clocks of two processes may differ by so much."""


class Api:
    """The HTTP API, as a caller uses it; answers are not judged here."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def proxy(self, far: FarEnd, name: str = "way", **more: object) -> int:
        """A proxy to it, enabled; its port."""
        given = {"name": name, "upstream": f"{HOST}:{far.port}", "listen": f"{HOST}:0", **more}
        answer = await self.http.post("/proxies", json=given)
        assert answer.status_code == 201, answer.text
        return port_of(answer.json())

    async def toxic(
        self,
        kind: str,
        stream: str = "downstream",
        *,
        name: str = "",
        toxicity: float = 1.0,
        **attributes: int,
    ) -> dict[str, Any]:
        """A toxic on the proxy `way`."""
        given: dict[str, object] = {
            "type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes,
        }  # fmt: skip
        if name:
            given["name"] = name
        answer = await self.http.post("/proxies/way/toxics", json=given)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        assert isinstance(made, dict)
        return made

    async def enable(self, enabled: bool, name: str = "way") -> int:
        """Its port."""
        answer = await self.http.post(f"/proxies/{name}", json={"enabled": enabled})
        assert answer.status_code == 200, answer.text
        assert answer.json()["enabled"] is enabled
        return port_of(answer.json())


def port_of(proxy: Mapping[str, Any]) -> int:
    """Where it listens."""
    host, _, port = str(proxy["listen"]).rpartition(":")
    assert host == HOST
    return int(port)


class ToxicContract:
    """The contract. A subclass may name tests that it is not asked, each with why: all others it passes."""

    cannot: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    async def api(self, base: str) -> AsyncIterator[Api]:
        async with httpx.AsyncClient(base_url=base, timeout=PATIENCE_S) as http:
            yield Api(http)

    @pytest.fixture
    async def far(self) -> AsyncIterator[FarEnd]:
        async with FarEnd.echo() as far:
            yield far

    def test_every_exception_is_named_after_a_test_and_says_why(self) -> None:
        assert self.cannot.keys() <= {name for name in dir(ToxicContract) if name.startswith("test_")}
        assert all(self.cannot.values())

    # The API: proxies

    async def test_it_tells_its_version(self, api: Api) -> None:
        answer = await api.http.get("/version")
        assert answer.status_code == 200
        assert answer.json()["version"].count(".") == 2

    async def test_a_proxy_is_made_shown_listed_and_taken_away(self, api: Api, far: FarEnd) -> None:
        assert (await api.http.get("/proxies")).json() == {}
        port = await api.proxy(far)
        expected = {
            "name": "way", "listen": f"{HOST}:{port}", "upstream": f"{HOST}:{far.port}", "enabled": True, "toxics": [],
        }  # fmt: skip
        shown = (await api.http.get("/proxies/way")).json()
        assert {key: shown[key] for key in expected} == expected
        listed = (await api.http.get("/proxies")).json()
        assert list(listed) == ["way"]
        assert {key: listed["way"][key] for key in expected} == expected
        assert (await api.http.delete("/proxies/way")).status_code == 204
        assert (await api.http.get("/proxies")).json() == {}
        with pytest.raises(ConnectionRefusedError):
            async with client_of(port):
                pass

    async def test_two_proxies_do_not_know_of_each_other(self, api: Api, far: FarEnd) -> None:
        first, second = await api.proxy(far), await api.proxy(far, "other")
        assert first != second
        await api.enable(False)
        async with client_of(second) as client:
            await client.asked(b"still here")

    async def test_what_is_not_there_is_404(self, api: Api, far: FarEnd) -> None:
        await api.proxy(far)
        http = api.http
        answers = [
            await http.get("/proxies/none"),
            await http.delete("/proxies/none"),
            await http.post("/proxies/none", json={"enabled": False}),
            await http.get("/proxies/none/toxics"),
            await http.post("/proxies/none/toxics", json={"type": "latency"}),
            await http.get("/proxies/way/toxics/none"),
            await http.delete("/proxies/way/toxics/none"),
            await http.post("/proxies/way/toxics/none", json={"attributes": {}}),
        ]
        for answer in answers:
            assert answer.status_code == 404, answer.request.url
            assert answer.json()["status"] == 404
            assert answer.json()["error"]

    async def test_what_is_there_already_is_409(self, api: Api, far: FarEnd) -> None:
        await api.proxy(far)
        again = await api.http.post("/proxies", json={"name": "way", "upstream": f"{HOST}:{far.port}"})
        await api.toxic("latency", latency=1)
        toxic = await api.http.post(
            "/proxies/way/toxics", json={"type": "latency", "attributes": {"latency": 2}}
        )
        assert [(a.status_code, a.json()["status"]) for a in (again, toxic)] == [(409, 409)] * 2
        (kept,) = (await api.http.get("/proxies/way/toxics")).json()
        assert kept["attributes"]["latency"] == 1

    @pytest.mark.parametrize(
        "body", [b"{", b"[]", b'{"upstream":"127.0.0.1:1"}', b'{"name":"x"}', b'{"name":7,"upstream":"127.0.0.1:1"}']
    )  # fmt: skip
    async def test_a_proxy_that_makes_no_sense_is_400(self, api: Api, body: bytes) -> None:
        answer = await api.http.post("/proxies", content=body)
        assert (answer.status_code, answer.json()["status"]) == (400, 400)
        assert (await api.http.get("/proxies")).json() == {}

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"{}",
            b'{"type":"no-such-thing"}',
            b'{"type":"latency","stream":"sideways"}',
            b'{"type":"latency","attributes":{"latency":"long"}}',
        ],
    )
    async def test_a_toxic_that_makes_no_sense_is_400(self, api: Api, far: FarEnd, body: bytes) -> None:
        await api.proxy(far)
        answer = await api.http.post("/proxies/way/toxics", content=body)
        assert (answer.status_code, answer.json()["status"]) == (400, 400)
        assert (await api.http.get("/proxies/way/toxics")).json() == []

    async def test_a_proxy_can_begin_disabled_and_has_its_toxics_before_anybody_comes(
        self, api: Api, far: FarEnd
    ) -> None:
        await api.proxy(far, enabled=False)
        await api.toxic("limit_data", bytes=3)
        port = await api.enable(True)
        async with client_of(port) as client:
            await client.send(b"abcdef")
            assert await client.rest() == (b"abc", "end")

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    async def test_disabling_cuts_and_refuses_and_enabling_opens_the_same_port(
        self, api: Api, far: FarEnd, method: str
    ) -> None:
        port = await api.proxy(far)
        async with client_of(port) as client:
            await client.asked(b"hello")
            answer = await api.http.request(method, "/proxies/way", json={"enabled": False})
            assert (answer.status_code, answer.json()["enabled"]) == (200, False)
            assert (await client.rest()).body == b""
        with pytest.raises(ConnectionRefusedError):
            async with client_of(port):
                pass
        assert await api.enable(True) == port
        async with client_of(port) as client:
            await client.asked(b"hello again")

    async def test_the_far_end_can_be_changed(self, api: Api, far: FarEnd) -> None:
        port = await api.proxy(far)
        async with FarEnd.sends(b"another") as other:
            answer = await api.http.post("/proxies/way", json={"upstream": f"{HOST}:{other.port}"})
            assert (answer.status_code, port_of(answer.json())) == (200, port)
            async with client_of(port) as client:
                await client.send(b"who?")
                assert (await client.rest()).body == b"another"

    # The API: toxics

    async def test_a_toxic_is_made_shown_listed_updated_and_taken_away(self, api: Api, far: FarEnd) -> None:
        await api.proxy(far)
        made = await api.toxic("latency", "upstream", name="slow", latency=7, jitter=3)
        expected = {
            "name": "slow", "type": "latency", "stream": "upstream", "toxicity": 1,
            "attributes": {"latency": 7, "jitter": 3},
        }  # fmt: skip
        assert made == expected
        assert (await api.http.get("/proxies/way/toxics/slow")).json() == expected
        assert (await api.http.get("/proxies/way/toxics")).json() == [expected]
        assert (await api.http.get("/proxies/way")).json()["toxics"] == [expected]
        for method, value in (("POST", 8), ("PATCH", 9)):
            given = {"attributes": {"latency": value}, "toxicity": 0.5}
            answer = await api.http.request(method, "/proxies/way/toxics/slow", json=given)
            assert answer.status_code == 200
            assert (await api.http.get("/proxies/way/toxics/slow")).json() == {
                **expected, "toxicity": 0.5, "attributes": {"latency": value, "jitter": 3},
            }  # fmt: skip
        assert (await api.http.delete("/proxies/way/toxics/slow")).status_code == 204
        assert (await api.http.get("/proxies/way/toxics")).json() == []

    async def test_a_toxic_without_a_name_is_called_after_its_type_and_stream(
        self, api: Api, far: FarEnd
    ) -> None:
        await api.proxy(far)
        answer = await api.http.post("/proxies/way/toxics", json={"type": "latency"})
        made = answer.json()
        assert (made["name"], made["stream"], made["toxicity"]) == ("latency_downstream", "downstream", 1)
        assert made["attributes"] == {"latency": 0, "jitter": 0}

    async def test_reset_opens_everything_and_takes_every_toxic_away(self, api: Api, far: FarEnd) -> None:
        await api.proxy(far)
        port = await api.proxy(far, "closed")
        await api.toxic("limit_data", bytes=1)
        await api.enable(False, "closed")
        assert (await api.http.post("/reset")).status_code == 204
        listed = (await api.http.get("/proxies")).json()
        assert [(listed[name]["enabled"], listed[name]["toxics"]) for name in ("way", "closed")] == [
            (True, [])
        ] * 2
        for each in (port_of(listed["way"]), port):
            async with client_of(each) as client:
                await client.asked(b"whole")

    # What happens to the bytes

    async def test_without_toxics_everything_passes_unchanged(self, api: Api, far: FarEnd) -> None:
        port = await api.proxy(far)
        body = bytes(range(256)) * 2_048
        async with client_of(port) as client:
            client.writer.write(body)
            assert await client.exactly(len(body)) == body
        assert far.received == body

    async def test_the_far_ends_end_is_passed_on(self, api: Api) -> None:
        async with FarEnd.sends(b"done") as far, client_of(await api.proxy(far)) as client:
            await client.send(b"?")
            assert await client.rest() == (b"done", "end")

    async def test_the_clients_end_is_passed_on(self, api: Api, far: FarEnd) -> None:
        async with client_of(await api.proxy(far)) as client:
            await client.asked(b"hello")
        await far.ended.wait()

    async def test_a_far_end_that_is_not_there_ends_the_connection(self, api: Api) -> None:
        async with FarEnd.echo() as gone:
            pass
        async with client_of(await api.proxy(gone)) as client:
            assert (await client.rest()).body == b""

    @pytest.mark.parametrize("stream", ["upstream", "downstream"])
    async def test_latency(self, api: Api, far: FarEnd, stream: str) -> None:
        async with client_of(await api.proxy(far)) as client:
            await client.asked(b"quick")
            await api.toxic("latency", stream, latency=150)
            assert await client.asked(b"slow") >= 0.150 - EARLY_S

    async def test_latencies_of_both_ways_and_of_two_toxics_add_up(self, api: Api, far: FarEnd) -> None:
        async with client_of(await api.proxy(far)) as client:
            await api.toxic("latency", "upstream", latency=60)
            await api.toxic("latency", "downstream", latency=60)
            assert await client.asked(b"slow") >= 0.120 - EARLY_S
            await api.toxic("slicer", "downstream", average_size=2, size_variation=0, delay=20_000)
            assert await client.asked(b"12345678") >= 0.180 - EARLY_S

    async def test_an_update_works_on_a_connection_that_is_open(self, api: Api, far: FarEnd) -> None:
        async with client_of(await api.proxy(far)) as client:
            await api.toxic("latency", name="slow", latency=60_000)
            await client.send(b"one")
            answer = await api.http.post("/proxies/way/toxics/slow", json={"attributes": {"latency": 0}})
            assert answer.status_code == 200
            assert await client.exactly(3) == b"one"
            await client.asked(b"two")

    async def test_without_the_toxic_everything_passes_again(self, api: Api, far: FarEnd) -> None:
        async with client_of(await api.proxy(far)) as client:
            await api.toxic("latency", name="slow", latency=60_000)
            assert (await api.http.delete("/proxies/way/toxics/slow")).status_code == 204
            await client.asked(b"two")

    async def test_a_toxic_of_toxicity_0_does_nothing(self, api: Api, far: FarEnd) -> None:
        port = await api.proxy(far)
        await api.toxic("timeout", toxicity=0.0, timeout=0)
        async with client_of(port) as client:
            await client.asked(b"hello")

    @pytest.mark.parametrize("stream", ["upstream", "downstream"])
    async def test_timeout_0_swallows_all_until_it_is_taken_away(
        self, api: Api, far: FarEnd, stream: str
    ) -> None:
        async with client_of(await api.proxy(far)) as client:
            await client.asked(b"before")
            await api.toxic("timeout", stream, name="hole", timeout=0)
            await client.send(b"swallowed")
            if stream == "downstream":
                await until(lambda: far.received == b"beforeswallowed")  # So its echo is on the way.
            assert (await api.http.delete("/proxies/way/toxics/hole")).status_code == 204
            assert (await client.rest()).body == b""
        if stream == "upstream":
            await far.ended.wait()
            assert far.received == b"before"

    async def test_timeout_ends_a_connection_on_which_nothing_comes(self, api: Api, far: FarEnd) -> None:
        port = await api.proxy(far)
        await api.toxic("timeout", timeout=100)
        async with client_of(port) as client:
            await client.send(b"swallowed")
            assert (await client.rest()).body == b""

    @pytest.mark.parametrize("stream", ["upstream", "downstream"])
    async def test_reset_peer_resets_a_connection_that_was_opened_after_it(
        self, api: Api, far: FarEnd, stream: str
    ) -> None:
        port = await api.proxy(far)
        await api.toxic("reset_peer", stream, timeout=0)
        async with client_of(port) as client:
            await client.send(b"hello")
            assert await client.rest() == (b"", "reset")

    async def test_reset_peer_ends_a_connection_that_was_open_at_its_next_byte(
        self, api: Api, far: FarEnd
    ) -> None:
        async with client_of(await api.proxy(far)) as client:
            await client.asked(b"before")
            await api.toxic("reset_peer", timeout=0)
            await client.send(b"hello")
            assert (await client.rest()).body == b""

    async def test_limit_data_passes_so_much_and_ends_the_connection(self, api: Api) -> None:
        async with FarEnd.sends(b"x" * 5_000) as far:
            port = await api.proxy(far)
            await api.toxic("limit_data", bytes=1_234)
            for _ in range(2):
                async with client_of(port) as client:
                    await client.send(b"?")
                    assert len((await client.rest()).body) == 1_234

    async def test_limit_data_of_the_upstream(self, api: Api, far: FarEnd) -> None:
        port = await api.proxy(far)
        await api.toxic("limit_data", "upstream", bytes=4)
        async with client_of(port) as client:
            await client.send(b"abcdefgh")
            await client.rest()
        await far.ended.wait()  # Both of its ends are cut; the other one may hear of it later.
        assert far.received == b"abcd"

    async def test_bandwidth_holds_the_rate(self, api: Api, far: FarEnd) -> None:
        port = await api.proxy(far)
        await api.toxic("bandwidth", rate=20)
        async with client_of(port) as client:
            assert await client.asked(b"x" * 6_000) >= 0.300 - EARLY_S

    async def test_slicer_cuts_into_pieces_with_a_pause_after_each(self, api: Api, far: FarEnd) -> None:
        port = await api.proxy(far)
        await api.toxic("slicer", average_size=8, size_variation=0, delay=20_000)
        body = bytes(range(64))
        async with client_of(port) as client:
            assert await client.asked(body) >= 0.140 - EARLY_S

    async def test_slow_close_keeps_the_end_back(self, api: Api) -> None:
        async with FarEnd.sends(b"done") as far:
            port = await api.proxy(far)
            await api.toxic("slow_close", delay=200)
            async with client_of(port) as client:
                began = time.monotonic()
                await client.send(b"?")
                assert await client.rest() == (b"done", "end")
                assert time.monotonic() - began >= 0.200 - EARLY_S
