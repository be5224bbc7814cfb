from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.core.errors import InputError
from reference.pki import CertificateFiles, DevelopmentCA, command_signing_key


def _load(files: CertificateFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.cert.read_bytes())


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _purposes(cert: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_device_certificate_names_the_device_and_is_for_clients_only(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path / "ca")
    files = ca.issue_device("acme", "d1")
    cert = _load(files)
    assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "acme.d1"
    assert cert.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "acme"
    assert _purposes(cert) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))
    assert _mode(files.key) == 0o600
    assert _mode(tmp_path / "ca" / "ca.key") == 0o600


def test_a_server_certificate_is_for_servers_only_and_always_names_loopback(tmp_path: Path) -> None:
    cert = _load(
        DevelopmentCA.open_or_create(tmp_path).issue_server("broker", ["broker.example", "10.0.0.7"])
    )
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "broker.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.0.0.7"]
    assert _purposes(cert) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    first = DevelopmentCA.open_or_create(tmp_path).issue_device("acme", "d1")
    before = {path: path.read_bytes() for path in (first.cert, first.key, first.ca)}
    again = DevelopmentCA.open_or_create(tmp_path).issue_device("acme", "d1")
    assert again == first
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_or_foreign_certificate_is_issued_anew(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path / "a")
    files = ca.issue_device("acme", "d1")
    files.cert.write_bytes(b"")
    ca.issue_device("acme", "d1")
    ssl.create_default_context().load_cert_chain(files.cert, files.key)
    foreign = DevelopmentCA.open_or_create(tmp_path / "b").issue_device("acme", "d1")
    files.cert.write_bytes(foreign.cert.read_bytes())
    files.key.write_bytes(foreign.key.read_bytes())
    ca.issue_device("acme", "d1")
    _load(files).verify_directly_issued_by(x509.load_pem_x509_certificate(ca.certificate.read_bytes()))


def test_more_hosts_make_a_new_server_certificate(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path)
    before = _load(ca.issue_server("broker")).serial_number
    assert _load(ca.issue_server("broker")).serial_number == before
    assert _load(ca.issue_server("broker", ["x.example"])).serial_number != before


def test_a_cut_between_key_and_certificate_is_mended_from_the_key(tmp_path: Path) -> None:
    ca = DevelopmentCA.open_or_create(tmp_path)
    device = _load(ca.issue_device("acme", "d1"))
    ca.certificate.unlink()
    again = DevelopmentCA.open_or_create(tmp_path)
    device.verify_directly_issued_by(x509.load_pem_x509_certificate(again.certificate.read_bytes()))


def test_many_that_open_at_once_get_one_authority(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: DevelopmentCA.open_or_create(tmp_path), range(8)))
    root = x509.load_pem_x509_certificate(opened[0].certificate.read_bytes())
    for number, ca in enumerate(opened):
        _load(ca.issue_device("acme", f"d{number}")).verify_directly_issued_by(root)


def test_unusable_folders_give_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder cannot be made"):
        DevelopmentCA.open_or_create(tmp_path / "file" / "ca")
    ca = DevelopmentCA.open_or_create(tmp_path / "ca")
    (tmp_path / "ca" / "ca.key").write_text("rubbish")
    with pytest.raises(InputError, match="no private key"):
        DevelopmentCA.open_or_create(tmp_path / "ca")
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(InputError, match="key is missing"):
        DevelopmentCA.open_or_create(tmp_path / "ca")
    other = DevelopmentCA.open_or_create(tmp_path / "other")
    other.certificate.write_bytes(ca.certificate.read_bytes())
    with pytest.raises(InputError, match="do not belong together"):
        DevelopmentCA.open_or_create(tmp_path / "other")


@pytest.mark.parametrize("host", ["", "a b", "*", "-a", "a..b", "ü.example", "a" * 254])
def test_bad_hosts_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError):
        DevelopmentCA.open_or_create(tmp_path).issue_server("broker", [host])


def test_the_signing_key_is_made_once_and_its_public_half_follows_it(tmp_path: Path) -> None:
    files = command_signing_key(tmp_path / "keys")
    assert _mode(files.private) == 0o600
    private = files.private.read_bytes()
    public = files.public.read_bytes()
    files.public.write_text("stale")
    assert command_signing_key(tmp_path / "keys") == files
    assert files.private.read_bytes() == private
    assert files.public.read_bytes() == public
    key = load_pem_private_key(private, None)
    assert key.public_key() == load_pem_public_key(public)


def test_a_file_that_is_no_signing_key_is_refused(tmp_path: Path) -> None:
    DevelopmentCA.open_or_create(tmp_path)
    (tmp_path / "command-signing.key").write_bytes((tmp_path / "ca.key").read_bytes())
    with pytest.raises(InputError, match="not an Ed25519 key"):
        command_signing_key(tmp_path)
