"""The registry as a process: settings, the listening socket, and a stop that is prompt and clean."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from reference.core.errors import InputError
from reference.registry.access import Access, Scheme
from reference.registry.app import MAX_BLOB_BYTES, create_app
from reference.registry.collect import GRACE_S, Periodic
from reference.registry.storage import Storage
from reference.registry.users import RegistryUsers
from reference.support.addresses import is_loopback
from reference.support.files import allow_many_files

_uvicorn_log = logging.getLogger("uvicorn.error")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How a registry runs. Port 0 lets the system choose. Exactly one of `users_file` and `no_auth`.

    `gc_every_s` 0: garbage is collected only by `python -m reference.registry gc`.
    """

    data: Path
    port: int
    host: str = "127.0.0.1"
    no_auth: bool = False
    users_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_blob_bytes: int = MAX_BLOB_BYTES
    scheme: Scheme = Scheme.BASIC
    anonymous_pull: bool = False
    token_realm: str | None = None
    gc_every_s: int = 0
    gc_grace_s: int = GRACE_S

    def check(self) -> None:
        """Raises InputError for settings that contradict each other or would be unsafe."""
        if not 0 <= self.port <= 65535:
            raise InputError(f"{self.port} is not a port", where="--port", todo="Use 0 to 65535.")
        if self.no_auth and self.users_file is not None:
            raise InputError("excludes --users", where="--no-auth", todo="Give one of them.")
        if not self.no_auth and self.users_file is None:
            raise InputError("nobody could pull", where="registry", todo="Give --users FILE, or --no-auth.")
        self._check_access()
        if self.gc_every_s < 0 or self.gc_grace_s < 0:
            raise InputError("is less than no time", where="--gc-every, --gc-grace")
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise InputError("only one of the two is given", where="--tls-cert, --tls-key")
        if is_loopback(self.host):
            return
        if self.no_auth:
            raise InputError(
                f"would let everyone who reaches {self.host} change the images",
                where="--no-auth",
                todo="Use --host 127.0.0.1, or --users FILE with TLS.",
            )
        if self.tls_cert is None:
            raise InputError(
                f"passwords would cross the network to {self.host} in the clear",
                where="--host",
                todo="Give --tls-cert and --tls-key.",
            )

    def _check_access(self) -> None:
        if self.no_auth and (self.scheme is Scheme.TOKEN or self.anonymous_pull):
            raise InputError(
                "makes no sense where nobody has an account",
                where="--auth, --anonymous-pull",
                todo="Give --users.",
            )
        realm = self.token_realm
        if realm is not None and (
            not realm.startswith(("http://", "https://")) or set(realm) & set('" ,\\\r\n')
        ):
            raise InputError(f"{realm!r} is not an address", where="--token-realm", todo="Give http(s)://...")


def serve(settings: RegistrySettings, *, on_ready: Callable[[int], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT. `on_ready` is called with the port; by default a JSON line on stdout says it.

    Transfers that are under way at the stop are cut: an upload that was cut is not visible, and nothing else can
    suffer. Raises InputError before anything listens.
    """
    settings.check()
    allow_many_files()
    users = RegistryUsers.load(settings.users_file) if settings.users_file is not None else None
    storage = Storage(settings.data)
    try:
        listener = _listen(settings.host, settings.port)
        collector = Periodic(storage, every_s=settings.gc_every_s, grace_s=settings.gc_grace_s)
        with contextlib.closing(listener), collector:
            access = Access(users, settings.scheme, settings.anonymous_pull, settings.token_realm)
            app = create_app(storage, access, max_blob_bytes=settings.max_blob_bytes)
            _uvicorn_log.setLevel(logging.ERROR)  # Strangers' bad requests are answered, not logged.
            server = _Server(_config(app, settings), on_ready or say_ready)
            server.run(sockets=[listener])
    finally:
        _uvicorn_log.setLevel(logging.NOTSET)
        storage.close()


def say_ready(port: int) -> None:
    """The line that whoever started this process waits for."""
    sys.stdout.write(json.dumps({"ready": True, "port": port}) + "\n")
    sys.stdout.flush()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except OSError as error:
        raise InputError(
            f"cannot listen there: {error.strerror}", where=f"{host}:{port}", todo="Choose another port."
        ) from error


def _config(app: object, settings: RegistrySettings) -> uvicorn.Config:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="asyncio",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=0,
        timeout_keep_alive=30,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"cannot be used for TLS: {error.strerror or error}",
            where=f"{settings.tls_cert}, {settings.tls_key}",
            todo="Give a certificate and its key in PEM.",
        ) from error
    return config


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self.on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        self.on_ready(sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A stop that cuts transfers is this server's way, not an error to be logged.
        _uvicorn_log.setLevel(logging.CRITICAL + 1)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server and nothing more: being asked to stop is a success, exit code 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.should_exit = True
