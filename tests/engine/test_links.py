"""Parts of the addresses: disjoint, claimed by one, and never where this machine has something already."""

from __future__ import annotations

import ipaddress

import pytest

from reference.core.errors import EngineError
from reference.engine import links
from reference.engine.links import PARTS, Bridge
from tests.engine import needs_engine


def test_no_two_parts_overlap() -> None:
    parts = [Bridge(number).everything for number in range(PARTS)]
    assert sum(part.num_addresses for part in parts) == ipaddress.ip_network("198.18.0.0/15").num_addresses
    assert len(set(parts)) == PARTS


@pytest.mark.parametrize("number", [0, 7, PARTS - 1])
def test_the_bridge_and_later_networks_share_no_address(number: int) -> None:
    bridge = Bridge(number)
    assert not bridge.subnet.overlaps(bridge.pool)
    assert bridge.subnet.subnet_of(bridge.everything)
    assert bridge.pool.subnet_of(bridge.everything)
    assert len(bridge.name) <= 15


def test_one_of_two_gets_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_engine()
    monkeypatch.setattr(links, "_routes", list)  # so that only the bridge itself can decide
    first = links.claim(40)
    try:
        second = links.claim(first.part)
        links.remove(second)
        assert second.part != first.part
        assert links.links_of(second) == []
        assert links.links_of(first) == [first.name]
    finally:
        links.remove(first)
    assert links.links_of(first) == []


def test_what_this_machine_routes_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_engine()
    taken = ipaddress.ip_network("198.18.0.0/16")
    monkeypatch.setattr(links, "_routes", lambda: [taken])
    bridge = links.claim(3)
    links.remove(bridge)
    assert not bridge.everything.overlaps(taken)
    monkeypatch.setattr(links, "_routes", lambda: [ipaddress.ip_network("198.0.0.0/8")])
    with pytest.raises(EngineError, match=r"no part of 198\.18\.0\.0/15 is free"):
        links.claim(3)


def test_routes_are_read_as_the_kernel_writes_them() -> None:
    needs_engine()
    bridge = links.claim(20)
    try:
        assert bridge.subnet in links._routes()
    finally:
        links.remove(bridge)
