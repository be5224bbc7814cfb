"""Where messages go: `tenants/{tenantId}/clients/{clientId}/...`, QoS 1, nothing retained.

Ids hold no dot, and both together fit the common name `tenantId.clientId` of a certificate (64 characters: ITU-T
X.520, ub-common-name), which is the MQTT client id too; a UUID fits as a client's. Neither can hold a character that
MQTT gives a meaning (`/`, `+`, `#`, `$`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from reference.core.errors import InputError

TENANT_PATTERN = r"^[a-z0-9][a-z0-9-]{0,26}$"
CLIENT_PATTERN = r"^[a-z0-9][a-z0-9-]{0,35}$"
TENANT_RULE = "1 to 27 of a-z, 0-9 and '-', the first no '-'"
CLIENT_RULE = "1 to 36 of a-z, 0-9 and '-', the first no '-'"


class Kind(StrEnum):
    """The value is the end of the topic."""

    UPDATE = "commands/update"
    CANCEL = "commands/cancel"
    REPLIES = "replies"
    BIRTH = "birth"
    STATUS = "status"


class Topic(NamedTuple):
    """A topic, taken apart."""

    tenant_id: str
    client_id: str
    kind: Kind


ENVELOPE_TYPE = "application/vnd.dsse+json"
"""Content type of what goes to a device, under MQTT 5."""
MESSAGE_TYPE = "application/json"
"""Content type of what comes from a device."""
TO_DEVICE = (Kind.UPDATE, Kind.CANCEL, Kind.REPLIES)
FROM_DEVICE = (Kind.BIRTH, Kind.STATUS)


def check_tenant(tenant_id: str) -> str:
    """The id itself. Raises InputError when it can be no tenant's."""
    return _check(tenant_id, TENANT_PATTERN, "tenant id", TENANT_RULE)


def check_client(client_id: str) -> str:
    """The id itself. Raises InputError when it can be no client's."""
    return _check(client_id, CLIENT_PATTERN, "client id", CLIENT_RULE)


def topic(tenant_id: str, client_id: str, kind: Kind) -> str:
    """The topic of a message. Raises InputError for an id that cannot be one."""
    return f"tenants/{check_tenant(tenant_id)}/clients/{check_client(client_id)}/{kind.value}"


def update(tenant_id: str, client_id: str) -> str:
    """Service to device: a signed UpdateCommand."""
    return topic(tenant_id, client_id, Kind.UPDATE)


def cancel(tenant_id: str, client_id: str) -> str:
    """Service to device: a signed CancelCommand."""
    return topic(tenant_id, client_id, Kind.CANCEL)


def replies(tenant_id: str, client_id: str) -> str:
    """Service to device: a signed Reply, to a birth or to a status."""
    return topic(tenant_id, client_id, Kind.REPLIES)


def birth(tenant_id: str, client_id: str) -> str:
    """Device to service, at every connect: a Birth."""
    return topic(tenant_id, client_id, Kind.BIRTH)


def status(tenant_id: str, client_id: str) -> str:
    """Device to service: a StatusMessage."""
    return topic(tenant_id, client_id, Kind.STATUS)


def device_subscriptions(tenant_id: str, client_id: str) -> tuple[str, ...]:
    """What a device subscribes to."""
    return tuple(topic(tenant_id, client_id, kind) for kind in TO_DEVICE)


def service_subscriptions() -> tuple[str, ...]:
    """What the service subscribes to."""
    return tuple(f"tenants/+/clients/+/{kind.value}" for kind in FROM_DEVICE)


def parse_topic(text: str) -> Topic:
    """Take a received topic apart. Raises InputError when it is none of ours."""
    parts = text.split("/", 4)
    if len(parts) == 5 and parts[0] == "tenants" and parts[2] == "clients":
        try:
            return Topic(check_tenant(parts[1]), check_client(parts[3]), Kind(parts[4]))
        except (ValueError, InputError):
            pass
    raise InputError(f"not a topic of Blackstart: {text[:200]!r}", todo="See reference/protocol/topics.py.")


def _check(given: str, pattern: str, name: str, rule: str) -> str:
    if re.fullmatch(pattern, given) is None or given.endswith("\n"):
        raise InputError(f"{given[:80]!r} is not a {name}", where=name, todo=f"Allowed: {rule}.")
    return given
