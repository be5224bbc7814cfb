"""The agent as a process: looked at while it runs, after it was killed, and after it was asked to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from reference.pki import DevelopmentCA
from reference.protocol.envelope import generate_key, write_public_key

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A device whose broker is nowhere."""
    authority = DevelopmentCA.open_or_create(tmp_path / "ca")
    files = authority.issue_device("acme", "edge-1")
    write_public_key(generate_key(), tmp_path / "command.pem")
    body = {
        "tenant_id": "acme",
        "client_id": "edge-1",
        "state_dir": "unused",
        "broker": {
            "host": "127.0.0.1",
            "port": 9,
            "ca": str(files.ca),
            "cert": str(files.cert),
            "key": str(files.key),
        },
        "registries": [],
        "client": {"port": 9},
        "command_keys": [str(tmp_path / "command.pem")],
        "ballast_bytes": 65536,
    }
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(body))
    return path


def words(config: Path, *more: str) -> list[str]:
    return ["--config", str(config), "--data", str(config.parent / "data"), *more]


@contextmanager
def agent(config: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "reference.edge.main", *words(config, "--port", "0")],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "BLACKSTART_EDGE_HEARTBEAT_MS": "1000"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def look(config: Path, what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reference.edge.inspect", what, *words(config, "--json")],
        cwd=ROOT, text=True, capture_output=True, timeout=30,
    )  # fmt: skip


def test_a_device_can_be_looked_at_whatever_its_agent_does(config: Path) -> None:
    with agent(config) as (process, ready):
        assert ready["ready"] is True
        with httpx.Client(base_url=f"http://127.0.0.1:{ready['status_port']}", trust_env=False) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").json()["checks"]["broker"] is False
            assert "blackstart_edge_phase" in client.get("/metrics").text
        found = json.loads(look(config, "status").stdout)
        assert (found["source"], found["live"]["pid"]) == ("agent", process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = json.loads(look(config, "status").stdout)
    assert killed["source"] == "file"
    assert killed["memory"] == found["memory"]
    with agent(config) as (process, _):
        process.terminate()
        assert process.wait(20) == 0
    assert not (config.parent / "data" / "run" / "agent.sock").exists()
    assert (config.parent / "data" / "state" / "ballast").stat().st_size == 65536
    ended = look(config, "journal")
    assert (ended.returncode, json.loads(ended.stdout)["source"]) == (0, "file")
