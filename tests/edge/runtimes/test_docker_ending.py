"""Whose end the engine has to be waited for. The ends themselves are in the contract, on a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from docker import APIClient

from reference.edge.runtimes.docker.containers import Containers
from reference.edge.runtimes.docker.ending import leaves_something
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.images import Images
from reference.edge.runtimes.docker.memory import Memory
from reference.edge.settings import ClientSettings


@pytest.mark.parametrize(
    ("host", "left"),
    [
        ({"NetworkMode": "host"}, False),
        ({"NetworkMode": "host", "PidMode": ""}, False),
        ({"NetworkMode": "host", "PidMode": "host"}, True),
        ({"NetworkMode": "host", "PidMode": "container:abc"}, True),
        ({"NetworkMode": "default"}, True),
        ({"NetworkMode": "bridge"}, True),
        ({"NetworkMode": "container:abc"}, True),
        ({}, True),
    ],
)
def test_only_a_container_of_its_own_processes_on_the_devices_network_ends_with_its_first(
    host: dict[str, str], left: bool
) -> None:
    assert leaves_something({"HostConfig": host}) is left


class Asked:
    """The part of the engine's API that lists and inspects; writes down what it was asked for."""

    def __init__(self, states: dict[str, str]) -> None:
        self._states = states
        self.inspected: list[str] = []

    def containers(self, **_: object) -> list[dict[str, str]]:
        return [{"Id": name, "State": state} for name, state in self._states.items()]

    def inspect_container(self, name: str) -> Document:
        self.inspected.append(name)
        return mine(name, "the engine")

    def inspect_image(self, _: str) -> Document:
        return {}


def mine(name: str, whence: str) -> Document:
    return {"Id": name, "from": whence, "Image": "i", "Config": {"Labels": {"blackstart.client": "t.c"}}}


@pytest.mark.parametrize(("state", "asked"), [("running", ["b"]), ("exited", ["a", "b"])])
def test_the_engine_is_not_asked_for_what_it_is_clearing_up(
    tmp_path: Path, state: str, asked: list[str]
) -> None:
    """It would answer when it has cleared up, which is what nobody has time for. Once it lists the end, it is asked."""
    api = Asked({"a": state, "b": "running"})
    containers = Containers("t.c", ClientSettings(port=1), Images("t.c"), Memory(tmp_path))
    found = containers.all(cast(APIClient, api), {"a": mine("a", "memory"), "gone": mine("gone", "memory")})
    assert api.inspected == asked
    assert [one["Id"] for one in found] == ["a", "b"]
    assert found[0]["from"] == ("memory" if state == "running" else "the engine")
