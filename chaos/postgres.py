"""A PostgreSQL of a run's own: Debian's binaries, a cluster of its own, on loopback, with fsync on. It dies with us.

PostgreSQL refuses to run as root: then it runs as `postgres`, or as `nobody`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg

from reference.core.errors import ServiceError
from reference.engine.leftovers import started
from reference.stack import HOST, free_port
from reference.support.processes import ends_with_us, tail

USER = "blackstart"
PATIENCE_S = 30.0
"""How long it may take to start, and to be gone."""
SOCKET_PORT = 5432
"""Only part of a socket's name: nothing listens on TCP then."""
_POLL_S = 0.02
_RUN_AS = ("postgres", "nobody")
# The kernel ends what it started with the thread that forked, so that is one that lasts as long as we do.
_STARTER = ThreadPoolExecutor(1, "postgres")


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, the newest where there are several."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True
    )
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def missing() -> str:
    """Why none can run here, in a few words; empty when nothing speaks against it."""
    if binaries() is None:
        return "postgresql is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and _account() is None:
        return "it refuses to run as root, and there is no user postgres or nobody"
    return ""


def _account() -> pwd.struct_passwd | None:
    """Whom to run it as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in _RUN_AS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class Postgres:
    """`start` it, `create_database`, `kill` and `start` it again, `stop` it: then its data is gone. Blocks."""

    def __init__(self, folder: Path, *, tcp: bool = True) -> None:
        """Makes the cluster, which is not started yet: half a second. Raises ServiceError where it cannot be.

        `folder`: for its log, and for its data where its user can get there; else the data is in a temporary folder.
        `tcp`: it listens on a port of loopback and asks for a password; otherwise on a socket beside its data.
        """
        if reason := missing():
            raise ServiceError(f"no PostgreSQL can run here: {reason}", where=str(folder))
        self._bin = binaries() or Path()
        self._account = _account()
        self._tcp = tcp
        self.port = free_port() if tcp else SOCKET_PORT
        self.log = folder / "postgres.log"
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        folder.mkdir(parents=True, exist_ok=True)
        self._home = self._place(folder)
        try:
            self._make_cluster()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int | None:
        """The postmaster's, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it, or start it again on the same port, and wait until it answers. Raises ServiceError with its log."""
        if self.pid is not None:
            return
        listens = (HOST, "") if self._tcp else ("", str(self._home))
        settings = {
            "listen_addresses": listens[0], "unix_socket_directories": listens[1], "port": str(self.port),
            "fsync": "on", "synchronous_commit": "on", "max_connections": "200", "shared_buffers": "64MB",
        }  # fmt: skip
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = process = _STARTER.submit(self._spawn, arguments).result()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self._dsn("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    self._end()
                    raise ServiceError(
                        f"PostgreSQL did not come up ({error}); the end of its log:\n{tail(self.log)}",
                        where=str(self.log),
                    ) from None
                time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL, as a crash would: the postmaster, and its children, which would end with it. Again is success."""
        if self._process is None or self.pid is None:
            return
        children = self._children()
        self._process.kill()
        self._process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while any(started(child) is not None for child in children):
            if time.monotonic() > deadline:
                raise ServiceError("processes of PostgreSQL survive SIGKILL", where=str(children))
            time.sleep(_POLL_S)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It neither answers nor goes away: every process of it is stopped, the postmaster first."""
        if self.pid is None:
            raise ServiceError("PostgreSQL does not run", where=str(self.log), todo="Start it.")
        pids = [self.pid]
        os.kill(pids[0], signal.SIGSTOP)
        try:
            pids += self._children()
            for pid in pids[1:]:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it, and remove its data; the log stays."""
        self._end()
        shutil.rmtree(self._home, ignore_errors=True)

    # ---- databases

    def create_database(self, template: str | None = None, *, name: str = "") -> str:
        """The URL of a new database, with all that the template has; empty without one."""
        name = name or f"blackstart_{next(self._numbers)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE {template or "template0"}')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Whoever is connected is thrown out."""
        name = url.partition("?")[0].rpartition("/")[2]
        self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def url(self, database: str, *, port: int | None = None) -> str:
        """For SQLAlchemy. `port`: of what stands between, such as a proxy."""
        if not self._tcp:
            return f"postgresql+psycopg://{USER}@/{database}?host={self._home}&port={self.port}"
        return f"postgresql+psycopg://{USER}:{self._password}@{HOST}:{port or self.port}/{database}"

    # ---- inside

    def _place(self, folder: Path) -> Path:
        """Where its data is: in `folder` when its user can get there. A folder of root's alone is none such."""
        home = folder / "postgres"
        home.mkdir(exist_ok=True)
        if self._account is None:
            return home
        if self._run("/bin/sh", "-c", 'cd "$1"', "sh", str(home)):
            home.rmdir()
            home = Path(tempfile.mkdtemp(prefix="blackstart-pg-"))
        os.chown(home, self._account.pw_uid, self._account.pw_gid)
        home.chmod(0o700)
        return home

    def _make_cluster(self) -> None:
        word = self._home / "password"
        word.touch(0o600)
        word.write_text(self._password)
        if self._account is not None:
            os.chown(word, self._account.pw_uid, self._account.pw_gid)
        said = self._run(
            str(self._bin / "initdb"), "-D", str(self._home / "data"), "-U", USER, "--no-sync", "-E", "UTF8",
            "--locale=C.UTF-8", f"--auth={'scram-sha-256' if self._tcp else 'trust'}", f"--pwfile={word}",
        )  # fmt: skip
        word.unlink()
        if said:
            raise ServiceError(f"initdb failed: {said}", where=str(self._home))

    def _run(self, *command: str) -> str:
        """Run a command as its user; what it said when it failed, empty when it did not."""
        user = self._account.pw_name if self._account is not None else None
        done = subprocess.run(command, capture_output=True, text=True, user=user, cwd="/", check=False)
        return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"

    def _spawn(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        user = self._account.pw_name if self._account is not None else None
        with self.log.open("ab") as log:
            # SIGQUIT is its immediate shutdown: a run that was killed leaves no database behind.
            return subprocess.Popen(
                [self._bin / "postgres", "-D", self._home / "data", *arguments], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, user=user, cwd="/", preexec_fn=ends_with_us(signal.SIGQUIT),  # noqa: PLW1509 - it only makes a system call
            )  # fmt: skip

    def _end(self) -> None:
        if self._process is None or self.pid is None:
            return
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _children(self) -> list[int]:
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(child) for child in listed.split()]

    def _dsn(self, name: str) -> str:
        if not self._tcp:
            return f"host={self._home} port={self.port} user={USER} dbname={name}"
        return f"host={HOST} port={self.port} user={USER} password={self._password} dbname={name}"

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())
