"""The authority as an issuer: what it signs, its list of revoked certificates, and a key that is not there."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from reference.core.errors import InputError
from reference.pki import DevelopmentCA, revocation
from reference.pki.issuer import IssuerUnavailableError, Revoked
from reference.pki.requests import check_subject, key_id, make_request, read_request


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_a_request_is_issued_with_its_key_and_a_limited_life(tmp_path: Path) -> None:
    DevelopmentCA.open_or_create(tmp_path)
    ca, key = DevelopmentCA.open(tmp_path, timedelta(days=7)), _key()
    request = read_request(make_request(key).decode())
    cert = ca.issue("acme", "d1", request)
    assert key_id(cert) == key_id(request)
    assert timedelta(days=6) < cert.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=7)


def test_a_request_may_name_itself_only_right() -> None:
    request = read_request(make_request(_key(), "acme.d1").decode())
    check_subject(request, "acme.d1")
    with pytest.raises(InputError, match="common name"):
        check_subject(request, "acme.d2")


def test_without_its_key_the_authority_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IssuerUnavailableError, match="key is not here"):
        DevelopmentCA.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists(), "looking makes none"


def _load(ca: DevelopmentCA) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(ca.revoked.read_bytes())


def test_a_new_authority_has_an_empty_list_that_openssl_takes(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path)
    assert list(_load(ca)) == []
    context = ssl.create_default_context(cafile=str(ca.certificate))
    context.load_verify_locations(cafile=str(ca.revoked))


def test_the_list_is_written_when_it_differs_only(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path)
    entries = [Revoked(7, 1_700_000_000_000), Revoked(5, 1_700_000_000_000)]
    assert ca.publish_revoked(entries) is True
    before = ca.revoked.read_bytes()
    assert ca.publish_revoked(reversed(entries)) is False
    assert ca.revoked.read_bytes() == before
    assert [entry.serial_number for entry in _load(ca)] == [5, 7]
    assert ca.publish_revoked(entries[:1]) is True


def test_a_list_that_ends_soon_or_is_another_s_is_not_current(tmp_path: Path) -> None:
    ca, other = (DevelopmentCA.open_or_create(tmp_path / name) for name in "ab")
    key = ca.authority.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    now, pem = datetime.now(UTC), ca.revoked.read_bytes()
    assert revocation.is_current(pem, key, (), now)
    assert not revocation.is_current(pem, key, (), now + timedelta(days=8))
    assert not revocation.is_current(pem, key, (Revoked(1, 0),), now)
    assert not revocation.is_current(other.revoked.read_bytes(), key, (), now)
    assert not revocation.is_current(b"garbage", key, (), now)


def test_a_damaged_list_is_made_anew(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path)
    ca.revoked.write_bytes(b"garbage")
    assert ca.publish_revoked(()) is True
    assert list(_load(ca)) == []


def test_a_list_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path)
    ca.revoked.unlink()
    ca.revoked.mkdir()  # nothing can be renamed over a folder, whoever tries
    with pytest.raises(IssuerUnavailableError, match="cannot be written"):
        ca.publish_revoked(())
    assert not list(tmp_path.glob("*.tmp"))
