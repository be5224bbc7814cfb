"""Certificates that no honest authority gives out, and its list of revoked ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.pki import CertificateFiles, DevelopmentCA


def serial(files: CertificateFiles) -> int:
    return x509.load_pem_x509_certificate(files.cert.read_bytes()).serial_number


def _authority(ca: DevelopmentCA) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = serialization.load_pem_private_key(ca.certificate.with_name("ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key, x509.load_pem_x509_certificate(ca.certificate.read_bytes())


def write_revoked(ca: DevelopmentCA, path: Path, *files: CertificateFiles) -> Path:
    """The authority's list, replaced in one go."""
    key, authority = _authority(ca)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now - timedelta(hours=1)).next_update(now + timedelta(days=30))
    for one in files:
        entry = x509.RevokedCertificateBuilder().serial_number(serial(one)).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    temp = path.with_suffix(".new")
    temp.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    temp.rename(path)
    return path


def made(
    ca: DevelopmentCA,
    folder: Path,
    name: str,
    tenant: str,
    *,
    expired: bool = False,
    self_signed: bool = False,
) -> CertificateFiles:
    """A device's certificate with the right names, and something else wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    signer, authority = _authority(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    now = datetime.now(UTC)
    until = now - timedelta(minutes=1) if expired else now + timedelta(days=1)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if self_signed else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(until)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key if self_signed else signer, hashes.SHA256())
    )
    files = CertificateFiles(folder / f"{name}.crt", folder / f"{name}.key", ca.certificate)
    files.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return files
