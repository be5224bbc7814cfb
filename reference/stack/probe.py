"""One question to a client, from outside: how are you, and which version?"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass

from reference.stack.folder import HOST

PROBE_TIMEOUT_S = 0.25
ANSWER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """One probe: when it was sent and answered (wall time, ms), and what came back."""

    sent_ms: float
    answered_ms: float
    good: bool
    version: str | None


def ask(port: int) -> Answer:
    """One probe of the client's `/healthz`."""
    sent = time.time() * 1000
    good, version = False, None
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT_S) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            data = b""
            while chunk := connection.recv(4096):
                data += chunk
                if len(data) > ANSWER_BYTES:
                    break
        head, _, body = data.partition(b"\r\n\r\n")
        good = head.split(b" ", 2)[1:2] == [b"200"]
        version = str(json.loads(body).get("version"))
    except (OSError, ValueError, AttributeError):
        good = False
    return Answer(sent, time.time() * 1000, good, version)
