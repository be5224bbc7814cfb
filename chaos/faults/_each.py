"""What is done to several devices has happened when it has happened to each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reference.stack import Device


def of_each(devices: Iterable[Device], told: Mapping[str, Sequence[str]], apart: str = "; ") -> str:
    """What is told of each, by client id, in one sentence; empty when there is one of whom nothing is told."""
    said = [apart.join(told.get(device.client_id, ())) for device in devices]
    return apart.join(said) if all(said) else ""
