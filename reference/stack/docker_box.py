"""A device whose client runs on a Docker Engine, seen without asking the engine where the kernel or the disk can say it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reference.core.errors import EngineError, ServiceError
from reference.edge.main import open_runtime
from reference.edge.runtimes.base import EngineView
from reference.edge.settings import load_settings
from reference.engine import Engine, PrivateEngine
from reference.engine.leftovers import end_processes
from reference.stack.box import Site, commands, forget_boot, kill_all, on_command_line

if TYPE_CHECKING:
    from docker import DockerClient

MARK = "BLACKSTART_BOX"
"""Variable in the client's environment that says whose it is: processes carry it wherever they run."""
CLIENT_LABEL = "blackstart.client"
"""On every container of ours: `tenant.client`."""
NO_RESTART = ("/bin/true",)
"""What an updater that shares its engine with others does instead of restarting it."""
FIRST = b"1"
"""What the first process of a container is called in there."""


class DockerBox:
    """One device's containers on an engine, which may hold those of other devices, too."""

    runtime = "docker"

    def __init__(self, site: Site, *, engine: Engine, alone: bool = False, network: str = "host") -> None:
        """`alone`: nobody else is on the engine, so that the device's updater may restart it."""
        self.engine = engine
        self._restart = list(NO_RESTART)
        if alone and isinstance(engine, PrivateEngine):
            self._restart = list(engine.restart_command)
        self.listens = "127.0.0.1" if network == "host" else "0.0.0.0"  # noqa: S104 - inside of its container
        self._site = site
        self._network = network
        self._mark = f"{MARK}={site.root}".encode()
        self._images: dict[str, Path] = {}
        self._data_root: Path | None = engine.places.data if isinstance(engine, PrivateEngine) else None

    def settings(self) -> Mapping[str, object]:
        """See the port."""
        port = self._site.client_port
        engine = {"socket": self.engine.host, "restart": self._restart}
        published = {} if self._network == "host" else {"publish": {f"{port}/tcp": f"127.0.0.1:{port}"}}
        client = {"network": self._network, "environment": {MARK: str(self._site.root)}, **published}
        return {"runtime": self.runtime, "engine": engine, "client": client}

    def processes(self) -> list[int]:
        """See the port: what carries the mark, and is the first process of its container."""
        return [pid for pid, command in commands() if command and self._is_client(pid)]

    def _is_client(self, pid: int) -> bool:
        try:
            if self._mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return False
            status = Path(f"/proc/{pid}/status").read_bytes()
        except OSError:
            return False
        _, _, names = status.partition(b"NSpid:")
        return names.split(b"\n", 1)[0].split()[-1:] == [FIRST]

    def has_image(self, digest: str) -> bool:
        """See the port: by the engine's own files, which can be read when it is down, too."""
        if (path := self._images.get(digest)) is None:
            path = self._images[digest] = self._file_of(digest)
        return path.is_file()

    def _file_of(self, digest: str) -> Path:
        """The file that the engine has for an image that was pulled by this digest."""
        if self._data_root is None:
            with self.asked() as docker:
                self._data_root = Path(str(docker.info()["DockerRootDir"]))
        for known in self._data_root.glob("image/*/repositories.json"):
            by_name: dict[str, dict[str, str]] = json.loads(known.read_bytes()).get("Repositories", {})
            for reference, config in ((r, c) for refs in by_name.values() for r, c in refs.items()):
                if reference.endswith(f"@{digest}"):
                    return known.parent / "imagedb" / "content" / "sha256" / config.removeprefix("sha256:")
        raise ServiceError(
            f"the engine's files do not name the image {digest}",
            where=str(self._data_root),
            todo="An engine that keeps its images with containerd cannot be watched yet: use another one.",
        )

    async def view(self) -> tuple[str, EngineView]:
        """See the port: as an agent sees it."""
        runtime = open_runtime(load_settings(self._site.config))
        try:
            return runtime.boot_id, await runtime.observe()
        finally:
            await runtime.close()

    async def clear(self) -> None:
        """See the port. An engine of our own that was killed is started for it, or its containers would stay.

        What has ended and cannot be removed now (somebody's mount namespace holds it) goes with the engine. Raises
        ServiceError when something of the client still runs.
        """
        await asyncio.to_thread(self._clear)
        if left := self.processes():
            raise ServiceError(f"processes of the client cannot be ended: {left}", where=self.engine.host)

    def _clear(self) -> None:
        from docker.errors import APIError

        if isinstance(self.engine, PrivateEngine) and self.engine.pid is None:
            if self.engine.record is None:
                return  # Taken down, and with it all that it had.
            self.engine.start()
        with self.asked() as docker:
            for found in docker.containers.list(all=True, ignore_removed=True):
                environment = found.attrs["Config"].get("Env") or []
                if self._mark.decode() in environment:
                    with contextlib.suppress(APIError):
                        found.remove(force=True)

    async def kill(self) -> None:
        """See the port. Raises ServiceError on an engine that is not ours to kill."""
        await asyncio.to_thread(end_processes, self.own().places)
        await kill_all(lambda: on_command_line(self._site.root))

    async def boot(self) -> None:
        """See the port: what the engine left is cleared, and it starts as at any boot, with restart policies obeyed."""
        forget_boot(self._site)
        await asyncio.to_thread(self.own().start)

    def own(self) -> PrivateEngine:
        """The engine, where it may be stopped and killed. Raises ServiceError."""
        if not isinstance(self.engine, PrivateEngine):
            raise ServiceError("the engine is not ours to stop", where=self.engine.host)
        return self.engine

    @contextlib.contextmanager
    def asked(self) -> Iterator[DockerClient]:
        """The SDK's client, for what a stranger would do. Raises EngineError when the engine does not do it."""
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        try:
            docker = self.engine.client()
            try:
                yield docker
            finally:
                docker.close()
        except (DockerException, RequestException) as error:
            raise EngineError(f"the engine did not do it: {error}", where=self.engine.host) from error
