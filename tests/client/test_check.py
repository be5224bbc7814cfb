"""The image's HEALTHCHECK says what the client in its own container says."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reference.client.app import check


@contextmanager
def answering(listener: socket.socket, status: bytes, body: bytes = b'{"status": "ok"}') -> Iterator[None]:
    """Somebody who answers once."""

    def once() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n\r\n" + body)

    listener.listen()
    thread = threading.Thread(target=once, daemon=True)
    thread.start()
    yield
    thread.join(timeout=10)
    listener.close()


@pytest.fixture
def tcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"port": listener.getsockname()[1], "host": "0.0.0.0"}))
    monkeypatch.setattr(check, "CONFIG", str(config))
    return listener


@pytest.mark.parametrize(
    ("status", "code"), [(b"200 OK", 0), (b"503 Service Unavailable", 1), (b"nonsense", 1)]
)
def test_what_it_answers_is_the_exit_code(
    tcp: socket.socket, status: bytes, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(tcp, status):
        assert check.main() == code
    assert capsys.readouterr().out == '{"status": "ok"}\n'


def test_nobody_there(tcp: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    tcp.close()
    assert check.main() == 1
    assert "no answer: " in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_configuration_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    monkeypatch.setattr(check, "CONFIG", str(tmp_path / "config.json"))
    assert check.main() == 1


def test_one_that_waits_is_asked_itself(tcp: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"blackstart-standby-test-{id(tcp)}"
    monkeypatch.setenv("BLACKSTART_STANDBY", name)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.bind("\0" + name)
    with answering(waiting, b"503 Not Yet"):
        assert check.main() == 1
    with answering(tcp, b"200 OK"):
        assert check.main() == 0, "its turn has come: it listens like any other"


def test_it_needs_the_standard_library_only() -> None:
    code = "import runpy, sys; sys.argv = ['check']; runpy.run_path(sys.argv[0] and %r, run_name='seen')"
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", code % str(check.__file__)], check=True, capture_output=True
    )
