"""Toxiproxy's server as a child of this process, and what it is to do: kept here, so that a new server can do it, too.

The API may hang when a toxic is removed under traffic. A call that takes too long is answered with a new server, on
which every proxy and toxic is put back as it is wanted: connections are cut by that, no fault is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.proxies.toxics import HOST, LIMIT_S, Toxic, Toxics, ToxicsError, ToxicsGoneError, ToxicsHungError
from reference.support.processes import ends_with_us, tail

START_S = 10.0
STOP_S = 2.0
ATTEMPTS = 5
"""A port that was free may be taken before the server has it."""

log = logging.getLogger(__name__)


class ServerProcess:
    """One process of the program."""

    def __init__(self, program: Path, log_path: Path, limit_s: float = LIMIT_S) -> None:
        self.program = program
        self.log_path = log_path
        self.limit_s = limit_s
        self.port = 0
        """Of its API."""
        self._process: asyncio.subprocess.Process | None = None

    @property
    def toxics(self) -> Toxics:
        """Its API."""
        return Toxics(self.port, limit_s=self.limit_s)

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        """Whether it is known to run still."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Returns when its API answers. Raises ToxicsError with the end of its log."""
        for _ in range(ATTEMPTS):
            self.port = _free_port()
            await self._begin()
            try:
                if await self._listens():
                    await Toxics(self.port, limit_s=START_S).version()
                    return
            except BaseException:
                await self.stop()
                raise
            died = not self.alive
            await self.stop()
            if died:
                break
        raise ToxicsError(
            f"Toxiproxy does not come up; its log ends:\n{tail(self.log_path)}", where=str(self.log_path)
        )

    async def _begin(self) -> None:
        with self.log_path.open("ab") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    self.program, "-host", HOST, "-port", str(self.port),
                    stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                    preexec_fn=ends_with_us(signal.SIGKILL),
                )  # fmt: skip
            except OSError as error:
                raise ToxicsError(f"Toxiproxy cannot be started: {error}", where=str(self.program)) from error

    async def _listens(self) -> bool:
        """Whether the port has become this process's: another server that took it first would answer, too."""
        deadline = time.monotonic() + START_S
        while self.alive and time.monotonic() < deadline:
            if self.port in _ports_of(self.pid):
                return True
            if "Server finished with error" in tail(self.log_path):
                return False
            await asyncio.sleep(0.005)
        return False

    async def stop(self) -> None:
        """End it, also when it hangs; again is success."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            await _killed(process)

    async def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            await _killed(process)


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def _ports_of(pid: int) -> set[int]:
    """The TCP ports of IPv4 on which a process listens."""
    owned = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                owned.add(str(entry.readlink()))
    listening = re.findall(
        r"^\s*\d+: [0-9A-F]{8}:([0-9A-F]{4}) \S+ 0A (?:\S+ ){3,4}\s*\d+\s+\d+ (\d+)", _table(), re.MULTILINE
    )
    return {int(port, 16) for port, inode in listening if f"socket:[{inode}]" in owned}


def _table() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/net/tcp").read_text("ascii", "replace")
    return ""


@dataclass(slots=True)
class _Wanted:
    """A proxy as it is to be."""

    upstream_port: int
    port: int = 0
    enabled: bool = True
    toxics: dict[str, Toxic] = field(default_factory=dict)


class ToxiproxyServer:
    """A server that does what it was told, even when it has to be started again for it. One call at a time."""

    def __init__(self, program: Path, log_path: Path, limit_s: float = LIMIT_S) -> None:
        self.process = ServerProcess(program, log_path, limit_s)
        self.restarts = 0
        """How often it hung or died and was started again: each cut every connection."""
        self._wanted: dict[str, _Wanted] = {}
        self._one_by_one = asyncio.Lock()

    async def start(self) -> None:
        """Raises ToxicsError."""
        await self.process.start()

    async def stop(self) -> None:
        """End it; again is success."""
        async with self._one_by_one:
            await self.process.stop()

    def port_of(self, proxy: str) -> int | None:
        """Where a proxy listens at this moment; None: it is down, and its port may be somebody else's."""
        wanted = self._wanted.get(proxy)
        return wanted.port if wanted is not None and wanted.enabled and wanted.port else None

    async def create(self, proxy: str, upstream_port: int) -> None:
        """A proxy to a port of this machine, open. Raises ToxicsError when there is one of that name."""
        async with self._one_by_one:
            if proxy in self._wanted:
                raise ToxicsError(f"there is a proxy {proxy!r} already")
            self._wanted[proxy] = _Wanted(upstream_port)
            try:
                await self._done(lambda: self._make(proxy))
            except BaseException:
                del self._wanted[proxy]
                raise

    async def add(self, proxy: str, toxic: Toxic) -> None:
        """Put a toxic on it. Raises ToxicsError, and it is not there then."""
        async with self._one_by_one:
            toxics = self._of(proxy).toxics
            toxics[toxic.name] = toxic
            try:
                await self._done(lambda: self.process.toxics.add(proxy, toxic))
            except ToxicsError:
                toxics.pop(toxic.name, None)
                raise

    async def update(self, proxy: str, toxic: Toxic) -> None:
        """Change one that is there. Raises ToxicsError."""
        async with self._one_by_one:
            toxics = self._of(proxy).toxics
            if toxic.name not in toxics:
                raise ToxicsGoneError(f"there is no toxic {toxic.name!r} on {proxy}")
            before, toxics[toxic.name] = toxics[toxic.name], toxic
            try:
                await self._done(lambda: self.process.toxics.update(proxy, toxic))
            except ToxicsError:
                toxics[toxic.name] = before
                raise

    async def remove(self, proxy: str, toxic: str) -> None:
        """Take one away; again is success."""
        async with self._one_by_one:
            if self._of(proxy).toxics.pop(toxic, None) is None:
                return
            with contextlib.suppress(ToxicsGoneError):
                await self._done(lambda: self.process.toxics.remove(proxy, toxic))

    async def down(self, proxy: str) -> None:
        """It refuses, and its connections are cut; again is success."""
        async with self._one_by_one:
            self._of(proxy).enabled = False
            await self._done(lambda: self.process.toxics.disable(proxy))

    async def up(self, proxy: str) -> None:
        """It listens again, maybe on another port; again is success."""
        async with self._one_by_one:
            wanted = self._of(proxy)
            if not (
                wanted.enabled and wanted.port
            ):  # An `up` that was cancelled half-way has left it without one.
                wanted.enabled, wanted.port = True, 0
                await self._done(lambda: self._open(proxy))

    def _of(self, proxy: str) -> _Wanted:
        if proxy not in self._wanted:
            raise ToxicsGoneError(f"there is no proxy {proxy!r}")
        return self._wanted[proxy]

    async def _make(self, name: str) -> None:
        """Closed, its toxics on it, then open: nobody comes through before they are."""
        wanted, toxics = self._wanted[name], self.process.toxics
        wanted.port = 0
        await toxics.create(name, wanted.upstream_port, enabled=False)
        for toxic in wanted.toxics.values():
            await toxics.add(name, toxic)
        if wanted.enabled:
            await self._open(name)

    async def _open(self, name: str) -> None:
        self._wanted[name].port = (await self.process.toxics.enable(name)).port

    async def _done(self, call: Callable[[], Awaitable[None]]) -> None:
        """Do it; when the server hangs or has died, a new one does all that is wanted, this too."""
        if self.process.alive:
            try:
                await call()
            except ToxicsHungError as error:
                log.warning("%s: starting Toxiproxy again", error)
            else:
                return
        self.restarts += 1
        await self.process.kill()
        for wanted in self._wanted.values():
            wanted.port = 0
        await self.process.start()
        for name in self._wanted:
            await self._make(name)
