"""The image's HEALTHCHECK: exit code 0 when the client in this container says that it is well, else 1.

Run by the engine inside the container, `python -I -S /app/check.py`, so it asks this client and no other: one that
waits for its turn answers on the socket that BLACKSTART_STANDBY names, and only there.
"""

import json
import os
import socket
import sys

CONFIG = "/etc/opc-client/config.json"
TIMEOUT_S = 2.0
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: client\r\nConnection: close\r\n\r\n"


def connected() -> socket.socket:
    """To this container's client. Raises OSError, ValueError."""
    if standby := os.environ.get("BLACKSTART_STANDBY"):
        waiting = socket.socket(socket.AF_UNIX)
        waiting.settimeout(TIMEOUT_S)
        try:
            waiting.connect("\0" + standby)
            return waiting
        except OSError:  # it is the active one
            waiting.close()
    with open(CONFIG, "rb") as file:  # noqa: PTH123 - pathlib costs milliseconds
        found = json.load(file)
    host = found.get("host", "127.0.0.1")
    return socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, found["port"]), TIMEOUT_S)  # noqa: S104


def main() -> int:
    """What the engine wants to know; what it shows of it (the last five) is printed."""
    try:
        with connected() as asked:
            asked.sendall(REQUEST)
            answer = b""
            while chunk := asked.recv(4096):
                answer += chunk
    except (OSError, ValueError, KeyError, AttributeError) as error:
        sys.stdout.write(f"no answer: {error}\n")
        return 1
    sys.stdout.write(answer.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")[:1000] + "\n")
    return 0 if answer.split(b" ", 2)[1:2] == [b"200"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
