"""The failing front of a registry: it stands between the devices and the registry of a bench, and fails on demand.

front = RegistryFront()
await front.start("127.0.0.1:5000")
handle = front.add(Rule(Answered(503, "UNAVAILABLE", "down for a while"), kind="layer", count=2))
gate = await front.hold_at(0.5)
await gate.reached.wait()
gate.release()
"""

from chaos.proxies.registry.acts import (
    Act,
    Answered,
    Corrupted,
    Slowed,
    Stalled,
    Truncated,
    Watched,
    WrongLength,
)
from chaos.proxies.registry.certificates import expired_certificate
from chaos.proxies.registry.front import RegistryFront
from chaos.proxies.registry.pulls import Gate
from chaos.proxies.registry.rules import Asked, Handle, Request, Rule

__all__ = [
    "Act", "Answered", "Asked", "Corrupted", "Gate", "Handle", "RegistryFront", "Request", "Rule", "Slowed", "Stalled",
    "Truncated", "Watched", "WrongLength", "expired_certificate",
]  # fmt: skip
