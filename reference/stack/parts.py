"""What a stack knows of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reference.support.processes import ManagedProcess

SPOKEN = {"amqtt": "3.1.1", "mosquitto": "5"}
"""The MQTT that each kind of broker speaks, for whoever cannot wait until it says so."""


@dataclass(slots=True)
class RegistryHandle:
    """A registry that runs, and how to reach it."""

    process: ManagedProcess | None
    host: str
    """`host:port` as devices name it."""
    pull_password: str
    push_password: str
    push_host: str = ""
    """Where images are pushed to, when that is elsewhere: devices may reach it through something else."""


@dataclass(frozen=True, slots=True)
class Agents:
    """Modules run as an agent, as one that stands still at a phase, as the service and as a registry: tests put broken ones here."""

    usual: str = "reference.edge.main"
    pausing: str = "reference.demo.agent"
    service: str = "reference.service"
    registry: str = "reference.registry"


def laid_over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """`below` with the fields of `above` in it; where both are objects, those are joined alike."""
    found = dict(below)
    for name, value in above.items():
        under = found.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        found[name] = laid_over(under, value) if both else value  # type: ignore[arg-type]
    return found
