"""The engine at the other end of its socket: found usable or refused with a reason, and spoken to in threads.

Nothing of the SDK, or of what it stands on, leaves this file but as an error with a reason code.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import docker
import requests
from docker.utils import version_gte, version_lt

from reference.core.errors import EngineError
from reference.edge.runtimes.docker.words import engine_error
from reference.oci.manifests import machine_architecture

if TYPE_CHECKING:
    from reference.edge.settings import EngineSettings

T = TypeVar("T")
Document = dict[str, Any]
"""JSON of the engine's: its words, its types, and not ours to say what else is in it."""

API_VERSION = "1.41"
"""The oldest API that has all that is asked here: Docker 20.10."""
DRIVERS = ("overlay2", "fuse-overlayfs", "btrfs", "zfs")
"""Storage drivers that share layers between images and say when something is not on the disk."""
THREADS = 8


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is known of the engine since it last began to answer."""

    data_root: Path
    host_name: str
    architecture: str
    """In OCI's words."""
    sees_processes: bool
    """Whether a pid that the engine tells is a pid of ours."""


class Engine:
    """One engine. `ask` reads, `act` changes: one act waits for what a cancelled one left under way."""

    def __init__(self, settings: EngineSettings, architecture: str | None = None) -> None:
        """Nothing is asked yet: an engine that is down is no reason not to begin."""
        self._settings = settings
        self._architecture = architecture or machine_architecture()
        self.socket = settings.socket
        self._path = settings.socket.removeprefix("unix://")
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._lock = threading.Lock()
        self._known: tuple[docker.APIClient, EngineFacts] | None = None
        self._acting: set[asyncio.Future[Any]] = set()

    async def ask(self, doing: str, work: Callable[[docker.APIClient], T]) -> T:
        """Do it in a thread. Raises EngineError, DeviceError(DISK_FULL), and what `work` names itself."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._named, doing, work)

    async def act(self, doing: str, work: Callable[[docker.APIClient], T]) -> T:
        """As `ask`. A thread cannot be cancelled: what it is about ends before the next act begins."""
        while self._acting:
            await asyncio.wait(self._acting)
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._named, doing, work)
        self._acting.add(future)
        future.add_done_callback(self._ended)
        return await asyncio.shield(future)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._acting.discard(future)
        if not future.cancelled():
            future.exception()  # Nobody may ask for it any more.

    def _named(self, doing: str, work: Callable[[docker.APIClient], T]) -> T:
        try:
            return work(self.client())
        except Exception as error:
            if isinstance(error, (requests.exceptions.RequestException, OSError)):
                self.forget()
            raise engine_error(doing, error, self.socket) from error

    def forget(self) -> None:
        """Find out anew what the engine is: it was away, and may have come back as another one."""
        with self._lock:
            self._known = None

    def client(self) -> docker.APIClient:
        """The SDK's client. Blocks; raises what the SDK does, and EngineError for an engine that cannot be used."""
        return self._found()[0]

    @property
    def facts(self) -> EngineFacts:
        """Blocks; raises as `client`."""
        return self._found()[1]

    async def known(self) -> EngineFacts:
        """What the engine is. Raises EngineError."""
        return await self.ask("ask the engine what it is", lambda _: self.facts)

    def _found(self) -> tuple[docker.APIClient, EngineFacts]:
        with self._lock:
            if self._known is None:
                client = self.open_client(API_VERSION)
                told = client.version(api_version=False)
                version = usable_version(told, self.socket)
                if version != API_VERSION:
                    client.close()
                    client = self.open_client(version)
                self._known = client, self._facts(client.info())
            return self._known

    def open_client(self, version: str = API_VERSION, timeout_s: float | None = None) -> docker.APIClient:
        """Another connection, for what would block the others."""
        given = self._settings.timeout_ms / 1000 if timeout_s is None else timeout_s
        client = docker.APIClient(base_url=self.socket, version=version, timeout=given)  # type: ignore[arg-type]
        client.trust_env = False  # No proxy stands between us and a socket, and looking for one costs time.
        return client

    def _facts(self, info: Document) -> EngineFacts:
        check_storage(info, self.socket)
        return EngineFacts(
            Path(info["DockerRootDir"]), str(info.get("Name", "")), self._architecture, self._sees_processes()
        )

    def _sees_processes(self) -> bool:
        """Whether whoever listens on the socket is a process of our own pid namespace."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(self._path)
            pid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if (
                pid == 0 or not Path(f"/proc/{pid}").exists()
            ):  # another namespace, or /proc hides others' processes
                return False
            with contextlib.suppress(PermissionError):  # Not root: then what /proc says of each is looked at.
                return os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
            return True
        return False

    async def close(self) -> None:
        """Let go of it."""
        if self._acting:
            await asyncio.wait(self._acting, timeout=self._settings.timeout_ms / 1000)
        known, self._known = self._known, None
        if known is not None:
            known[0].close()
        self._pool.shutdown(wait=False, cancel_futures=True)


def usable_version(told: Document, where: str) -> str:
    """The API to speak: the oldest that has all we need, where the engine still knows it. Raises EngineError."""
    newest, oldest = str(told.get("ApiVersion", "0")), str(told.get("MinAPIVersion", "0"))
    if version_lt(newest, API_VERSION):
        what = f"the engine is too old: Docker {told.get('Version')} speaks API {newest}, {API_VERSION} is needed"
        raise EngineError(what, where=where, todo="Install Docker 20.10 or newer.")
    return oldest if version_gte(oldest, API_VERSION) else API_VERSION


def check_storage(info: Document, where: str) -> None:
    """See that images lie where a sync and a look reach them. Raises EngineError."""
    driver = str(info.get("Driver", ""))
    status = {str(pair[0]): str(pair[1]) for pair in info.get("DriverStatus") or [] if len(pair) == 2}
    if "containerd.snapshotter" in status.get("driver-type", ""):
        what = "the engine keeps its images in containerd's store, which this updater cannot put on the disk for sure"
        todo = 'Set `"features": {"containerd-snapshotter": false}` in /etc/docker/daemon.json.'
        raise EngineError(what, where=where, todo=todo)
    if driver not in DRIVERS:
        what = f"the engine's storage driver is {driver!r}, of which no update is safe"
        todo = (
            f'Set `"storage-driver": "overlay2"` in /etc/docker/daemon.json; usable are {", ".join(DRIVERS)}.'
        )
        raise EngineError(what, where=where, todo=todo)


__all__ = ["API_VERSION", "Document", "Engine", "EngineFacts", "check_storage", "usable_version"]
