"""From what `docker inspect` shows to what the updater knows of a container. Only /proc is asked beside it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reference.core.model import ContainerState, HealthState, Image
from reference.edge.runtimes.base import ContainerFacts
from reference.edge.runtimes.docker.configuration import (
    GENERATION,
    IMAGE,
    STANDBY,
    VERSION,
    carry_over,
    overlapping,
    policy_word,
)
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.images import ImageView
from reference.edge.runtimes.procfs import Life, life_of

NEVER = "0001-01-01T00:00:00Z"
"""The engine's word for a time that never was."""
_HEALTH = {
    "starting": HealthState.STARTING,
    "healthy": HealthState.HEALTHY,
    "unhealthy": HealthState.UNHEALTHY,
}


@dataclass(frozen=True, slots=True)
class Running:
    """A container's living process."""

    name: str
    """Of this life."""
    up_ms: int
    process: Life | None
    """None: the engine's word has to do, its pids are not ours."""


def running(container: Document, *, sees_processes: bool) -> Running | None:
    """Its process, if it lives. A dead one that the engine has not noticed yet does not."""
    state = container["State"]
    pid = int(state.get("Pid") or 0)
    if container.get("FromList") and state.get("Running"):
        return Running(f"0:{container['Id']}", 0, None)
    if not state.get("Running") or state.get("Restarting") or pid == 0:
        return None
    name = f"{pid}:{state.get('StartedAt')}"
    if not sees_processes:
        return Running(name, _age_ms(str(state.get("StartedAt"))), None)
    life = life_of(pid)
    if life is None or not life.alive or not _is_in(pid, str(container["Id"])):
        return None
    return Running(name, life.up_ms, life)


def from_list(listed: Document) -> Document:
    """What `docker ps` says of a container, in the form of what `docker inspect` would: a cut may have left it so broken."""
    runs = listed.get("State") == "running"
    return {
        "Id": listed["Id"],
        "Name": (listed.get("Names") or [""])[0],
        "Image": listed.get("ImageID", ""),
        "Config": {"Labels": listed.get("Labels") or {}, "Image": listed.get("Image", "")},
        "HostConfig": dict(listed.get("HostConfig") or {}),
        "State": {
            "Status": listed.get("State"),
            "Running": runs,
            "StartedAt": NEVER if listed.get("State") == "created" else "",
        },
        "Mounts": listed.get("Mounts") or [],
        "NetworkSettings": listed.get("NetworkSettings") or {},
        "FromList": True,
    }


def whole(container: Document) -> bool:
    """Whether the engine could look into it."""
    return not container.get("FromList")


def _is_in(pid: int, container_id: str) -> bool:
    """Whether the process is the container's, and not another one under a pid that was used again."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
    except OSError:
        return False
    return container_id in groups or not groups.strip("0:/.\n")


def _age_ms(started_at: str) -> int:
    """By the wall clock, for want of better: 0 when it cannot be true."""
    text = started_at.partition(".")[0].rstrip("Z") + "+00:00"
    try:
        return max(0, round((time.time() - datetime.fromisoformat(text).timestamp()) * 1000))
    except ValueError:
        return 0


def noticed(container: Document) -> bool:
    """Whether the engine knows that nothing of it runs."""
    return not container["State"].get("Running")


def image_of(container: Document, adopted: Image | None) -> Image | None:
    """What it is of, as its labels, or whoever adopted it, say. None: neither says."""
    labels = container["Config"].get("Labels") or {}
    repository, at, digest = str(labels.get(IMAGE, "")).rpartition("@")
    if adopted is None and not at:
        return None
    return adopted or Image(repository, digest, str(labels.get(VERSION, "")))


def generation_of(container: Document) -> int:
    """The label's; 0 for one that was adopted."""
    word = str((container["Config"].get("Labels") or {}).get(GENERATION, ""))
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 20 else 0


def facts(
    container: Document,
    image: Image,
    view: ImageView,
    alive: Running | None,
    *,
    started_this_boot: bool,
    host_name: str,
    exit_code: int | None,
) -> ContainerFacts:
    """All of it. `exit_code` goes before what the engine says: it may not know yet."""
    config, host, state = container["Config"], container["HostConfig"], container["State"]
    document = view.documents.get(container["Image"]) or {}
    carried = carry_over(container, document, host_name)
    ever = str(state.get("StartedAt") or NEVER) != NEVER
    found = ContainerState.EXITED if ever else ContainerState.CREATED
    ended = alive is None and ever and started_this_boot
    if exit_code is None and noticed(container):
        exit_code = int(state.get("ExitCode") or 0)
    health = (state.get("Health") or {}).get("Status", "")
    standby = next((e.partition("=")[2] for e in config.get("Env") or [] if e.startswith(f"{STANDBY}=")), "")
    return ContainerFacts(
        id=str(container["Id"]),
        generation=generation_of(container),
        image=view.truly(image, str(container["Image"])),
        state=ContainerState.RUNNING if alive else found,
        started_this_boot=started_this_boot,
        up_ms=alive.up_ms if alive else 0,
        life=alive.name if alive else "",
        exit_code=exit_code if ended else None,
        restart_policy=policy_word(host),
        configuration=carried.digest,
        mounts=mounts_of(container),
        environment=carried.environment,
        # One that was adopted was never told where to answer while it stands by.
        overlaps=bool(standby) and overlapping(config.get("Labels"), host),
        engine_health=_HEALTH.get(health) if alive else None,
        address=_address(container) if alive else "",
        standby=standby,
    )


def mounts_of(container: Document) -> dict[str, str]:
    """Path inside -> path on the device; what has no path on the device is named by what it is."""
    found = {}
    for mount in container.get("Mounts") or []:
        if mount.get("Type") in ("bind", "volume"):
            found[str(mount["Destination"])] = _place(mount)
    return found


def _place(mount: Document) -> str:
    return str(mount.get("Source") or f"{mount['Type']}:{mount.get('Name', '')}")


def only_read(containers: Iterable[Document]) -> frozenset[str]:
    """What is mounted and none of these containers may write: the device's own, such as its /etc, and no client's data."""
    places: dict[bool, set[str]] = {True: set(), False: set()}
    for mount in (mount for container in containers for mount in container.get("Mounts") or []):
        if mount.get("Type") in ("bind", "volume"):
            places[bool(mount.get("RW", True))].add(_place(mount))
    return frozenset(places[False] - places[True])


def _address(container: Document) -> str:
    networks = container.get("NetworkSettings", {}).get("Networks") or {}
    return next((str(ep["IPAddress"]) for _, ep in sorted(networks.items()) if ep.get("IPAddress")), "")
