"""`python -m tools.bench_downtime_device CONFIG KEY LINE`: the device of `make bench-downtime`.

The agent of the field with its own limits, on any runtime; only MQTT is a socket (see `reference.power.device`).
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

from reference.core.limits import DEFAULT_LIMITS
from reference.edge.settings import EdgeSettings
from reference.power.device import Boot, boot
from reference.protocol.envelope import key_ring, load_public_key


def main() -> None:
    """Run until SIGTERM; the client goes on."""
    config, key, handle = sys.argv[1:4]
    settings = EdgeSettings.model_validate_json(Path(config).read_text("utf-8"))
    limits = replace(DEFAULT_LIMITS, **settings.limits)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        boot(Boot(settings, limits, key_ring(load_public_key(Path(key))), socket.socket(fileno=int(handle))))


if __name__ == "__main__":
    main()
