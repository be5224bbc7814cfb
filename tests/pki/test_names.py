from __future__ import annotations

import pytest

from reference.core.errors import InputError
from reference.pki import Device, Service, check_identifier, device_name, peer_of


@pytest.mark.parametrize("good", ["a", "0", "acme", "edge-01", "a" * 63])
def test_good_identifiers_are_answered_as_they_are(good: str) -> None:
    assert check_identifier(good) == good


@pytest.mark.parametrize(
    "bad", ["", "-a", "A", "a.b", "a_b", "a/b", "+", "#", "a\n", "é", "a" * 64, "..", "a b", "٣"]
)
def test_bad_identifiers_are_refused_by_name(bad: str) -> None:
    with pytest.raises(InputError, match="tenant id"):
        check_identifier(bad, "tenant id")


def test_a_name_longer_than_a_certificate_holds_is_refused() -> None:
    assert len(device_name("t" * 31, "c" * 32)) == 64
    with pytest.raises(InputError, match="65 characters"):
        device_name("t" * 32, "c" * 32)


def test_peers_are_known_by_their_names() -> None:
    assert peer_of("acme.d1", "acme") == Device("acme", "d1")
    assert peer_of("blackstart-service", "blackstart") == Service()


@pytest.mark.parametrize(
    ("common_name", "organization"),
    [
        ("acme.d1", "other"),
        ("acme", "acme"),
        ("acme.d1.x", "acme"),
        (".d1", ""),
        ("acme.", "acme"),
        ("blackstart-service", "acme"),
        ("other-service", "blackstart"),
        ("", ""),
    ],
)
def test_names_that_fit_nobody_are_refused(common_name: str, organization: str) -> None:
    with pytest.raises(InputError):
        peer_of(common_name, organization)
