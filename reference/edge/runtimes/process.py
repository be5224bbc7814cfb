"""The process runtime: the embedded stand-in for an engine. It needs no rights, no daemon and no container support.

It pulls real OCI images and keeps them by digest; a container is a process of the agent's own user, under a shim that
outlives the agent. **There is no isolation**: a workload sees and can do all that the agent's user can. The image's
program runs under the agent's own Python (`-I -S`), so only images that start `python3` or `python` run here; absolute
arguments that name files of the image are pointed at them. Mounts arrive as BLACKSTART_MOUNTS, a JSON object of paths
in the container -> paths on the device, which the workload itself has to follow.

`state_dir` is durable; `run_dir` is of one boot (best on a tmpfs): what is ours in it goes when the kernel's boot id has changed,
and deleting it is how a reboot is simulated, once all processes are dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from reference.core.errors import EngineError, Reason
from reference.core.model import ContainerState, Image, Installed
from reference.edge.runtimes.base import ContainerFacts, ContainerSpec, EngineView, OnProgress
from reference.edge.runtimes.boot import enter_boot
from reference.edge.runtimes.containers import ContainerStore
from reference.edge.runtimes.copies import Copies
from reference.edge.runtimes.failures import failures
from reference.edge.runtimes.files import trim, write
from reference.edge.runtimes.images import ImageFacts, ImageStore
from reference.edge.runtimes.procfs import MARKER, Handle, marked
from reference.edge.runtimes.pull import Access, Puller, PullLimits
from reference.edge.runtimes.snapshot import SnapshotStore
from reference.oci.manifests import machine_architecture
from reference.support.files import syncfs

_SHIM = Path(__file__).with_name("shim.py")
_START_S = 10.0
"""Longest wait for a shim to say that the workload runs."""
_END_S = 5.0
"""Longest wait for killed processes to be gone."""
_STRAY_GRACE_MS = 1_000
"""What a running container whose description is lost gets to end by itself."""
STANDBY = "BLACKSTART_STANDBY"
_BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}


class ProcessRuntime(Copies):
    """`reference.edge.runtimes.base.Runtime` over plain processes. One per `state_dir` at a time."""

    def __init__(
        self,
        state_dir: Path,
        run_dir: Path,
        access: Access | None = None,
        limits: PullLimits | None = None,
        *,
        interpreter: str = sys.executable,
        architecture: str | None = None,
    ) -> None:
        """Raises EngineError when a folder cannot be used."""
        self._state_dir = state_dir
        self._run_dir = run_dir
        self._interpreter = interpreter
        with failures("open its folders"):
            state_dir.mkdir(parents=True, exist_ok=True)
            self._boot_id = enter_boot(run_dir)
            self._images = ImageStore(state_dir)
            self._containers = ContainerStore(state_dir, run_dir)
            self._snapshots = SnapshotStore(state_dir)
        wanted = architecture or machine_architecture()
        self._puller = Puller(self._images, access or Access(), limits or PullLimits(), wanted)
        self._image_lock = asyncio.Lock()

    @property
    def boot_id(self) -> str:
        """Random, made at the first start in a boot."""
        return self._boot_id

    @property
    def received_bytes(self) -> int:
        """Of images, over the wire, since this process began."""
        return self._puller.received_bytes

    async def observe(self) -> EngineView:
        """See the port. An image is read whole once in a process life, in a thread.

        A container whose description is lost or damaged is nobody's: it could run beside the client. It is ended and
        removed before anything is answered, and nothing is answered while that fails.
        """
        with failures("look at images and containers"):
            for container_id in self._containers.damaged():
                await self.stop(container_id, _STRAY_GRACE_MS)
                await asyncio.to_thread(self._containers.remove, container_id)
            images = await asyncio.to_thread(self._images.states)
            facts = [self._seen(await self._facts(*known)) for known in list(self._containers.specs())]
            for name in (found.id for found in facts if found.life):
                trim(self._containers.run_dir(name) / "log")
            snapshots = self._snapshots.states()
        return EngineView(tuple(facts), images, snapshots)

    async def pull(self, image: Image, progress: OnProgress) -> None:
        """See the port. What a cancelled pull left is removed by the next one; complete blobs are used again."""
        async with self._image_lock:
            with failures(f"pull {image.digest}"):
                if await asyncio.to_thread(self._images.present, image.digest):
                    return
                await asyncio.to_thread(self._images.sweep)
                await self._puller.pull(image, progress)

    async def create(self, spec: ContainerSpec) -> str:
        """See the port. Durable when it returns. A generation that exists with another image is an EngineError."""
        with failures(f"create a container of generation {spec.generation}"):
            self._images.facts(spec.image.digest)
            return self._containers.create(spec)

    async def start(self, container_id: str) -> None:
        """See the port. The boot's marker is state.json: written by the shim before the workload may execute."""
        spec = self._containers.spec(container_id)
        with failures(f"start {container_id}"):
            folder = self._containers.run_dir(container_id)
            async with asyncio.timeout(_START_S):
                while not self._executed(container_id):
                    with _locked(folder / "lock") as lock:
                        if lock is not None and not self._alive(container_id):
                            await self._launch(container_id, spec, folder, lock)
                            return
                    await asyncio.sleep(
                        0.002
                    )  # another start is under way, or the last run is being cleared away

    async def stop(self, container_id: str, grace_ms: int) -> None:
        """See the port. Also ends what the workload forked away. One that is not there is stopped."""
        with failures(f"stop {container_id}"):
            for _ in range(round(_END_S / 0.002)):
                await self._end(container_id, grace_ms)
                if not self._containers.was_run(container_id):
                    return
                with _locked(self._containers.run_dir(container_id) / "lock") as lock:
                    if lock is not None:
                        return
                await asyncio.sleep(
                    0.002
                )  # a shim has only just been spawned: let it come far enough to be ended
        raise EngineError(f"{container_id} cannot be stopped: something holds its lock", todo="See its shim.")

    async def stop_all(self, grace_ms: int) -> None:
        """Stop every container there is, all at once, also those whose description cannot be read.

        Each gets `grace_ms` between SIGTERM and SIGKILL. Raises EngineError, after all were tried.
        """
        with failures("look at containers"):
            names = self._containers.ids()
        ends = await asyncio.gather(*(self.stop(name, grace_ms) for name in names), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    async def _end(self, container_id: str, grace_ms: int) -> None:
        lives = self._containers.lives(container_id)
        if lives is not None:
            with Handle(lives.workload) as workload:
                workload.send(signal.SIGTERM)
                if not await workload.ended(grace_ms / 1000):
                    workload.send(signal.SIGKILL)
                    await workload.ended(_END_S)
            with Handle(lives.shim) as shim:  # it writes the exit code and kills leftovers
                if not await shim.ended(_END_S):
                    shim.send(signal.SIGKILL)
        await self._kill_marked(container_id)

    async def remove(self, container_id: str) -> None:
        """See the port."""
        await self.stop(container_id, 0)
        with failures(f"remove {container_id}"):
            await asyncio.to_thread(self._containers.remove, container_id)

    async def set_restart_policy(self, container_id: str, policy: str) -> None:
        """Stored durably and reported, no more: there is no engine that would revive anything, the agent alone does."""
        with failures(f"set the restart policy of {container_id}"):
            self._containers.set_policy(container_id, policy)

    async def remove_image(self, digest: str) -> None:
        """See the port. Blobs that another image stands on stay."""
        async with self._image_lock:
            for container_id, spec in self._containers.specs():
                if spec.image.digest == digest:
                    what = f"the image {digest} is used by container {container_id}"
                    raise EngineError(what, todo="Remove the container first.")
            with failures(f"remove {digest}"):
                await asyncio.to_thread(self._images.remove, digest)

    async def sync(self) -> None:
        """See the port: syncfs(2) of the file system of `state_dir`."""
        with failures("sync"):
            await asyncio.to_thread(syncfs, self._state_dir)

    async def restart_engine(self) -> None:
        """Forget what was verified, sweep, and kill what half-started or outlived its container's main process."""
        async with self._image_lock:
            with failures("look at everything anew"):
                self._images.forget()
                await asyncio.to_thread(self._images.sweep)
                for container_id in self._containers.ids():
                    if not self._alive(container_id):
                        await self._kill_marked(container_id)

    async def settled(self, current: Installed | None, previous: Installed | None) -> None:
        """Nothing here has names for people."""

    async def close(self) -> None:
        """See the port."""

    def _executed(self, container_id: str) -> bool:
        """Whether it runs for good; without its shim nobody could say any more that its start was refused."""
        lives = self._containers.lives(container_id)
        return lives is not None and lives.workload.alive and (lives.executed or not lives.shim.alive)

    def _alive(self, container_id: str) -> bool:
        lives = self._containers.lives(container_id)
        return lives is not None and lives.workload.alive

    def _seen(self, facts: ContainerFacts) -> ContainerFacts:
        """With what its image says of handovers: all processes here are on the device's network."""
        overlaps = self._images.overlaps(facts.image.digest)
        return replace(facts, overlaps=overlaps, standby=_standby(facts.id)) if overlaps else facts

    async def _facts(self, container_id: str, spec: ContainerSpec) -> ContainerFacts:
        """Between a workload's end and its exit code lies a moment of the shim's: wait for it, so the code is known."""
        for _ in range(50):
            facts, lives = self._containers.facts(container_id, spec), self._containers.lives(container_id)
            ended = facts.state is ContainerState.EXITED and facts.exit_code is None
            if not ended:
                return facts
            if lives is None or not lives.shim.alive:
                break
            await asyncio.sleep(0.002)
        return self._containers.facts(container_id, spec)

    async def _launch(self, container_id: str, spec: ContainerSpec, folder: Path, lock: int) -> None:
        """Spawn the shim, which inherits the lock, and wait until the workload was executed or could not be."""
        # Those, too, of a container that seems not to run: what this boot knew of it may have been lost.
        others = [i for i in self._containers.ids() if i != container_id and not self._alive(i)]
        await self._kill_marked(container_id, *others)
        self._clear_run(folder)
        plan = self._plan(container_id, spec)
        write(folder / "launch.json", json.dumps(plan).encode())
        ready, ready_shim = os.pipe()
        try:
            arguments = [self._interpreter, "-I", "-S", str(_SHIM), str(folder), str(lock), str(ready_shim)]
            try:
                with (folder / "log").open("ab") as log:
                    shim = subprocess.Popen(  # noqa: ASYNC220 - it returns at once; the pipe is what is awaited
                        arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_BASE_ENVIRONMENT,
                        pass_fds=(lock, ready_shim),
                    )  # fmt: skip
            except (FileNotFoundError, PermissionError) as error:
                raise EngineError(f"no interpreter: {error}", reason=Reason.START_REFUSED) from error
            finally:
                os.close(ready_shim)
            answer = await _read_all(ready)
            await asyncio.to_thread(shim.wait, _END_S)
        finally:
            os.close(ready)
        if answer != b"ok":
            why = answer.decode("utf-8", "replace") or f"the shim failed, see {folder / 'log'}"
            raise EngineError(f"{container_id} could not be started: {why}", reason=Reason.START_REFUSED)
        self._containers.mark_started(container_id)

    def _plan(self, container_id: str, spec: ContainerSpec) -> dict[str, object]:
        try:
            facts = self._images.facts(spec.image.digest)
        except EngineError as error:
            raise EngineError(
                f"{container_id} could not be started: {error}", reason=Reason.START_REFUSED
            ) from error
        rootfs = self._images.rootfs(spec.image.digest)
        environment = {
            **_BASE_ENVIRONMENT, **facts.environment, **spec.environment,
            "BLACKSTART_MOUNTS": json.dumps(dict(spec.mounts), sort_keys=True), MARKER: container_id,
            **({STANDBY: _standby(container_id)} if facts.overlaps else {}),
        }  # fmt: skip
        argv = [self._interpreter, "-I", "-S", *(_mapped(rootfs, word) for word in facts.argv[1:])]
        return {"argv": argv, "environment": environment, "cwd": _folder(rootfs, facts)}

    @staticmethod
    def _clear_run(folder: Path) -> None:
        for name in ("exit.json", "state.json"):
            (folder / name).unlink(missing_ok=True)
        log = folder / "log"
        if log.exists() and log.stat().st_size:
            log.rename(folder / "log.1")  # two runs are kept, no more

    async def _kill_marked(self, *container_ids: str) -> None:
        """SIGKILL everything that carries the marker of one of the containers, until nothing does."""
        async with asyncio.timeout(_END_S):
            while strays := await asyncio.to_thread(marked, *container_ids):
                for life in strays:
                    with Handle(life) as stray:
                        stray.send(signal.SIGKILL)
                        await stray.ended(_END_S)


def _standby(container_id: str) -> str:
    """The abstract unix socket on which it answers while it stands by."""
    return f"blackstart-standby-{container_id}"


def _mapped(rootfs: Path, word: str) -> str:
    """An absolute path of the image as a path of the device; any other word as it is."""
    if not word.startswith("/"):
        return word
    inside = rootfs / os.path.normpath("/" + word.lstrip("/")).lstrip("/")
    return str(inside) if os.path.lexists(inside) else word


def _folder(rootfs: Path, facts: ImageFacts) -> str:
    folder = _mapped(rootfs, facts.folder or "/")
    return folder if folder.startswith(str(rootfs)) else str(rootfs)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """An exclusive lock, or None if somebody has it. A shim that inherited the descriptor goes on holding it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield fd
    finally:
        os.close(fd)


async def _read_all(fd: int) -> bytes:
    """Read a pipe to its end without a thread, so that a cancelled start leaves nobody reading."""
    loop, data = asyncio.get_running_loop(), b""
    os.set_blocking(fd, False)
    while True:
        event = asyncio.Event()
        loop.add_reader(fd, event.set)
        try:
            await event.wait()
        finally:
            loop.remove_reader(fd)
        chunk = os.read(fd, 4096)
        if not chunk:
            return data
        data += chunk
