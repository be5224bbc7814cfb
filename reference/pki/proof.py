"""A request for renewal that proves, over any transport, that its sender holds the key of a good certificate.

A compact JWS (RFC 7515): the certificate in its `x5c` header, signed with the certificate's key, the new CSR inside.
It needs no TLS client authentication, so a gateway may end TLS in between. Caught and sent again it gives nothing
away: the answer is a certificate for the key of the CSR, which only the device has.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.core.errors import BlackstartError, InputError, Reason
from reference.pki.names import Device, peer_of

AUDIENCE = "blackstart-enrolment"
TYPE = "blackstart-renewal+jwt"
LIFETIME_S = 120
SKEW_S = 300
"""How far the clocks of device and service may be apart."""
MAX_PROOF_CHARS = 16 * 1024
_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class CertificateRefusedError(BlackstartError):
    """A certificate, or what is signed with its key, is not good enough to get another one."""

    default = Reason.CERTIFICATE_REFUSED


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a proof says, checked."""

    device: Device
    serial: int
    csr: str


def prove(key: ec.EllipticCurvePrivateKey, cert: x509.Certificate, csr: str, now_s: float) -> str:
    """Ask for another certificate with the present one. `now_s`: seconds since 1970, as the service counts them."""
    der = base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode()
    now = int(now_s)
    claims = {"aud": AUDIENCE, "iat": now, "exp": now + LIFETIME_S, "jti": secrets.token_hex(16), "csr": csr}
    return jwt.encode(claims, key, _ALGORITHMS[key.curve.name], headers={"typ": TYPE, "x5c": [der]})


def check_proof(proof: str, authority: x509.Certificate, now_s: float) -> Renewal:
    """What the bearer of a good device certificate asks for. Whether that is revoked is not known here.

    Raises `CertificateRefusedError` for a certificate that is not the authority's, is out of its time, is not for
    clients or names no device, and for a proof that is not signed with its key or is not of now.
    """
    cert = _certificate(proof)
    device = check_certificate(cert, authority, now_s)
    key = cert.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _ALGORITHMS:
        raise _refused("its key is of a kind that proves nothing here")
    try:
        # The algorithm follows from the key, never from the header (RFC 8725, section 3.1).
        claims = jwt.decode(
            proof,
            key,
            algorithms=[_ALGORITHMS[key.curve.name]],
            audience=AUDIENCE,
            options={
                "require": ["aud", "iat", "exp", "jti", "csr"],
                "verify_exp": False,
                "verify_iat": False,
            },
        )
        issued, expires, csr = float(claims["iat"]), float(claims["exp"]), claims["csr"]
    except (jwt.InvalidTokenError, ValueError, TypeError):
        raise _refused("the request is not signed with its key, or says too little") from None
    if not isinstance(csr, str):
        raise _refused("the request has no CSR in it")
    if not (issued - SKEW_S <= now_s <= min(expires, issued + LIFETIME_S) + SKEW_S):
        raise _refused("the request is not of now", todo="Set the clock of the device, then ask again.")
    return Renewal(device, cert.serial_number, csr)


def check_certificate(cert: x509.Certificate, authority: x509.Certificate, now_s: float) -> Device:
    """Whose it is. Raises `CertificateRefusedError`."""
    try:
        cert.verify_directly_issued_by(authority)
        purposes = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        raise _refused("it is not this authority's") from None
    except x509.ExtensionNotFound:
        raise _refused("it says nothing of its purpose") from None
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise _refused("it is no client's")
    now = datetime.fromtimestamp(now_s, UTC)
    if not cert.not_valid_before_utc <= now <= cert.not_valid_after_utc:
        raise _refused(
            "it has expired, or is not valid yet",
            todo="Enrol the device again with a new registration token.",
        )
    names = [
        [str(found.value) for found in cert.subject.get_attributes_for_oid(oid)]
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    ]
    try:
        peer = peer_of(*(values[0] if len(values) == 1 else "" for values in names))
    except InputError:
        peer = None
    if not isinstance(peer, Device):
        raise _refused("it is no device's")
    return peer


def _certificate(proof: str) -> x509.Certificate:
    if len(proof) > MAX_PROOF_CHARS:
        raise _refused(f"the request is longer than {MAX_PROOF_CHARS} characters")
    try:
        header = jwt.get_unverified_header(proof)
        (encoded,) = header["x5c"]
        if header.get("typ") != TYPE:
            raise ValueError("typ")
        return x509.load_der_x509_certificate(base64.b64decode(encoded, validate=True))
    except (jwt.InvalidTokenError, KeyError, ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
        raise _refused("the request carries no certificate") from None


def _refused(why: str, todo: str = "") -> CertificateRefusedError:
    return CertificateRefusedError(f"the certificate is refused: {why}", todo=todo)
