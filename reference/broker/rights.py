"""Who may publish and receive what: pure, by the topics of the protocol.

device t.c  publishes  tenants/t/clients/c/birth, .../status
            receives   tenants/t/clients/c/commands/#, .../replies
service     publishes  tenants/+/clients/+/commands/update, .../commands/cancel, .../replies
            receives   tenants/+/clients/+/birth, .../status
"""

from __future__ import annotations

from collections.abc import Iterable

from reference.core.errors import InputError
from reference.pki import SERVICE_NAME, Device, Peer, device_name

_TO_DEVICE = frozenset({"commands/update", "commands/cancel", "replies"})
_FROM_DEVICE = frozenset({"birth", "status"})
_SERVICE_FILTERS = frozenset(f"tenants/+/clients/+/{leaf}" for leaf in _FROM_DEVICE)


def _split(topic: str) -> tuple[Device, str] | None:
    """The device that a topic name belongs to and what is left of it; None for a topic that is not ours."""
    levels = topic.split("/", 4)
    if len(levels) != 5 or levels[0] != "tenants" or levels[2] != "clients":
        return None
    try:
        device_name(levels[1], levels[3])
    except InputError:
        return None
    return Device(levels[1], levels[3]), levels[4]


def may_publish(peer: Peer, topic: str) -> bool:
    """Whether `peer` may publish to the topic name `topic`."""
    match (peer, _split(topic)):
        case (_, None):
            return False
        case (Device() as device, (owner, leaf)):
            return device == owner and leaf in _FROM_DEVICE
        case (_, (_, leaf)):
            return leaf in _TO_DEVICE
    return False


def may_receive(peer: Peer, topic: str) -> bool:
    """Whether a message on the topic name `topic` may be handed to `peer`."""
    match (peer, _split(topic)):
        case (_, None):
            return False
        case (Device() as device, (owner, leaf)):
            return device == owner and leaf in _TO_DEVICE
        case (_, (_, leaf)):
            return leaf in _FROM_DEVICE
    return False


def may_subscribe(peer: Peer, topic_filter: str) -> bool:
    """Whether `peer` may subscribe to exactly the filter `topic_filter`: no others than the protocol's are taken."""
    if not isinstance(peer, Device):
        return topic_filter in _SERVICE_FILTERS
    mine = f"tenants/{peer.tenant_id}/clients/{peer.client_id}/"
    leaf = topic_filter.removeprefix(mine)
    return leaf != topic_filter and (leaf == "commands/#" or leaf in _TO_DEVICE)


def mosquitto_rights(devices: Iterable[Device]) -> str:
    """The same table for Mosquitto's `acl_file`: one entry for the service and one for each device, by name.

    Mosquitto takes any subscription and asks these at delivery: `read` is what may be received.
    """
    lines = [f"user {SERVICE_NAME}"]
    lines += [f"topic write tenants/+/clients/+/{leaf}" for leaf in sorted(_TO_DEVICE)]
    lines += [f"topic read tenants/+/clients/+/{leaf}" for leaf in sorted(_FROM_DEVICE)]
    for device in devices:
        mine = f"tenants/{device.tenant_id}/clients/{device.client_id}"
        lines += ["", f"user {device.mqtt_id}"]
        lines += [f"topic read {mine}/{leaf}" for leaf in sorted(_TO_DEVICE)]
        lines += [f"topic write {mine}/{leaf}" for leaf in sorted(_FROM_DEVICE)]
    return "\n".join(lines) + "\n"
