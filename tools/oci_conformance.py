"""OCI's conformance suite of the distribution specification, against a fresh registry.

The suite is a Go program: it is fetched by the Go tool in a pinned version, checked by Go's checksum database, built
once into the cache folder, and never part of this project. `--registry debian` and `--registry cncf` run it against
other registries, for comparison. Prints one line of JSON for each run. Exit code 0: no check failed; 1: some did, and
their names are on stderr; 2: the suite cannot be had here (no Go, no network), or a registry is not there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SUITE = "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"
CNCF = "github.com/distribution/distribution/v3/cmd/registry@v3.0.0"
BUILD_S, RUN_S, START_S = 600, 300, 10
USER, PASSWORD = "conformance", "conformance"
CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class CannotRunError(Exception):
    """Something is not here; the text says what."""


@dataclass(frozen=True)
class Counts:
    """What the suite said at its end."""

    passed: int
    failed: int
    skipped: int
    disabled: int
    total: int


def built(cache: Path, module: str) -> Path:
    """The program of a Go module in a version, built once. Raises CannotRunError."""
    name, _, version = module.partition("@")
    program = cache / version / name.rpartition("/")[2]
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise CannotRunError("Go is not installed")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as folder:
        environment = {
            **os.environ,
            "GOPATH": f"{folder}/go",
            "GOCACHE": f"{folder}/cache",
            "GOBIN": f"{folder}/bin",
        }
        environment["GOFLAGS"] = "-modcacherw -buildvcs=false"
        environment.pop("GOMODCACHE", None)
        done = subprocess.run(
            ["go", "install", module],
            check=False,
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
        )
        if done.returncode != 0:
            raise CannotRunError(f"{module} cannot be built: {done.stderr.strip()[-500:]}")
        program.parent.mkdir(exist_ok=True)
        (Path(folder) / "bin" / program.name).replace(program)
    return program


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def command_of(registry: str, scheme: str, folder: Path, port: int, cache: Path) -> list[str]:
    """How to start a registry with an empty folder. Raises CannotRunError."""
    if registry == "ours":
        from reference.registry.users import RegistryUsers, make_user

        start = [
            sys.executable,
            "-m",
            "reference.registry",
            "--data",
            str(folder / "data"),
            "--port",
            str(port),
        ]
        if scheme == "none":
            return [*start, "--no-auth"]
        users = folder / "users.json"
        RegistryUsers({USER: make_user(USER, PASSWORD, push=True)}).save(users)
        return [*start, "--users", str(users), "--auth", scheme]
    program = shutil.which("docker-registry") if registry == "debian" else str(built(cache, CNCF))
    if program is None:
        raise CannotRunError("docker-registry is not installed")
    config = folder / "config.yml"
    config.write_text(CONFIG.format(root=folder / "data", port=port))
    return [program, "serve", str(config)]


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Start it, wait until it answers, end it."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet) as process:
        try:
            deadline = time.monotonic() + START_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if time.monotonic() > deadline or process.poll() is not None:
                    raise CannotRunError(f"{command[0]} does not start")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def run(suite: Path, registry: str, scheme: str, version: str, cache: Path) -> tuple[Counts, list[str]]:
    """Run the suite once: its counts, and the names of the checks that failed. Raises CannotRunError."""
    with tempfile.TemporaryDirectory(prefix="oci-conformance-") as temporary:
        folder, port = Path(temporary), free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OCI_")}
        environment |= {
            "OCI_REGISTRY": f"127.0.0.1:{port}",
            "OCI_TLS": "disabled",
            "OCI_VERSION": version,
            "OCI_LOG": "error",
            "OCI_RESULTS_DIR": str(folder / "results"),
        }
        if registry == "ours" and scheme != "none":
            environment |= {"OCI_USERNAME": USER, "OCI_PASSWORD": PASSWORD}
        with running(command_of(registry, scheme, folder, port, cache), port):
            done = subprocess.run(
                [str(suite)],
                check=False,
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=RUN_S,
            )
        return counts_of(done.stdout + done.stderr), failures_of(folder / "results" / "junit.xml")


def counts_of(said: str) -> Counts:
    """Read the table at the end of what the suite prints. Raises CannotRunError."""
    found = {word: int(number) for word, number in re.findall(r"^ +(\w+)\.+: +([0-9]+)$", said, re.MULTILINE)}
    try:
        failed = found["FAIL"] + found["Error"]
        return Counts(found["Pass"], failed, found["Skip"], found["Disabled"], found["Total"])
    except KeyError:
        raise CannotRunError(f"the suite did not end with its counts: {said.strip()[-500:]}") from None


def failures_of(report: Path) -> list[str]:
    """Names of the checks that failed."""
    if not report.exists():
        return []
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return [case.get("name", "?") for case in cases if case.find("failure") is not None]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="oci-conformance", description=__doc__)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--cache", type=Path, default=home / "blackstart" / "oci-conformance")
    parser.add_argument("--registry", choices=["ours", "debian", "cncf"], default="ours")
    parser.add_argument("--auth", choices=["none", "basic", "token"], default="token", help="of ours")
    parser.add_argument("--version", default="1.1", help="1.1, or dev for what comes after it")
    given = parser.parse_args()
    cache = given.cache.absolute()
    try:
        suite = built(cache, SUITE)
        counts, failed = run(suite, given.registry, given.auth, given.version, cache)
    except (CannotRunError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"oci-conformance: {error}\n")
        return 2
    said = {"registry": given.registry, "version": given.version, **counts.__dict__}
    print(json.dumps(said))
    for name in failed if given.registry == "ours" else []:
        sys.stderr.write(f"failed: {name}\n")
    return 0 if counts.failed == 0 and counts.passed > 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
