"""The port to whoever signs devices' certificates: the development authority here, another one in production."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from reference.core.errors import ServiceError


class IssuerUnavailableError(ServiceError):
    """No certificate can be issued now."""

    public = True
    """The message says nothing that a caller may not read."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry of the list of revoked certificates. Instants in ms since 1970."""

    serial: int
    at_ms: int


class Issuer(Protocol):
    """Signs, and publishes what it takes back. All methods may block, and raise IssuerUnavailableError."""

    @property
    def authority(self) -> x509.Certificate:
        """What the certificates are checked against."""

    def issue(
        self, tenant_id: str, client_id: str, request: x509.CertificateSigningRequest
    ) -> x509.Certificate:
        """A client certificate for the key of `request`: CN `tenantId.clientId`, and nothing else of the request.

        Asked again for the same key it may answer another certificate: only one is ever handed out.
        """

    def issued_elsewhere(self, tenant_id: str, client_id: str) -> Iterable[x509.Certificate]:
        """Certificates of that device which the service did not ask for, as far as they are known."""

    def publish_revoked(self, revoked: Iterable[Revoked]) -> bool:
        """Make this the list that brokers see; whether it was another one before, or close to its end."""
