"""The wire from a device's own network to what is outside it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reference.power.wire import Wire

LONG = bytes(range(256)) * 4096


@pytest.fixture
def outside() -> Iterator[str]:
    """Answers each line with a long text; its address."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                asked, _ = server.accept()
            except OSError:
                return
            with asked, asked.makefile("rb") as lines:
                if lines.readline():
                    asked.sendall(LONG)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def ask(listening: socket.socket) -> bytes:
    with socket.create_connection(listening.getsockname(), timeout=10) as line, line.makefile("rb") as answer:
        line.sendall(b"?\n")
        return answer.read()


def test_it_carries_what_connects_to_the_newest_socket_and_nothing_else(outside: str, tmp_path: Path) -> None:
    with closing(Wire(outside, tmp_path / "log")) as wire:
        with socket.create_server(("127.0.0.1", 0)) as first:
            wire.lead(first)
            assert ask(first) == LONG
            assert ask(first) == LONG
            name = first.getsockname()
        with socket.create_server(("127.0.0.1", 0)) as second:
            wire.lead(second)
            assert ask(second) == LONG
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(name, timeout=10)
    assert (tmp_path / "log").read_text("utf-8") == ""
