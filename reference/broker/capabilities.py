"""What each broker does and does not: declared here, proved by `tests/broker`, told in `docs/brokers.md`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


class Kind(StrEnum):
    """The brokers that can be started."""

    AMQTT = "amqtt"
    MOSQUITTO = "mosquitto"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Each field is a question of the contract suite; its docstring is the row in the documentation."""

    mqtt_version: str
    """The newest MQTT it speaks"""
    lasting_sessions: bool
    """Keeps a session, and what comes for it, for a device that is away"""
    persistence: bool
    """Has sessions and what waits in them after an orderly restart"""
    redelivers: bool
    """Delivers again what was not acknowledged when the connection broke"""
    expiry: bool
    """Drops a message that has expired before its device came back"""
    properties: bool
    """Carries correlation data and content type"""
    reason_codes: bool
    """Says so when it takes a message that it will not deliver"""
    last_will: bool
    """Publishes the last will of a connection that broke, within its rights"""
    refuses_subscriptions: bool
    """Refuses a subscription without the right to it; otherwise it is taken, and nothing is delivered on it"""
    retained: bool
    """Keeps retained messages"""

    def rows(self) -> dict[str, str]:
        """Field name to what stands in the table."""
        shown: dict[str, str] = {}
        for field in fields(self):
            value: object = getattr(self, field.name)
            shown[field.name] = value if isinstance(value, str) else "yes" if value else "no"
        return shown


CAPABILITIES = {
    Kind.AMQTT: Capabilities(
        mqtt_version="3.1.1",
        lasting_sessions=False,
        persistence=False,
        redelivers=False,
        expiry=False,
        properties=False,
        reason_codes=False,
        last_will=False,
        refuses_subscriptions=True,
        retained=False,
    ),
    Kind.MOSQUITTO: Capabilities(
        mqtt_version="5",
        lasting_sessions=True,
        persistence=True,
        redelivers=True,
        expiry=True,
        properties=True,
        reason_codes=True,
        last_will=True,
        refuses_subscriptions=False,
        retained=False,
    ),
}
