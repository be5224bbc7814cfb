"""The updater in a container of its own, with what deploy/edge.compose.yml gives it and no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.errors import NotFound

from reference.edge.adopt import adopt
from tests.edge.runtimes.contract import until
from tests.edge.runtimes.docker_agent import order
from tests.edge.runtimes.test_docker_adopt import Hand, hand, version
from tests.engine import static_image

__all__ = ["hand"]
ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy/edge.compose.yml"


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["updater"]
    return found


@pytest.fixture
def updater(hand: Hand) -> Iterator[str]:
    """Its container, not started: as Compose makes it, with the folders of this test's engine in place of the device's."""
    bench, given = hand.bench, service()
    static_image(bench.engine, "updater:test")
    places = bench.engine.places
    here = {
        "/run": places.run, "/var/lib/docker": places.data,
        "/var/lib/blackstart": hand.folder, "/etc/blackstart": None,
    }  # fmt: skip
    binds = []
    for volume in given["volumes"]:
        place = here.pop(volume.split(":")[0])
        binds += [f"{place}:{place}"] if place is not None else []
    assert not here, "all that the updater is given has its place in this test"
    # What its image would hold.
    needed = {"/usr", "/lib", "/lib64", sys.base_prefix, sys.prefix, str(ROOT)}
    outer = [
        path for path in sorted(needed) if not any(f"{path}/".startswith(f"{o}/") for o in needed - {path})
    ]
    binds += [f"{path}:{path}:ro" for path in outer if Path(path).exists()]
    (hand.folder / "orders").mkdir()
    (hand.folder / "edge.json").write_text(hand.settings.model_dump_json())
    made = bench.api.create_container(
        "updater:test",
        [sys.executable, "-m", "tests.edge.runtimes.docker_agent", str(hand.folder / "edge.json"),
         str(hand.folder / "orders")],
        environment={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        host_config=bench.api.create_host_config(
            binds=binds, network_mode=given["network_mode"], pid_mode=given["pid"], cap_add=given["cap_add"],
            security_opt=[option.replace("=", ":", 1) for option in given["security_opt"]],
            restart_policy={"Name": given["restart"]},
        ),
    )  # fmt: skip
    yield str(made["Id"])
    with contextlib.suppress(NotFound):
        bench.api.remove_container(made["Id"], force=True, v=True)


async def lines(hand: Hand, updater: str, count: int) -> list[dict[str, Any]]:
    """What it has printed, once that is so much."""

    def printed() -> list[str]:
        return [line for line in hand.bench.api.logs(updater, stderr=False).decode().splitlines() if line]

    try:
        async with asyncio.timeout(60):
            while len(said := await asyncio.to_thread(printed)) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(hand.bench.api.logs(updater, tail=40).decode())
    return [json.loads(line) for line in said]


def client_now(hand: Hand) -> dict[str, Any]:
    """The one container of the client."""
    label = f"blackstart.client={hand.bench.client}"
    (found,) = hand.bench.api.containers(filters={"label": label})
    return hand.inspect(found["Id"])


async def test_it_updates_and_its_own_end_touches_nobody(hand: Hand, updater: str) -> None:
    hand.run()
    await adopt(hand.settings, hand.name, None)
    api = hand.bench.api
    await asyncio.to_thread(api.start, updater)
    said = await lines(hand, updater, 1)
    assert said[0] == {"sees_processes": True, "sees_data": True}
    order(hand.folder / "orders", 1, version(hand.bench, hand.folder, "2.0.0"))
    assert (await lines(hand, updater, 2))[1] == {"generation": 1, "version": "2.0.0"}
    # The engine restarts beneath it, and makes a new socket.
    before = client_now(hand)["State"]
    await asyncio.to_thread(hand.bench.engine.restart)
    order(hand.folder / "orders", 2, version(hand.bench, hand.folder, "3.0.0"))
    assert (await lines(hand, updater, 3))[2] == {"generation": 2, "version": "3.0.0"}
    after = client_now(hand)["State"]
    assert after["Pid"] != before["Pid"]
    # Its own upgrade: another container in its place.
    await asyncio.to_thread(api.remove_container, updater, force=True)
    await until(lambda: client_now(hand)["State"] == after)
    assert client_now(hand)["State"]["Running"]


def test_the_socket_is_not_mounted_as_a_file() -> None:
    """It would stay the old one when an engine has restarted."""
    assert not [volume for volume in service()["volumes"] if ".sock" in volume]
    assert "/run:/run" in service()["volumes"]
