"""A PostgreSQL of the tests' own: Debian's, in a folder of its own, on a socket of its own, with fsync on.

PostgreSQL refuses to run as root: then it runs as `postgres`, or as `nobody`. Where it is not installed, whoever asks
for it is skipped and says so.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

PATIENCE_S = 30.0
PORT = 5432
"""Only part of the socket's name: nothing listens on TCP."""
TEMPLATE = "blackstart_template"
PR_SET_PDEATHSIG = 1


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, the newest where there are several."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True
    )
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def _user() -> str | None:
    """Whom to run it as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    pytest.skip("postgresql: it refuses to run as root, and there is no user postgres or nobody")


def _end_with_parent() -> None:
    # SIGQUIT is its immediate shutdown: a test run that was killed leaves no database behind.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


class Postgres:
    """`start` it, `create_database`, `kill` and `start` it again, `stop` it: then the folder is gone."""

    def __init__(self) -> None:
        found = binaries()
        if found is None:
            pytest.skip("postgresql: not installed (Debian: apt-get install postgresql)")
        self._bin = found
        self._user = _user()
        # Not under pytest's own folder: that is root's alone.
        self.folder = Path(tempfile.mkdtemp(prefix="blackstart-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "blackstart", "--auth=trust", "--no-sync",
                  "-E", "UTF8", "--locale=C.UTF-8")  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "unix_socket_directories": str(self.folder), "listen_addresses": "", "port": str(PORT), "fsync": "on",
            "synchronous_commit": "on", "max_connections": "200", "shared_buffers": "64MB",
        }  # fmt: skip
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.folder / "data", *arguments], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, user=self._user, cwd="/", preexec_fn=_end_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self._dsn("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, as a crash would: the postmaster, whose children end with it."""
        assert self._process is not None
        children = self._children()
        self._process.kill()
        self._process.wait()
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + PATIENCE_S
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _children(self) -> list[int]:
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(child) for child in listed.split()]

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It neither answers nor goes away: every process of it is stopped, the postmaster first."""
        assert self._process is not None
        pids = [self._process.pid]
        os.kill(pids[0], signal.SIGSTOP)
        try:
            pids += self._children()
            for pid in pids[1:]:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it, and remove all of it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self, template: str | None = TEMPLATE) -> str:
        """The URL of a new database, with the schema that the template has; None for an empty one."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'}")
        return self.url(name)

    def create_template(self) -> str:
        """The URL of the template: fill it, and leave it alone."""
        self._execute(f"CREATE DATABASE {TEMPLATE}")
        return self.url(TEMPLATE)

    def drop_database(self, url: str) -> None:
        """Whoever is connected is thrown out."""
        name = url.rpartition("?")[0].rpartition("/")[2]
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://blackstart@/{name}?host={self.folder}&port={PORT}"

    def _dsn(self, name: str) -> str:
        return f"host={self.folder} port={PORT} user=blackstart dbname={name}"

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / name, *arguments], capture_output=True, user=self._user, cwd="/", check=False
        )
        assert done.returncode == 0, done.stderr.decode()


@functools.cache
def available() -> bool:
    """Whether it is installed here."""
    return binaries() is not None
