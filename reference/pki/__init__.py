"""The development certificate authority: who is who on the wire, for demos, tests and a first staging set-up.

Production brings certificates from its own authority; only the names in them (`names.py`) are a contract.
"""

from reference.pki.authority import CertificateFiles, DevelopmentCA
from reference.pki.names import (
    SERVICE_NAME,
    SERVICE_ORGANIZATION,
    Device,
    Peer,
    Service,
    check_identifier,
    device_name,
    peer_of,
)
from reference.pki.signing import SigningKeyFiles, command_signing_key

__all__ = [
    "SERVICE_NAME",
    "SERVICE_ORGANIZATION",
    "CertificateFiles",
    "DevelopmentCA",
    "Device",
    "Peer",
    "Service",
    "SigningKeyFiles",
    "check_identifier",
    "command_signing_key",
    "device_name",
    "peer_of",
]
