"""Which certificates are revoked: the authority's X.509 list (RFC 5280, section 5), read and checked."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from reference.core.errors import InputError

WATCH_S = 0.25
"""How often the files that may change while a broker runs are looked at."""


def read_revoked(crl: Path, ca: Path) -> frozenset[int]:
    """The serial numbers on the list in `crl` (PEM), which `ca` (PEM) has signed.

    Raises `InputError` for a list that cannot be read, or that the authority has not signed.
    """
    try:
        found = x509.load_pem_x509_crl(crl.read_bytes())
        authority = x509.load_pem_x509_certificate(ca.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}",
            where=str(error.filename),
            todo="Give the authority's certificate and its list.",
        ) from None
    except ValueError as error:
        raise InputError(f"no list of revoked certificates in PEM: {error}", where=str(crl)) from None
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise InputError("the authority's key is of a kind that signs no list", where=str(ca))
    if found.issuer != authority.subject or not found.is_signature_valid(key):
        raise InputError("the list is not signed by the authority", where=str(crl))
    return frozenset(entry.serial_number for entry in found)


class Watched:
    """Files, and whether one of them is another than at the last look."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._look()

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_identity, self._paths))

    def changed(self) -> bool:
        """True once for each change."""
        now = self._look()
        before, self._seen = self._seen, now
        return now != before


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
