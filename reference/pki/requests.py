"""Certificate signing requests (PKCS 10, RFC 2986): made on a device, and read where nothing in them is believed.

Of a request only its public key counts, proven by its own signature. What it wants to be called and allowed is not
asked for: the authority writes names and purposes itself.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reference.core.errors import InputError

MAX_REQUEST_CHARS = 8 * 1024
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_WHERE = "csr"
_TODO = "Send a PKCS 10 request in PEM, for an EC key on P-256, P-384 or P-521, signed with that key."


def make_request(key: ec.EllipticCurvePrivateKey, common_name: str = "") -> bytes:
    """A request for `key` in PEM; a device that is not enrolled knows no name yet."""
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_request(pem: str) -> x509.CertificateSigningRequest:
    """The request, when its signature is that of its own key, and the key is one that we certify.

    Raises `InputError`: no request, a signature that does not fit, RSA (which has to be four times as long to be as
    good, and is slow on small devices), a curve below P-256.
    """
    if len(pem) > MAX_REQUEST_CHARS:
        raise InputError(f"longer than {MAX_REQUEST_CHARS} characters", where=_WHERE, todo=_TODO)
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        good = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise InputError(
            "no certificate signing request that can be read", where=_WHERE, todo=_TODO
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise InputError("its key is of a kind that gets no certificate", where=_WHERE, todo=_TODO)
    if not good:
        raise InputError("its signature is not that of its key", where=_WHERE, todo=_TODO)
    return request


def check_subject(request: x509.CertificateSigningRequest, common_name: str) -> None:
    """Raises `InputError` when the request names itself, and not `common_name`."""
    for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if attribute.value != common_name:
            raise InputError(
                f"its common name is not {common_name!r}",
                where=_WHERE,
                todo="Leave the subject empty, or name the client that it is for.",
            )


def key_id(bearer: x509.CertificateSigningRequest | x509.Certificate) -> str:
    """What a public key is known by: SHA-256 of its SubjectPublicKeyInfo, in hexadecimal."""
    spki = bearer.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()
