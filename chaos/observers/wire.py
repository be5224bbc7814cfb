"""What passes between the parts, as the proxies in between see it: MQTT packets, and requests to the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from chaos.history import Recorder

if TYPE_CHECKING:
    from chaos.proxies.mqtt import Seen
    from chaos.proxies.registry import Request


def tap(recorder: Recorder, device: str) -> Callable[[Seen], None]:
    """Writes what the MQTT-aware proxy of a device tells."""

    def write(seen: Seen) -> None:
        recorder.record(
            "tap", seen.event, device, t=None, **{k: v for k, v in seen.data.items() if v is not None}
        )

    return write


def requests(recorder: Recorder) -> Callable[[Request], None]:
    """Writes what the registry's front tells."""

    def write(request: Request) -> None:
        recorder.record("front", "request", "", t=None, **asdict(request))

    return write
