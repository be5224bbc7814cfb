"""A small certificate authority on disk, made at first use, for development and tests.

EC P-256 throughout. Layout: `ca.crt`, `ca.key`, `ca.crl` (the list of revoked certificates), and `issued/NAME.crt` with `issued/NAME.key` for each certificate.
A certificate that is still good is answered as it is, so that a second start of a stack changes no file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.core.errors import InputError
from reference.pki import revocation, store
from reference.pki.issuer import IssuerUnavailableError, Revoked
from reference.pki.names import SERVICE_NAME, SERVICE_ORGANIZATION, check_identifier, device_name

LOOPBACK = ("127.0.0.1", "localhost")
CA_LIFETIME_DAYS = 3650
LIFETIME_DAYS = 365
ENROLLED_DAYS = 90
"""The life of a certificate that a device enrolled for, and renews by itself."""
RENEW_BEFORE_DAYS = 30
"""A certificate with less left than this is issued anew."""
BACKDATED_MINUTES = 60
"""Certificates start this long ago, so that a device whose clock is a little behind accepts them."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of PEM files: a certificate, its private key (mode 0600), and the authority's certificate."""

    cert: Path
    key: Path
    ca: Path


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise InputError(
            f"{host[:80]!r} is no host name or address", where="hosts", todo="Give a DNS name or an IP."
        )
    return x509.DNSName(host)


