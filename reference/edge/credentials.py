"""Credentials of registries: from the configuration, from a file with strict rights, or from a helper program.

The helper speaks Docker's credential helper protocol (docker/docker-credential-helpers, "Development"): it is started
with the argument `get`, reads the host from standard input and prints a JSON object of `ServerURL`, `Username` and
`Secret`; `ExpiresAt` (RFC 3339) is ours. No secret, and nothing that a helper says beside its exit code, reaches a
log, a message or the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from reference.core.errors import DeviceError, Reason, RegistryError

MAX_FILE_BYTES = 256 * 1024
MAX_ANSWER_BYTES = 64 * 1024
"""Longest answer of a helper."""
MAX_CACHED_S = 12 * 3600.0
"""However long a helper says that its answer is good: a wrong clock must not make it last for ever."""
EXPIRY_MARGIN_S = 60.0
"""An answer is not used in its last minute: a pull takes a while."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user and its secret. The secret is never shown."""

    username: str
    secret: str = field(repr=False)


class Source(Protocol):
    """Where the login for one registry comes from."""

    async def get(self, host: str) -> Login | None:
        """The login for exactly this host; None: ask without. Raises DeviceError, RegistryError."""

    def forget(self) -> None:
        """Do not answer from memory the next time: the last answer was refused."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What the configuration itself says."""

    login: Login

    async def get(self, host: str) -> Login | None:  # noqa: ARG002 - one registry has one source
        """See Source."""
        return self.login

    def forget(self) -> None:
        """Nothing is remembered."""


@dataclass(frozen=True, slots=True)
class CredentialFile:
    """A JSON object of `host[:port]` -> `{"username": ..., "password": ...}`.

    Read anew each time it is asked, so a change counts at the next pull. It has to belong to the agent's user (or to
    root) and be closed to everybody else.
    """

    path: Path

    async def get(self, host: str) -> Login | None:
        """See Source. Raises DeviceError(CONFIGURATION_INVALID) for a file that cannot be used, in words."""
        return self.read().get(host)

    def forget(self) -> None:
        """Nothing is remembered."""

    def read(self) -> dict[str, Login]:
        """All of it, checked. Raises DeviceError."""
        text = _strict(self.path)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise self._wrong("is not JSON") from None
        if not isinstance(found, dict):
            raise self._wrong("is not a JSON object of hosts")
        return {host: self._login(host, entry) for host, entry in found.items()}

    def _login(self, host: str, entry: object) -> Login:
        if not isinstance(entry, dict) or set(entry) != {"username", "password"}:
            raise self._wrong(f"the entry of {host!r} has to hold username and password, and nothing else")
        username, password = entry["username"], entry["password"]
        if not isinstance(username, str) or not isinstance(password, str) or not username:
            raise self._wrong(f"the entry of {host!r} holds something that is no text")
        if not _writable(username, password):
            raise self._wrong(f"the entry of {host!r} holds characters that are none")
        return Login(username, password)

    def _wrong(self, what: str) -> DeviceError:
        return DeviceError(what, where=str(self.path), todo="Correct the file of registry credentials.")


