"""The proxy's two faces: to a client it is the broker, to the broker it is that client.

Both take certificates of the bench's own authority. Where the authority is somebody else's there is no such proxy.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from reference.core.errors import InputError, ServiceError
from reference.pki.authority import CertificateFiles, DevelopmentCA
from reference.pki.issuer import IssuerUnavailableError
from reference.support.mqtt import TlsFiles

BROKER = "broker"
"""The name in the broker's certificate."""


class ProxyAbsentError(ServiceError):
    """There can be no MQTT-aware proxy here; the message says why."""


def server_files(authority: Path) -> CertificateFiles:
    """What a proxy shows to clients: named as the broker is, by the authority in that folder.

    Raises ProxyAbsentError when that is another's, InputError when the folder cannot be used.
    """
    try:
        return DevelopmentCA.open(authority).issue_server(BROKER)
    except IssuerUnavailableError:
        raise ProxyAbsentError(
            "the MQTT-aware proxy is absent: the certificate authority is not the bench's own, its key is not here",
            where=str(authority),
            todo="Use a bench with its own authority for faults on MQTT packets.",
        ) from None


@dataclass(frozen=True, slots=True)
class Tls:
    """Of one listener. The client's files are read at every connection: they may be renewed meanwhile."""

    server: CertificateFiles
    client: CertificateFiles

    def server_context(self) -> ssl.SSLContext:
        """Demands a certificate of our authority. Raises InputError."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.server.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(str(self.server.cert), str(self.server.key))
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"the proxy's certificate files cannot be used: {error}", where=str(self.server.cert)
            ) from None
        return context

    def client_context(self) -> ssl.SSLContext:
        """For the connection to the broker. Raises InputError."""
        return TlsFiles(self.client.ca, self.client.cert, self.client.key).context()

    def check_peer(self, found: ssl.SSLObject) -> None:
        """Only the client itself comes through: behind this way everybody has its name. Raises InputError."""
        subject = (found.getpeercert() or {}).get("subject", ())
        names = [pair[1] for part in subject for pair in part if pair[0] == "commonName"]
        if names != [self._name()]:
            raise InputError(
                f"the certificate is {names}'s, this way is {self._name()!r}'s", where="certificate"
            )

    def _name(self) -> str:
        try:
            certificate = x509.load_pem_x509_certificate(self.client.cert.read_bytes())
            return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        except (OSError, ValueError, IndexError) as error:
            raise InputError(f"no certificate: {error}", where=str(self.client.cert)) from None
