"""Containers on the device: what they are (durable) and how they do (of this boot).

STATE/containers/ID/container.json   the specification, sealed, never changed
STATE/containers/ID/policy           the restart policy
STATE/containers/ID/was-started      there once it was started, in whatever boot
RUN/containers/ID/                   launch.json, state.json, exit.json, lock, log: see shim.py
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import EngineError
from reference.core.model import ContainerState, Image
from reference.edge.runtimes.base import ContainerFacts, ContainerSpec
from reference.edge.runtimes.files import discard, read_json, seal, unseal
from reference.edge.runtimes.procfs import Life
from reference.support.files import fsync_dir, write_durably

POLICIES = ("no", "always", "unless-stopped")
_ID = re.compile(r"g(\d{1,19})-[0-9a-f]{8}")
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Says nothing of a file, only of the moment."""
log = logging.getLogger("reference.edge")


class DamagedError(EngineError):
    """A container's description is lost or damaged: nobody can say any more what it is."""


@dataclass(frozen=True, slots=True)
class Lives:
    """What state.json says: the workload's life and its shim's."""

    workload: Life
    shim: Life
    executed: bool
    """The workload's program was executed; before that a start may still turn out to be refused."""


class ContainerStore:
    """The two folders of containers. Nothing here starts or ends a process."""

    def __init__(self, state_dir: Path, run_dir: Path) -> None:
        self._durable = state_dir / "containers"
        self._temporary = state_dir / "tmp"
        self._run = run_dir / "containers"
        for folder in (self._durable, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def ids(self) -> list[str]:
        """All, by generation and then by name; also one of which only the run folder is left: it may still run."""
        folders = (self._durable, self._run) if self._run.is_dir() else (self._durable,)
        found = {p.name for folder in folders for p in folder.iterdir() if _ID.fullmatch(p.name)}
        return sorted(found, key=lambda name: (int(name[1:].partition("-")[0]), name))

    def run_dir(self, container_id: str) -> Path:
        """Its folder of this boot, made if need be."""
        folder = self._run / container_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def was_run(self, container_id: str) -> bool:
        """Whether a start was tried in this boot."""
        return (self._run / container_id / "lock").exists()

    def exists(self, container_id: str) -> bool:
        """Whether it is there."""
        return _ID.fullmatch(container_id) is not None and (self._durable / container_id).is_dir()

    def spec(self, container_id: str) -> ContainerSpec:
        """What it was created as, with its present restart policy; a damaged policy is `no`, to be set anew.

        Raises EngineError; DamagedError when that can never be read again.
        """
        if not self.exists(container_id):
            raise DamagedError(f"there is no container {container_id!r}")
        folder = self._durable / container_id
        try:
            body = unseal((folder / "container.json").read_bytes())
            image = Image(**body["image"])
            return ContainerSpec(
                body["generation"], image, body["mounts"], body["environment"], self._policy(folder)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.errno in _PASSING:
                raise EngineError(f"container {container_id} cannot be read now: {error}") from error
            what = f"the description of container {container_id} is damaged: {error}"
            raise DamagedError(what, where=str(folder), todo="Remove the container.") from error

    @staticmethod
    def _policy(folder: Path) -> str:
        try:
            policy = (folder / "policy").read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            policy = ""
        return policy if policy in POLICIES else "no"

    def specs(self) -> Iterator[tuple[str, ContainerSpec]]:
        """All whose description is whole. Raises EngineError when one cannot be read now."""
        for container_id in self.ids():
            try:
                yield container_id, self.spec(container_id)
            except DamagedError:
                continue

    def damaged(self) -> list[str]:
        """All whose description is not whole, each with a word in the log. Raises EngineError as `specs` does."""
        found = []
        for container_id in self.ids():
            try:
                self.spec(container_id)
            except DamagedError as error:
                log.error("a container is damaged", extra={"container": container_id, "why": str(error)})
                found.append(container_id)
        return found

    def create(self, spec: ContainerSpec) -> str:
        """Durably, in one step. One of the same generation and image is kept. Raises EngineError."""
        for container_id, other in self.specs():
            if other.generation == spec.generation:
                if other.image.digest != spec.image.digest:
                    what = f"generation {spec.generation} is {container_id} already, of image {other.image.digest}"
                    raise EngineError(what, todo="Remove that container first.")
                return container_id
        name = f"g{spec.generation}-{os.urandom(4).hex()}"
        folder = self._temporary / f"{name}.new"
        folder.mkdir()
        image = {
            "repository": spec.image.repository, "digest": spec.image.digest, "version": spec.image.version,
        }  # fmt: skip
        body = {
            "generation": spec.generation, "image": image,
            "mounts": dict(spec.mounts), "environment": dict(spec.environment),
        }  # fmt: skip
        write_durably(folder / "container.json", seal(body))
        write_durably(folder / "policy", check_policy(spec.restart_policy).encode())
        folder.rename(self._durable / name)
        fsync_dir(self._durable)
        return name

    def set_policy(self, container_id: str, policy: str) -> None:
        """Durably. Raises EngineError."""
        if self.spec(container_id).restart_policy != check_policy(policy):
            write_durably(self._durable / container_id / "policy", policy.encode())

    def mark_started(self, container_id: str) -> None:
        """Remember beyond the boot that it was started. Not synced: `created` or `exited` decides nothing."""
        (self._durable / container_id / "was-started").touch()

    def remove(self, container_id: str) -> None:
        """Remove its description and what is left of its runs."""
        if _ID.fullmatch(container_id):
            discard(self._durable / container_id, self._temporary)
            shutil.rmtree(self._run / container_id, ignore_errors=True)

    def lives(self, container_id: str) -> Lives | None:
        """The lives of this boot's last start, alive or not; None if it was not started in this boot."""
        state = read_json(self._run / container_id / "state.json")
        if state is None:
            return None
        try:
            workload, shim = Life(state["pid"], state["start"]), Life(state["shim_pid"], state["shim_start"])
            return Lives(workload, shim, "executed" in state)
        except KeyError:
            return None

    def exit_code(self, container_id: str) -> int | None:
        """Exit code of this boot's last start, 128 + N for signal N; None if unknown."""
        code = (read_json(self._run / container_id / "exit.json") or {}).get("code")
        return code if isinstance(code, int) else None

    def facts(self, container_id: str, spec: ContainerSpec) -> ContainerFacts:
        """What it is and how it does."""
        lives = self.lives(container_id)
        running = lives is not None and lives.workload.alive
        started_ever = lives is not None or (self._durable / container_id / "was-started").exists()
        state = ContainerState.EXITED if started_ever else ContainerState.CREATED
        return ContainerFacts(
            id=container_id,
            generation=spec.generation,
            image=spec.image,
            state=ContainerState.RUNNING if running else state,
            started_this_boot=lives is not None,
            up_ms=lives.workload.up_ms if lives is not None and running else 0,
            life=str(lives.workload) if lives is not None and running else "",
            exit_code=None if running else self.exit_code(container_id),
            restart_policy=spec.restart_policy,
            configuration=configuration_digest(spec.mounts, spec.environment),
            mounts=spec.mounts,
            environment=spec.environment,
        )


def configuration_digest(mounts: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """Names mounts and environment, whatever their order."""
    text = json.dumps([dict(mounts), dict(environment)], sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def check_policy(policy: str) -> str:
    """The policy. Raises EngineError if it is none."""
    if policy not in POLICIES:
        raise EngineError(f"{policy!r} is not a restart policy", todo=f"Use one of {', '.join(POLICIES)}.")
    return policy
