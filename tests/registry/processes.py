"""A registry as a process of its own, on a port that the system chose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Running:
    """A registry that answers. `base` is its address."""

    process: subprocess.Popen[str]
    data: Path
    port: int
    scheme: str = "http"

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.host}"

    def stop(self) -> int:
        """SIGTERM; answers the exit code."""
        self.process.terminate()
        return self.process.wait(10)


@contextmanager
def registry(data: Path, *arguments: str, port: int = 0) -> Iterator[Running]:
    """Start one, wait for its ready line, end it by its id. Nothing that a test does may make it print a traceback."""
    command = [
        sys.executable,
        "-m",
        "reference.registry",
        "--data",
        str(data),
        "--port",
        str(port),
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            ready = json.loads(line)
            assert ready["ready"] is True
            yield Running(process, data, ready["port"], "https" if "--tls-cert" in arguments else "http")
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                _, errors = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert "Traceback" not in errors, errors


def refused(data: Path, *arguments: str) -> str:
    """Start one that must not start; answers what it said."""
    command = [sys.executable, "-m", "reference.registry", "--data", str(data), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=20)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr
