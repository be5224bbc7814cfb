"""What counts as this machine: whatever does, goes without TLS."""

from __future__ import annotations

import pytest

from reference.support.addresses import is_loopback, name_of


@pytest.mark.parametrize(
    "host", ["127.0.0.1:5000", "127.9.9.9", "localhost", "localhost:1", "[::1]:5000", "[::1]"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(name_of(host))


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "0.0.0.0", "127.0.0.1.example", "localhost.example:5000", "example", "", "[::]"]
)
def test_others(host: str) -> None:
    assert not is_loopback(name_of(host))


def test_a_port_or_brackets_do_not_belong_to_a_name() -> None:
    assert not is_loopback("127.0.0.1:80") and not is_loopback("[::1]")
