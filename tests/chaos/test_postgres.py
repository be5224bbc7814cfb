"""A PostgreSQL of a run's own: on loopback, for us alone, durable, and gone with us."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from chaos import postgres
from chaos.faults._parts import ended
from chaos.postgres import Postgres
from reference.core.errors import ServiceError
from reference.engine.leftovers import started

ALIVE = """
import sys, time
from pathlib import Path
from chaos.postgres import Postgres
server = Postgres(Path(sys.argv[1]))
server.start()
print(server.pid, server._home, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if reason := postgres.missing():
        pytest.skip(f"postgresql: {reason}")
    made = Postgres(tmp_path_factory.mktemp("postgres"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def connected(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        url.replace("postgresql+psycopg:", "postgresql:"), connect_timeout=5, autocommit=True
    )


def test_what_was_committed_survives_a_kill(server: Postgres) -> None:
    url, port = server.create_database(), server.port
    with connected(url) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('here')")
    pid = server.pid
    server.kill()
    assert server.pid is None
    server.kill()
    with pytest.raises(psycopg.OperationalError):
        connected(url)
    server.start()
    server.start()
    assert server.pid != pid
    assert (server.port, server.url("x")) == (port, url.rpartition("/")[0] + "/x")
    with connected(url) as connection:
        assert connection.execute("SELECT word FROM kept").fetchone() == ("here",)
    server.drop_database(url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connected(url)


def test_it_asks_for_a_password(server: Postgres) -> None:
    url = server.url("postgres")
    word = url.partition("blackstart:")[2].partition("@")[0]
    assert len(word) >= 24
    with pytest.raises(psycopg.OperationalError, match="password"):
        connected(url.replace(word, "guessed"))


def test_something_may_stand_between(server: Postgres) -> None:
    assert server.url("one", port=5).endswith("@127.0.0.1:5/one")


def test_one_that_hangs_does_not_answer_and_goes_on(server: Postgres) -> None:
    url = server.create_database(name="hung")
    with server.hanging(), pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(url.replace("postgresql+psycopg:", "postgresql:"), connect_timeout=2)
    with connected(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_thread_that_ends_does_not_take_it_along(server: Postgres) -> None:
    server.kill()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with connected(server.url("postgres")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


async def test_it_dies_with_us(tmp_path: Path, server: Postgres) -> None:
    assert server.pid is not None, "there is one to be had"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALIVE, str(tmp_path), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    pid, home = (await process.stdout.readline()).decode().split()
    try:
        assert started(int(pid)) is not None
        process.kill()
        await process.wait()
        assert await ended([int(pid)], 20.0)
    finally:
        shutil.rmtree(home)


def test_its_data_is_where_its_user_can_get_to_and_goes_when_it_is_stopped(server: Postgres) -> None:
    assert server.pid is not None, "there is one to be had"
    # Not under pytest's own folder: that is its user's alone.
    folder = Path(tempfile.mkdtemp(prefix="blackstart-test-"))
    folder.chmod(0o755)
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    try:
        for place, inside in ((folder, True), (closed, os.geteuid() != 0)):
            one = Postgres(place)
            home = one._home
            assert (folder in home.parents) is inside
            one.stop()
            assert not home.exists()
        busy = Postgres(folder)
        with socket.create_server(("127.0.0.1", busy.port)), pytest.raises(ServiceError, match="in use"):
            busy.start()
        assert busy.pid is None
        busy.start()
        busy.stop()
        assert busy.log.exists(), "its log stays"
        assert [path.name for path in folder.iterdir() if path != closed] == [busy.log.name]
    finally:
        shutil.rmtree(folder)


def test_where_it_is_not_installed_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "binaries", lambda: None)
    assert "not installed" in postgres.missing()
    with pytest.raises(ServiceError, match="not installed"):
        Postgres(tmp_path)
    monkeypatch.undo()
    if postgres.binaries() is not None:
        monkeypatch.setattr(postgres, "_account", lambda: None)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert "root" in postgres.missing()


def test_one_that_is_down_cannot_hang(server: Postgres) -> None:
    server.kill()
    with pytest.raises(ServiceError, match="does not run"), server.hanging():
        pass
    server.start()
