"""What the API of the MQTT-aware proxy does beyond the contract: several proxies at once, and whom it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from chaos.proxies.mqtt import MqttProxy

FAR = "127.0.0.1:9"


@pytest.fixture
async def proxy() -> AsyncIterator[MqttProxy]:
    made = MqttProxy()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def http(proxy: MqttProxy) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.api_port}", timeout=30.0) as client:
        yield client


async def test_populate_makes_what_is_new_or_differs_and_leaves_the_rest(http: httpx.AsyncClient) -> None:
    first = await http.post(
        "/populate",
        json=[{"name": "a", "listen": "localhost:0", "upstream": FAR}, {"name": "b", "upstream": FAR}],
    )
    assert first.status_code == 201
    a, b = first.json()["proxies"]
    assert (a["enabled"], b["enabled"]) == (True, True)
    await http.post("/proxies/a/toxics", json={"type": "latency"})
    again = await http.post(
        "/populate",
        json=[
            {"name": "a", "listen": a["listen"].replace("127.0.0.1", "localhost"), "upstream": FAR},
            {"name": "b", "listen": b["listen"], "upstream": "127.0.0.1:7", "enabled": False},
        ],
    )
    kept, new = again.json()["proxies"]
    assert [toxic["name"] for toxic in kept["toxics"]] == ["latency_downstream"]
    assert (new["upstream"], new["enabled"], new["listen"]) == ("127.0.0.1:7", False, b["listen"])


@pytest.mark.parametrize("body", [b"{", b"7", b'[{"upstream":"127.0.0.1:9"}]', b'[{"name":"a"}]'])
async def test_populate_with_nonsense_makes_nothing(http: httpx.AsyncClient, body: bytes) -> None:
    assert (await http.post("/populate", content=body)).status_code == 400
    assert (await http.get("/proxies")).json() == {}


@pytest.mark.parametrize(
    "given",
    [
        {"upstream": "192.0.2.1:80"}, {"upstream": "example.org:80"}, {"upstream": FAR, "listen": "0.0.0.0:0"},
        {"upstream": "127.0.0.1"}, {"upstream": "127.0.0.1:70000"},
    ],
)  # fmt: skip
async def test_only_this_machine_is_led_to(http: httpx.AsyncClient, given: dict[str, str]) -> None:
    answer = await http.post("/proxies", json={"name": "a", **given})
    assert (answer.status_code, "this machine" in answer.json()["error"]) == (400, True)


async def test_a_port_that_is_taken_is_said(http: httpx.AsyncClient, proxy: MqttProxy) -> None:
    given = {"name": "a", "upstream": FAR, "listen": f"127.0.0.1:{proxy.api_port}"}
    answer = await http.post("/proxies", json=given)
    assert (answer.status_code, answer.json()["status"]) == (500, 500)
    assert "cannot listen" in answer.json()["error"]
    assert proxy.ways == {}


async def test_a_page_in_a_browser_may_not(http: httpx.AsyncClient) -> None:
    assert (await http.get("/version", headers={"User-Agent": "Mozilla/5.0"})).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/proxies/a/b", 404), ("GET", "/reset", 405), ("DELETE", "/proxies", 405),
        ("PUT", "/proxies/a", 405),
    ],
)  # fmt: skip
async def test_other_paths_and_methods(http: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    assert (await http.request(method, path)).status_code == status


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\r\n\r\n", b"GET /version SPDY/3\r\n\r\n", b"GET " + b"/x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /reset HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"POST /reset HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_no_request_is_answered_with_400(proxy: MqttProxy, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.api_port)
    writer.write(said)
    answer = await reader.readline()
    writer.close()
    assert answer == b"HTTP/1.1 400 Bad Request\r\n"


async def test_ways_of_a_bench_are_shown_and_cut_over_the_api(
    http: httpx.AsyncClient, proxy: MqttProxy
) -> None:
    way = await proxy.way("edge-1", upstream_host="127.0.0.1", upstream_port=9)
    assert (await http.get("/proxies")).json()["edge-1"]["listen"] == way.listen
    assert (await http.post("/proxies/edge-1", json={"enabled": False})).json()["enabled"] is False
    assert not way.enabled