def _name(common_name: str, organization: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    name = _name("Blackstart development CA", SERVICE_ORGANIZATION)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=BACKDATED_MINUTES))
        .not_valid_after(now + timedelta(days=CA_LIFETIME_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(key, hashes.SHA256())
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a certificate must say."""

    file_name: str
    subject: x509.Name
    purpose: x509.ObjectIdentifier
    hosts: tuple[x509.GeneralName, ...] = ()

    def extensions(self) -> list[tuple[x509.ExtensionType, bool]]:
        wanted: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(authority=False), True),
            (x509.ExtendedKeyUsage([self.purpose]), False),
        ]
        if self.hosts:
            wanted.append((x509.SubjectAlternativeName(self.hosts), False))
        return wanted

    def described_by(self, cert: x509.Certificate) -> bool:
        present = {extension.oid: extension.value for extension in cert.extensions}
        return cert.subject == self.subject and all(present.get(v.oid) == v for v, _ in self.extensions())


class DevelopmentCA:
    """Issues the certificates of a stack. Not for production: its key lies on the disk unencrypted."""

    def __init__(
        self,
        directory: Path,
        key: ec.EllipticCurvePrivateKey,
        cert: x509.Certificate,
        enrolled: timedelta = timedelta(days=ENROLLED_DAYS),
    ) -> None:
        self._directory = directory
        self._key = key
        self._cert = cert
        self._enrolled = enrolled

    @classmethod
    def open(cls, directory: Path, enrolled: timedelta = timedelta(days=ENROLLED_DAYS)) -> DevelopmentCA:
        """The authority that is in `directory`, to sign what devices enrol for (`issue`).

        Raises `IssuerUnavailableError` when its key is not there, `InputError` when it is no authority's.
        """
        if not (directory / "ca.key").exists():
            raise IssuerUnavailableError(
                "the certificate authority's key is not here, so no certificate can be issued",
                todo="Start the service with the folder of the authority (--ca-dir).",
            )
        found = cls.open_or_create(directory)
        found._enrolled = enrolled
        return found

    @classmethod
    def open_or_create(cls, directory: Path) -> DevelopmentCA:
        """The authority in `directory`, made durably when there is none yet.

        Raises `InputError` when the folder cannot be used or holds something that is no authority.
        """
        store.make_dir(store.make_dir(directory) / "issued")
        key_path, cert_path = directory / "ca.key", directory / "ca.crt"
        with store.locked(directory):
            if not key_path.exists():
                if cert_path.exists():
                    raise InputError(
                        "the authority's key is missing beside its certificate",
                        where=str(key_path),
                        todo="Restore it, or move the folder away; a new one is made.",
                    )
                store.write_private(key_path, ec.generate_private_key(ec.SECP256R1()))
            key = store.read_private(key_path)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise InputError(
                    "not an EC key", where=str(key_path), todo="Move the folder away; a new one is made."
                )
            # The key comes first: after a cut between the two, the certificate is made again from it.
            if not cert_path.exists():
                store.write(cert_path, _pem(_self_signed(key)), 0o644)
            cert = store.read_certificate(cert_path)
        if cert.public_key() != key.public_key():
            raise InputError(
                "the authority's certificate and key do not belong together",
                where=str(cert_path),
                todo="Move the folder away; a new one is made.",
            )
        found = cls(directory, key, cert)
        if not found.revoked.exists():
            # A broker that is told of a list does not start without one. What is on it comes from the service.
            found.publish_revoked(())
        return found

    @property
    def certificate(self) -> Path:
        """The authority's own certificate, in PEM: what peers trust."""
        return self._directory / "ca.crt"

    @property
    def revoked(self) -> Path:
        """The list of revoked certificates, in PEM: what brokers are told to watch."""
        return self._directory / "ca.crl"

    @property
    def authority(self) -> x509.Certificate:
        """Its certificate, read."""
        return self._cert

    def issue(
        self, tenant_id: str, client_id: str, request: x509.CertificateSigningRequest
    ) -> x509.Certificate:
        """A device's certificate for the key of `request`, kept by nobody here. Raises `InputError`."""
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InputError("not an EC key", where="csr")
        name = device_name(tenant_id, client_id)
        wanted = _Wanted(name, _name(name, tenant_id), ExtendedKeyUsageOID.CLIENT_AUTH)
        return self._sign(key, wanted, self._enrolled)

    def issued_elsewhere(self, tenant_id: str, client_id: str) -> list[x509.Certificate]:
        """What `issue_device` made for that device."""
        try:
            return [
                store.read_certificate(
                    self._directory / "issued" / f"{device_name(tenant_id, client_id)}.crt"
                )
            ]
        except InputError:
            return []

    def publish_revoked(self, revoked: Iterable[Revoked]) -> bool:
        """Write `ca.crl`, if it does not say this already. Whether it was written. Raises `IssuerUnavailableError`."""
        entries, now = tuple(revoked), datetime.now(UTC)
        try:
            with store.locked(self._directory):
                known = self.revoked.read_bytes() if self.revoked.exists() else b""
                if revocation.is_current(known, self._key.public_key(), entries, now):
                    return False
                store.write(self.revoked, revocation.make_list(self._key, self._cert, entries, now), 0o644)
        except (InputError, OSError) as error:
            raise IssuerUnavailableError(
                f"the list of revoked certificates cannot be written: {getattr(error, 'what', error)}"
            ) from error
        return True

    def issue_device(self, tenant_id: str, client_id: str) -> CertificateFiles:
        """A client certificate: CN `tenantId.clientId`, O `tenantId`. Raises `InputError` for a bad identifier."""
        name = device_name(tenant_id, client_id)
        return self._issue(_Wanted(name, _name(name, tenant_id), ExtendedKeyUsageOID.CLIENT_AUTH))

    def issue_service(self, name: str = SERVICE_NAME) -> CertificateFiles:
        """A client certificate for a part of the service side. Only `SERVICE_NAME` has rights at the broker."""
        check_identifier(name, "service name")
        return self._issue(_Wanted(name, _name(name, SERVICE_ORGANIZATION), ExtendedKeyUsageOID.CLIENT_AUTH))

    def issue_server(self, name: str, hosts: Sequence[str] = LOOPBACK) -> CertificateFiles:
        """A server certificate for `hosts` (DNS names and addresses; loopback is always among them)."""
        check_identifier(name, "server name")
        alternatives = tuple(_general_name(host) for host in dict.fromkeys((*LOOPBACK, *hosts)))
        subject = _name(name, SERVICE_ORGANIZATION)
        return self._issue(_Wanted(f"server-{name}", subject, ExtendedKeyUsageOID.SERVER_AUTH, alternatives))

    def _issue(self, wanted: _Wanted) -> CertificateFiles:
        issued = self._directory / "issued"
        # Not with_suffix(): a device's name has a dot in it.
        cert_path, key_path = issued / f"{wanted.file_name}.crt", issued / f"{wanted.file_name}.key"
        with store.locked(self._directory):
            if not self._good(cert_path, key_path, wanted):
                key = ec.generate_private_key(ec.SECP256R1())
                store.write_private(key_path, key)
                store.write(cert_path, _pem(self._sign(key.public_key(), wanted)), 0o644)
        return CertificateFiles(cert_path, key_path, self.certificate)

    def _good(self, cert_path: Path, key_path: Path, wanted: _Wanted) -> bool:
        """Whether what lies there can be used: ours, as wanted, the key fits, and it lasts a while yet."""
        try:
            cert, key = store.read_certificate(cert_path), store.read_private(key_path)
            cert.verify_directly_issued_by(self._cert)
        except (InputError, InvalidSignature, ValueError, TypeError):
            return False  # damaged, half-written or of another authority: made anew
        lasts = cert.not_valid_after_utc - datetime.now(UTC) > timedelta(days=RENEW_BEFORE_DAYS)
        return lasts and cert.public_key() == key.public_key() and wanted.described_by(cert)

    def _sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        wanted: _Wanted,
        life: timedelta = timedelta(days=LIFETIME_DAYS),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(wanted.subject)
            .issuer_name(self._cert.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=BACKDATED_MINUTES))
            .not_valid_after(min(now + life, self._cert.not_valid_after_utc))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        for extension, critical in wanted.extensions():
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)
