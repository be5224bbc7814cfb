"""Names in certificates: what a tenant, a client and the service are called, and how a peer is known by its own.

A device's common name, and its MQTT client id, is `tenantId.clientId`; its organisation is the tenant. Identifiers
have no dot, so the name splits in one way only, and the service's name (without a dot) can be no device's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reference.core.errors import InputError

SERVICE_NAME = "blackstart-service"
"""Common name and MQTT client id of the management service."""
SERVICE_ORGANIZATION = "blackstart"
COMMON_NAME_LIMIT = 64
"""Characters in a common name at most: RFC 5280, appendix A, ub-common-name."""

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


def check_identifier(value: str, what: str = "identifier") -> str:
    """`value`, when it may name a tenant, a client or a service; else `InputError` that names `what`."""
    if _IDENTIFIER.fullmatch(value):
        return value
    raise InputError(
        f"{value[:80]!r} cannot be a {what}",
        where=what,
        todo="Use 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit.",
    )


def device_name(tenant_id: str, client_id: str) -> str:
    """The common name and MQTT client id of a device.

    Raises `InputError` for a bad identifier, or when both together are longer than a certificate can hold.
    """
    name = f"{check_identifier(tenant_id, 'tenant id')}.{check_identifier(client_id, 'client id')}"
    if len(name) > COMMON_NAME_LIMIT:
        raise InputError(
            f"{name!r} has {len(name)} characters, a certificate's common name holds {COMMON_NAME_LIMIT}",
            where="client id",
            todo="Use a shorter tenant or client id.",
        )
    return name


@dataclass(frozen=True, slots=True)
class Device:
    """The bearer of a device's certificate."""

    tenant_id: str
    client_id: str

    @property
    def mqtt_id(self) -> str:
        """The only MQTT client id that it may use."""
        return f"{self.tenant_id}.{self.client_id}"


@dataclass(frozen=True, slots=True)
class Service:
    """The bearer of the management service's certificate."""

    @property
    def mqtt_id(self) -> str:
        """The only MQTT client id that it may use."""
        return SERVICE_NAME


Peer = Device | Service


def peer_of(common_name: str, organization: str) -> Peer:
    """Who a verified certificate speaks for. Raises `InputError` when its names fit nobody we know."""
    if common_name == SERVICE_NAME and organization == SERVICE_ORGANIZATION:
        return Service()
    tenant_id, dot, client_id = common_name.partition(".")
    if not dot or organization != tenant_id:
        raise InputError(
            f"no device and not the service: CN {common_name[:80]!r}, O {organization[:80]!r}",
            where="certificate",
            todo="A device has CN tenantId.clientId and O tenantId.",
        )
    device_name(tenant_id, client_id)
    return Device(tenant_id, client_id)
