"""The authority's list of revoked certificates (X.509 CRL, RFC 5280 section 5): made, and read again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reference.pki.issuer import Revoked

LIFETIME_DAYS = 30
"""A broker lets nobody in with a list older than this: so long the service may be away."""
RENEW_BEFORE_DAYS = 23
"""A list with less left than this is made anew: every week."""


def make_list(
    key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, revoked: Iterable[Revoked], now: datetime
) -> bytes:
    """The list in PEM. Its number is the time in ms, which rises without being remembered."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - timedelta(hours=1))  # for a broker whose clock is a little behind
        .next_update(now + timedelta(days=LIFETIME_DAYS))
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for one in sorted(revoked, key=lambda entry: entry.serial):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(one.serial)
            .revocation_date(datetime.fromtimestamp(one.at_ms // 1000, UTC))
            .build()
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def is_current(pem: bytes, key: ec.EllipticCurvePublicKey, revoked: Iterable[Revoked], now: datetime) -> bool:
    """Whether the list says just that, is signed with `key`, and lasts a while yet."""
    try:
        found = x509.load_pem_x509_crl(pem)
        ends = found.next_update_utc
        signed = found.is_signature_valid(key)
        serials = {entry.serial_number for entry in found}
    except (ValueError, TypeError):
        return False
    if not signed or ends is None or ends - now < timedelta(days=RENEW_BEFORE_DAYS):
        return False
    return serials == {one.serial for one in revoked}
