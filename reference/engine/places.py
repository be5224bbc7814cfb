"""Where an engine keeps what, and how it is asked."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket as sockets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reference.core.errors import EngineError

if TYPE_CHECKING:
    from docker import DockerClient

RUN = Path("/run/blackstart-engines")
"""Sockets and records of all private engines. Short: a unix socket's path has 107 bytes at most."""
OLDEST_API = (1, 41)
"""Docker 20.10, which is the oldest that is tested."""


class Engine:
    """An engine that can be asked."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    @property
    def host(self) -> str:
        """Its address, as `DOCKER_HOST` takes it."""
        return f"unix://{self.socket}"

    def client(self, timeout_s: float = 60) -> DockerClient:
        """A client of the SDK; close it. Raises what the SDK raises."""
        import docker  # not at the top: it takes longer to import than most commands run

        return docker.DockerClient(base_url=self.host, version="auto", timeout=int(timeout_s))


@dataclass(frozen=True, slots=True)
class Places:
    """Everything of one private engine; `run` is gone when it is down, `folder` stays."""

    folder: Path
    run: Path
    name: str
    """Ten characters made from the folder: names the cgroup, so that two engines never share one."""

    @classmethod
    def of(cls, folder: Path) -> Places:
        """Those of the engine that keeps its data in `folder`."""
        folder = folder.resolve()
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
        return cls(folder, RUN / name, name)

    @property
    def data(self) -> Path:
        """Images, containers, volumes."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What dockerd says."""
        return self.folder / "dockerd.log"

    @property
    def config(self) -> Path:
        """Its daemon.json: the host's own is not read."""
        return self.folder / "daemon.json"

    @property
    def exec(self) -> Path:
        """The state of what runs: means nothing after a boot."""
        return self.run / "exec"

    @property
    def pid_file(self) -> Path:
        """Written by dockerd."""
        return self.run / "dockerd.pid"

    @property
    def socket(self) -> Path:
        """Where the API answers."""
        return self.run / "docker.sock"

    @property
    def record(self) -> Path:
        """Who runs it, since when, and on which bridge."""
        return self.run / "engine.json"

    @property
    def cgroup(self) -> str:
        """All its containers' processes are below, which is how leftovers are found."""
        return f"blackstart-engine-{self.name}"


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


def ask(socket: Path, path: str, timeout_s: float = 5.0) -> dict[str, object]:
    """An object of the API, without the SDK. Raises EngineError when none answers."""
    connection = _OverSocket(socket, timeout_s)
    try:
        connection.request("GET", path)
        found: object = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EngineError(f"no engine answers ({error})", where=f"unix://{socket}") from error
    finally:
        connection.close()
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def check_version(socket: Path) -> str:
    """The engine's version. Raises EngineError when it is older than what is tested, or does not answer."""
    said = ask(socket, "/version")
    api, version = str(said.get("ApiVersion", "")), str(said.get("Version", "of no known version"))
    numbers = tuple(int(part) for part in api.split(".") if part.isdigit())
    if numbers < OLDEST_API:
        raise EngineError(
            f"the engine {version} is too old (API {api or 'unknown'})",
            where=f"unix://{socket}",
            todo="Install Docker 20.10 (API 1.41) or newer.",
        )
    return version