def _writable(*texts: str) -> bool:
    """Whether it is text that can be sent: JSON also knows halves of characters."""
    try:
        return all(text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False


def _strict(path: Path) -> str:
    """The text of a file that only its owner can read. The rights are those of the file that was opened."""
    where, todo = str(path), f"chmod 600 {path}, and make it the agent user's own."
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DeviceError(f"cannot be read: {error.strerror}", where=where, todo=todo) from None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise DeviceError("is not a file", where=where, todo=todo)
        if facts.st_mode & 0o077:
            mode = stat.S_IMODE(facts.st_mode)
            raise DeviceError(
                f"others can get at the secrets in it (mode {mode:04o})", where=where, todo=todo
            )
        if facts.st_uid not in (os.geteuid(), 0):
            raise DeviceError(f"belongs to user {facts.st_uid}", where=where, todo=todo)
        with open(handle, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DeviceError(f"cannot be read: {error.strerror}", where=where, todo=todo) from None
    finally:
        os.close(handle)
    if len(data) > MAX_FILE_BYTES:
        raise DeviceError(f"is larger than {MAX_FILE_BYTES} bytes", where=where)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DeviceError("is not UTF-8 text", where=where) from None


class Helper:
    """A program that prints short-lived credentials, and its last answer for as long as that is good."""

    def __init__(
        self,
        command: tuple[str, ...],
        timeout_ms: int = 10_000,
        ttl_ms: int = 300_000,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`timeout_ms`: how long it may take; `ttl_ms`: how long an answer without `ExpiresAt` is used."""
        self._command = command
        self._timeout_ms = timeout_ms
        self._ttl_s = ttl_ms / 1000
        self._clock = clock
        self._wall = wall
        self._known: dict[str, tuple[float, Login | None]] = {}

    async def get(self, host: str) -> Login | None:
        """See Source. Raises RegistryError(REGISTRY_UNAUTHORIZED) when the helper fails, is late or talks rubbish."""
        known = self._known.get(host)
        if known is not None and self._clock() < known[0]:
            return known[1]
        said = await self._ask(host)
        login, good_for_s = self._understood(said)
        self._known[host] = (self._clock() + good_for_s, login)
        return login

    def forget(self) -> None:
        """See Source."""
        self._known.clear()

    async def _ask(self, host: str) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, "get",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise self._failed(f"cannot be started: {error.strerror}") from None
        code: int | None = None
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                said = await _converse(process, host)
                code = await process.wait()
        except TimeoutError:
            raise self._failed(f"did not answer within {self._timeout_ms} ms") from None
        finally:
            if code is None:  # it may have ended and left others behind, who hold its output open
                _kill(process)
                await process.wait()
        if len(said) > MAX_ANSWER_BYTES:
            raise self._failed(f"printed more than {MAX_ANSWER_BYTES} bytes")
        if code != 0:
            raise self._failed(f"ended with exit code {code}")
        return said

    def _understood(self, said: bytes) -> tuple[Login | None, float]:
        try:
            found = json.loads(said)
        except (ValueError, RecursionError):
            raise self._failed("printed something that is not JSON") from None
        if not isinstance(found, dict):
            raise self._failed("printed JSON that is no object")
        username, secret = found.get("Username"), found.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            raise self._failed("printed no Username and Secret")
        if not _writable(username, secret):
            raise self._failed("printed characters that are none")
        if username == "<token>":
            raise self._failed("printed an identity token, which is not supported")
        login = Login(username, secret) if username or secret else None
        return login, self._good_for_s(found.get("ExpiresAt"))

    def _good_for_s(self, expires_at: object) -> float:
        if expires_at is None:
            return self._ttl_s
        try:
            if not isinstance(expires_at, str):
                raise TypeError
            at = datetime.fromisoformat(expires_at)
        except (TypeError, ValueError):
            raise self._failed("printed an ExpiresAt that is no RFC 3339 time") from None
        if at.tzinfo is None:
            raise self._failed("printed an ExpiresAt without a time zone")
        return min(max(at.timestamp() - self._wall() - EXPIRY_MARGIN_S, 0.0), MAX_CACHED_S)

    def _failed(self, what: str) -> RegistryError:
        return RegistryError(
            f"the credential helper {what}",
            reason=Reason.REGISTRY_UNAUTHORIZED,
            where=self._command[0],
            todo="Run it by hand: echo HOST | HELPER get.",
        )


async def _converse(process: asyncio.subprocess.Process, host: str) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may know without reading
        process.stdin.write(host.encode())
        await process.stdin.drain()
        process.stdin.close()
    said = b""
    while len(said) <= MAX_ANSWER_BYTES and (more := await process.stdout.read(MAX_ANSWER_BYTES)):
        said += more
    if len(said) > MAX_ANSWER_BYTES:
        _kill(process)
    return said


def _kill(process: asyncio.subprocess.Process) -> None:
    """The helper and what it started: the session is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class Keyring:
    """The logins of all registries of a device, each from its own source and for its own host alone."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    async def login(self, host: str, *, renewed: bool = False) -> Login | None:
        """The login for exactly this host. `renewed`: the last one was refused, so do not answer from memory.

        Raises DeviceError, RegistryError(REGISTRY_UNAUTHORIZED).
        """
        source = self._sources.get(host)
        if source is None:
            return None
        if renewed:
            source.forget()
        return await source.get(host)
