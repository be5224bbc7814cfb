"""CNCF's Distribution (Debian: docker-registry) in the place of our registry: started with the arguments of ours.

    python -m chaos.distribution --data FOLDER --users FILE --port N

Says `{"ready": true, "port": N}` once it answers; ends it on SIGTERM, and with itself. Its accounts are those of a bench,
with one password that is known here: Distribution reads nothing but bcrypt, which nothing of ours can make.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from reference.stack import HOST, REGISTRY_USER
from reference.stack.images import PUBLISHER
from reference.support.processes import ends_with_us

PROGRAM = "docker-registry"
PASSWORD = "s3cret"  # noqa: S105 - of a registry on loopback that lives for one run
_HASHED = "$2b$04$FomUrAvuPLpgW8zKIOTDvef.Br18Jj0kiXy6ZZGnY2yar8f.Iff/K"
READY_S = 15.0


def write_accounts(folder: Path) -> None:
    """The passwords that the stack gives to devices and to whoever pushes, before it makes some of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for account in (REGISTRY_USER, PUBLISHER):
        path = folder / f"{account}-password"
        path.write_text(PASSWORD, encoding="utf-8")
        path.chmod(0o600)


def _configured(data: Path, port: int) -> Path:
    folder = data.parent
    htpasswd, config = folder / "htpasswd", folder / "distribution.yml"
    htpasswd.write_text(
        "".join(f"{name}:{_HASHED}\n" for name in (REGISTRY_USER, PUBLISHER)), encoding="utf-8"
    )
    body = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(data)}, "delete": {"enabled": True}},
        "auth": {"htpasswd": {"realm": "bench", "path": str(htpasswd)}},
        "http": {"addr": f"{HOST}:{port}"},
    }
    config.write_text(json.dumps(body), encoding="utf-8")  # JSON is YAML.
    return config


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1.0)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """The exit code: 0 ended as asked, 1 it did not come up or ended by itself, 2 it is not installed."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--users", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    program = shutil.which(PROGRAM)
    if program is None:
        sys.stderr.write(f"{PROGRAM} is not installed\n")
        return 2
    child = subprocess.Popen(
        [program, "serve", str(_configured(options.data, options.port))], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=sys.stderr, preexec_fn=ends_with_us(signal.SIGKILL),  # noqa: PLW1509
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    end = time.monotonic() + READY_S
    while not _answers(options.port):
        if child.poll() is not None or time.monotonic() > end:
            child.kill()
            return 1
        time.sleep(0.02)
    sys.stdout.write(json.dumps({"ready": True, "port": options.port}) + "\n")
    sys.stdout.flush()
    return 0 if child.wait() in (0, -signal.SIGTERM, 2) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
