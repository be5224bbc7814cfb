"""A server's certificate that was good once."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.pki import store
from reference.pki.authority import CertificateFiles, DevelopmentCA

EXPIRED_AGO = timedelta(days=1)
LASTED = timedelta(days=90)


def expired_certificate(authority_dir: Path, folder: Path) -> CertificateFiles:
    """One for loopback, of the authority in `authority_dir`, that ended a day ago; written to `folder`.

    The authority itself issues none like it. Raises InputError when its key cannot be read.
    """
    authority = DevelopmentCA.open_or_create(authority_dir)
    key = ec.generate_private_key(ec.SECP256R1())
    ended = datetime.now(UTC) - EXPIRED_AGO
    hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")]))
        .issuer_name(authority.authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ended - LASTED)
        .not_valid_after(ended)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.authority.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(store.read_private(authority_dir / "ca.key"), hashes.SHA256())
    )
    store.make_dir(folder)
    files = CertificateFiles(folder / "expired.crt", folder / "expired.key", authority.certificate)
    store.write_private(files.key, key)
    store.write(files.cert, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return files
