"""The Docker runtime: a real engine behind the port, and nothing of it trusted to have remembered.

What makes a container ours is a label with the client's name, or that somebody has told the updater to adopt it; no
other is ever touched. Names are random and mean nothing. What the engine says is compared with /proc where its
processes are ours to see: it notices an end late.

`state_dir` is durable, `run_dir` of one boot, as for the process runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker
from docker.errors import APIError, NotFound

from reference.core.errors import DeviceError, EngineError
from reference.core.model import Installed
from reference.edge.runtimes.base import ContainerFacts, ContainerSpec, EngineView
from reference.edge.runtimes.boot import enter_boot
from reference.edge.runtimes.copies import Copies
from reference.edge.runtimes.docker import ending, neighbour
from reference.edge.runtimes.docker import facts as seen
from reference.edge.runtimes.docker.adoption import Adoption, adopt, look_at
from reference.edge.runtimes.docker.begun import Begun
from reference.edge.runtimes.docker.configuration import policy_word, restart_policy
from reference.edge.runtimes.docker.containers import Containers, kept_elsewhere, missing_networks
from reference.edge.runtimes.docker.engine import Document, Engine, EngineFacts
from reference.edge.runtimes.docker.fetching import Fetching
from reference.edge.runtimes.docker.images import CURRENT, PREVIOUS, Images, ImageView, inspected
from reference.edge.runtimes.docker.memory import Markers, Memory
from reference.edge.runtimes.docker.pull import Puller
from reference.edge.runtimes.docker.restart import restart_engine
from reference.edge.runtimes.docker.witness import Witness
from reference.edge.runtimes.docker.words import EngineAwayError, said, start_error
from reference.edge.runtimes.failures import failures
from reference.edge.runtimes.pull import Access, PullLimits
from reference.edge.runtimes.snapshot import SnapshotStore
from reference.support.files import syncfs

if TYPE_CHECKING:
    from reference.edge.settings import ClientSettings, EngineSettings

log = logging.getLogger("reference.edge")
_AWAY_POLL_S = 0.1
_CODE_S = 0.5
"""How long a look waits for the exit code of what has just ended by itself."""
_KILLED = 137
_NOTICES_S = 1.0
"""How long after the end of a process the engine may go on listing its container as running."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A container that was stopped here, before the engine has noticed."""

    life: str
    code: int | None
    seen: Document
    """As it was. Nobody asks the engine for it while it clears up after the end: it would answer only then."""
    at: float

    @property
    def recent(self) -> bool:
        """Whether `seen` may stand for what the engine would say."""
        return time.monotonic() - self.at < _NOTICES_S


