"""Push and pull of one large blob: the registry here against Debian's `docker-registry`, in one run on one machine.

Both keep their data in the same temporary folder's file system and are spoken to by the same client over loopback:
new random content each round (POST, then PUT of everything; then GET, thrown away as it comes), the two in turn. Numbers
are medians of the rounds. Run it from the project's folder: `.venv/bin/python tools/bench_registry.py [--json]`.
Exit code 0: both ratios at most --at-most, and memory flat; 1: not; 2: docker-registry is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OTHER = "docker-registry"
START_S = 10.0
FLAT_KIB = 48 << 10
"""How much the peak may grow from the first request to the last: a few pieces, never the blob."""
CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, cache: {{blobdescriptor: inmemory}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass
class Contestant:
    """One registry that runs, and its times in seconds."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    push_s: list[float] = field(default_factory=list)
    pull_s: list[float] = field(default_factory=list)
    first_kib: int = 0
    last_kib: int = 0

    def peak_kib(self) -> int:
        """The most memory that the process ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1])

    def round(self, data: bytes, digest: str) -> None:
        """One push and one pull."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120, blocksize=1 << 18)
        began = time.perf_counter()
        connection.request("POST", "/v2/bench/blobs/uploads/", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        answer.read()
        location = answer.headers["Location"].partition(f":{self.port}")[2] or answer.headers["Location"]
        target = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        connection.request("PUT", target, data, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, (self.name, answer.status)
        pushed = time.perf_counter()
        connection.request("GET", f"/v2/bench/blobs/{digest}")
        answer = connection.getresponse()
        room, count = bytearray(1 << 18), 0
        while got := answer.readinto(room):
            count += got
        assert count == len(data), (self.name, count)
        self.pull_s.append(time.perf_counter() - pushed)
        self.push_s.append(pushed - began)
        connection.close()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(name: str, folder: Path, port: int) -> Iterator[Contestant]:
    """Start one and wait until it answers."""
    if name == OTHER:
        config = folder / "config.yml"
        config.write_text(CONFIG.format(root=folder / "other", port=port))
        command = [OTHER, "serve", str(config)]
    else:
        command = [sys.executable, "-m", "reference.registry", "--no-auth", "--port", str(port)]
        command += ["--data", str(folder / "ours")]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet) as process:
        try:
            deadline = time.monotonic() + START_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{name} does not start")
                time.sleep(0.05)
            yield Contestant(name, process, port)
        finally:
            process.terminate()


def measure(megabytes: int, rounds: int) -> list[Contestant]:
    """All rounds. The first of each is for warming up and does not count."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-registry-") as temporary,
        running("blackstart", Path(temporary), free_port()) as ours,
        running(OTHER, Path(temporary), free_port()) as other,
    ):
        for number in range(rounds + 1):
            data = os.urandom(megabytes * 1_000_000 if number else 1_000_000)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            for contestant in (ours, other) if number % 2 else (other, ours):
                os.sync()  # Nobody pays for what the one before left unwritten.
                contestant.round(data, digest)
                if number == 0:
                    contestant.push_s.clear()
                    contestant.pull_s.clear()
                    contestant.first_kib = contestant.peak_kib()
        for contestant in (ours, other):
            contestant.last_kib = contestant.peak_kib()
        return [ours, other]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-most", type=float, default=2.0, help="largest ratio that is a success")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if shutil.which(OTHER) is None:
        sys.stderr.write(f"{OTHER} is not installed\n")
        return 2
    ours, other = measure(given.megabytes, given.rounds)
    numbers: dict[str, object] = {"machine": machine(), "megabytes": given.megabytes, "rounds": given.rounds}
    ratios = []
    for what in ("push", "pull"):
        mine, theirs = (statistics.median(getattr(c, f"{what}_s")) for c in (ours, other))
        ratios.append(mine / theirs)
        numbers[what] = {
            "ours_ms": round(mine * 1000),
            "other_ms": round(theirs * 1000),
            "ratio": round(mine / theirs, 2),
        }
    growth = ours.last_kib - ours.first_kib
    numbers["memory"] = {
        "ours_peak_kib": ours.last_kib,
        "ours_growth_kib": growth,
        "other_peak_kib": other.last_kib,
    }
    good = max(ratios) <= given.at_most and growth <= FLAT_KIB
    numbers["good"] = good
    if given.json:
        print(json.dumps(numbers))
    else:
        for key, value in numbers.items():
            print(f"{key}: {value}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