class DockerRuntime(Fetching, Copies):
    """`reference.edge.runtimes.base.Runtime` over a Docker engine. One per `state_dir` at a time."""

    def __init__(
        self,
        state_dir: Path,
        run_dir: Path,
        client: str,
        setup: ClientSettings,
        engine: EngineSettings,
        access: Access | None = None,
        limits: PullLimits | None = None,
        *,
        architecture: str | None = None,
    ) -> None:
        """`client` is `tenantId.clientId`. The engine is not asked yet. Raises EngineError for a folder."""
        self._settings = engine
        self._state_dir = state_dir
        with failures("open its folders"):
            state_dir.mkdir(parents=True, exist_ok=True)
            self._boot_id = enter_boot(run_dir)
            self._memory = Memory(state_dir)
            self._begun = Begun(state_dir, self._boot_id)
            self._snapshots = SnapshotStore(state_dir)
        self._markers = Markers(run_dir)
        self._engine = Engine(engine, architecture)
        self._images = Images(client)
        self._containers = Containers(client, setup, self._images, self._memory)
        self._puller = Puller(self._engine, access or Access(), limits or PullLimits())
        self._image_lock = asyncio.Lock()
        self._ended: dict[str, _Ended] = {}
        """What was stopped here, by container."""
        self._witness = Witness()
        self._away_since: float | None = None
        self._on_disk: set[Path] = set()
        """Where the client's volumes lie."""
        self._only_read: frozenset[str] = frozenset()
        """What of it the client cannot write."""

    @property
    def boot_id(self) -> str:
        """Random, made at the first start in a boot."""
        return self._boot_id

    # ---- what is there

    async def observe(self) -> EngineView:
        """See the port. An engine that is away is waited for: what it does for itself is nobody's failure."""
        while True:
            try:
                found = await self._observed()
            except EngineAwayError as error:
                now = asyncio.get_running_loop().time()
                if self._away_since is None:
                    self._away_since = now
                    log.warning("the engine is away", extra={"detail": str(error)})
                if (now - self._away_since) * 1000 >= self._settings.patience_ms:
                    raise
                await asyncio.sleep(_AWAY_POLL_S)
            else:
                self._away_since = None
                return found

    async def _observed(self) -> EngineView:
        known, view, found = await self._engine.ask("look at images and containers", self._look)
        with failures("look at containers"):
            facts = [await self._facts(container, known, view) for container in found]
            snapshots = self._snapshots.states()
        self._only_read = seen.only_read(found)
        self._on_disk = {Path(path) for c in facts for path in c.mounts.values() if path.startswith("/")}
        return EngineView(
            tuple(sorted(facts, key=lambda c: (c.generation, c.id))), dict(view.states), snapshots
        )

    def _look(self, api: docker.APIClient) -> tuple[EngineFacts, ImageView, list[Document]]:
        view = self._looked_at(api)
        documents, found = dict(view.documents), []
        unnoticed = {name: end.seen for name, end in list(self._ended.items()) if end.recent}
        for container in self._containers.all(api, unnoticed):
            image_id = str(container["Image"])
            if image_id not in documents and (image := inspected(api, image_id)) is not None:
                documents[image_id] = image
            # One whose making was interrupted is not there yet: `create` finishes it.
            if self._containers.image_of(container) is not None and not missing_networks(container):
                found.append(container)
        return self._engine.facts, ImageView(view.states, view.ids, documents), found

    async def _facts(self, container: Document, known: EngineFacts, view: ImageView) -> ContainerFacts:
        alive = seen.running(container, sees_processes=known.sees_processes)
        container_id, code = str(container["Id"]), None
        if alive is None and not seen.noticed(container):
            container, code = await self._unnoticed(container)
        if alive is not None:
            self._markers.seen_running(container_id)
        image = self._containers.image_of(container)
        assert image is not None, "only those with one are looked at"
        return seen.facts(
            container,
            image,
            view,
            alive,
            started_this_boot=alive is not None or await self._started(container),
            host_name=known.host_name,
            exit_code=code,
        )

    async def _started(self, container: Document) -> bool:
        """Whether it was started in this boot and, if it has ended, not by an engine that ended itself."""
        if not self._markers.started(str(container["Id"]), _started_at(container)):
            return False
        if not seen.noticed(container):
            return True
        return await self._engine.ask(
            "ask how a container ended", lambda api: self._witness.told(api, container)
        )

    async def _unnoticed(self, container: Document) -> tuple[Document, int | None]:
        """It has ended, and the engine does not know yet. Its exit code is waited for, unless we have ended it."""
        container_id = str(container["Id"])
        ended = self._ended.get(container_id)
        if ended is not None and ended.life == _started_at(container):
            return container, ended.code
        try:
            async with asyncio.timeout(_CODE_S):
                while not seen.noticed(container):
                    await asyncio.sleep(ending.POLL_S)
                    container = await self._inspect(container_id) or container
        except TimeoutError:
            pass  # Nobody knows the code then.
        return container, None

    async def _inspect(self, container_id: str) -> Document | None:
        return await self._engine.ask(
            f"look at container {container_id[:12]}", lambda api: self._containers.inspect(api, container_id)
        )

    async def _mine(self, container_id: str) -> Document:
        return await self._engine.ask(
            f"look at container {container_id[:12]}", lambda api: self._containers.mine(api, container_id)
        )

    # ---- containers

    async def create(self, spec: ContainerSpec) -> str:
        """See the port. A generation that exists with another image is an EngineError."""
        restart_policy(spec.restart_policy)
        known = await self._engine.known()
        return await self._engine.act(
            f"create a container of generation {spec.generation}",
            lambda api: self._containers.create(api, spec, known.host_name),
        )

    async def start(self, container_id: str) -> None:
        """See the port. The engine's word for its last start is noted first: another word means that it was started."""
        container, known = await self._mine(container_id), await self._engine.known()
        if seen.running(container, sees_processes=known.sees_processes) is not None:
            return
        if not seen.noticed(container):
            await ending.end(self._engine, container, None, 0, lambda: self._inspect(container_id))
            container = await self._mine(container_id)
        with failures(f"start {container_id[:12]}"):
            self._markers.before_start(container_id, _started_at(container))

        def work(api: docker.APIClient) -> None:
            self._ended.pop(container_id, None)
            try:
                api.start(container_id)
            except APIError as error:
                raise start_error(said(error), container_id) from error
            if (started := self._containers.inspect(api, container_id)) is not None:
                neighbour.introduce(started)

        await self._engine.act(f"start {container_id[:12]}", work)

    async def stop(self, container_id: str, grace_ms: int) -> None:
        """See the port. One that is not there is stopped."""
        found = await self._inspect(container_id)
        if found is None:
            return
        container, known = await self._mine(container_id), await self._engine.known()
        alive = seen.running(container, sees_processes=known.sees_processes)
        if alive is None and seen.noticed(container):
            return
        killed = await ending.end(
            self._engine, container, alive, grace_ms, lambda: self._inspect(container_id)
        )
        neighbour.forget(container)
        code = _KILLED if killed else None
        self._ended[container_id] = _Ended(_started_at(container), code, container, time.monotonic())

    async def remove(self, container_id: str) -> None:
        """See the port. Its volumes stay, also those that nobody has named."""
        await self.stop(container_id, 0)

        def work(api: docker.APIClient) -> None:
            try:
                self._containers.mine(api, container_id)
            except EngineError:
                if self._containers.inspect(api, container_id) is not None:
                    raise
                return
            with contextlib.suppress(NotFound):
                api.remove_container(container_id, v=False, force=True)
            self._memory.let_go(container_id)
            self._markers.forget(container_id)

        await self._engine.act(f"remove {container_id[:12]}", work)
        self._ended.pop(container_id, None)

    async def set_restart_policy(self, container_id: str, policy: str) -> None:
        """See the port; also `on-failure`, which an adopted container may have."""
        wanted = restart_policy(policy)
        container = await self._mine(container_id)
        if policy_word(container["HostConfig"]) == policy:
            return
        await self._engine.act(
            f"set the restart policy of {container_id[:12]}",
            lambda api: api.update_container(container_id, restart_policy=wanted),  # type: ignore[arg-type]
        )

    # ---- the disk and the engine

    async def sync(self) -> None:
        """See the port: syncfs(2) of every file system that holds what is the engine's, the client's, or ours.

        Where the engine's folder cannot be seen (an updater in a container of its own) all file systems are synced.
        """
        known = await self._engine.known()
        with failures("sync"):
            await asyncio.to_thread(_sync, known.data_root, self._state_dir, *self._on_disk)
            if not self._image_lock.locked():  # a pull says so itself, at its end
                self._begun.synced()

    async def prepare_snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        """See the port. What has no folder on the device is refused; what the client only reads is none of its volumes."""
        mounts = self._written(mounts)
        known = await self._engine.known()
        elsewhere = await self._engine.ask(
            "look at the volumes", lambda api: kept_elsewhere(api, known.data_root, mounts)
        )
        for inside, path in mounts.items():
            if not path.startswith("/") or inside in elsewhere:
                todo = "Use a volume of the driver `local` without options, or update without a snapshot."
                raise DeviceError(
                    "has no folder on this device and cannot be copied", where=inside, todo=todo
                )
        await super().prepare_snapshot(generation, mounts)

    async def snapshot(self, generation: int, mounts: Mapping[str, str]) -> None:
        """See the port."""
        await super().snapshot(generation, self._written(mounts))

    def _written(self, mounts: Mapping[str, str]) -> dict[str, str]:
        return {inside: path for inside, path in mounts.items() if path not in self._only_read}

    async def restart_engine(self) -> None:
        """See the port. Containers run on where the engine has `live-restore`."""
        await restart_engine(self._engine, self._settings)

    async def settled(self, current: Installed | None, previous: Installed | None) -> None:
        """Tags for people, and what is kept of current in case that somebody removes its container."""
        known = await self._engine.known()

        def work(api: docker.APIClient) -> None:
            for role, installed in ((CURRENT, current), (PREVIOUS, previous)):
                self._images.name(api, role, installed.image.digest if installed is not None else None)
            if current is None or current.container_id is None:
                return
            container = self._containers.inspect(api, current.container_id)
            if container is not None and self._containers.ours(api, container) and seen.whole(container):
                carried = self._containers.carried(api, container, known.host_name)
                self._memory.keep_template(current.container_id, carried)

        await self._engine.act("name what is installed", work)

    # ---- what only an engine has

    async def look_at(self, name: str) -> Adoption:
        """What it would mean to adopt the container of this name or id. Raises InputError, EngineError."""
        known = await self._engine.known()
        return await self._engine.ask(
            f"look at container {name!r}", lambda api: look_at(api, self._containers, name, known.host_name)
        )

    async def adopt(self, name: str) -> Adoption:
        """Make a container that somebody else has made the client's; nothing about it changes.

        Done again it is success. Raises InputError for one that cannot be adopted, EngineError.
        """
        adoption = await self.look_at(name)
        await self._engine.act(
            f"adopt {name!r}", lambda api: adopt(api, self._containers, self._images, adoption)
        )
        await self.sync()
        return adoption

    async def close(self) -> None:
        """See the port."""
        await self._engine.close()


def _started_at(container: Document) -> str:
    return str(container["State"].get("StartedAt") or seen.NEVER)


def _sync(data_root: Path, *paths: Path) -> None:
    done: set[int] = set()
    for path in (data_root, *paths):
        try:
            device = path.stat().st_dev
            if device not in done:
                syncfs(path)
                done.add(device)
        except (FileNotFoundError, PermissionError):
            if path == data_root:  # Seen by the engine, and not by us.
                os.sync()
                return
