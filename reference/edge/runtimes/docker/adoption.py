"""Taking over a container that somebody else has made: looked at, refused or remembered; nothing about it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import docker

from reference.core.errors import EngineError, InputError
from reference.core.model import Image
from reference.edge.runtimes.docker.configuration import CLIENT, Carried, policy_word
from reference.edge.runtimes.docker.containers import Containers
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.images import Images, inspected
from reference.edge.runtimes.docker.memory import Adopted

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_VERSION_LABEL = "org.opencontainers.image.version"
_OTHERS = {
    "com.docker.swarm.service.id": "Docker Swarm would make it again by itself: take it out of its service first",
    "io.kubernetes.pod.uid": "Kubernetes would make it again by itself",
}
"""Labels of those who look after their containers themselves."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """A container that can be adopted, and what an update will do with it."""

    container_id: str
    name: str
    image: Image
    restart_policy: str
    carried: Carried
    """What every update will keep."""
    of_the_image: Mapping[str, object]
    """What it has from its image alone: it goes with the image."""
    warnings: tuple[str, ...] = ()


def look_at(api: docker.APIClient, containers: Containers, name: str, host_name: str) -> Adoption:
    """What adopting it would mean. Raises InputError for a container that cannot be adopted."""
    found = containers.inspect(api, name)
    if found is None:
        raise InputError(f"there is no container {name!r}", todo="See docker ps --all.")
    _refuse(containers, found, name)
    document = inspected(api, found["Image"])
    if document is None:
        todo = "Pull its image again, or make the container anew."
        raise InputError(f"the image of {name!r} is gone or damaged: it could not be brought back", todo=todo)
    carried = containers.carried(api, found, host_name)
    defaults = document.get("Config") or {}
    return Adoption(
        container_id=str(found["Id"]),
        name=str(found["Name"]).lstrip("/"),
        image=_image(found, document),
        restart_policy=policy_word(found["HostConfig"]),
        carried=carried,
        of_the_image={
            k: v for k, v in defaults.items() if v and k in _FROM_IMAGE and k not in carried.config
        },
        warnings=tuple(_warnings(found)),
    )


_FROM_IMAGE = (
    "Env", "Cmd", "Entrypoint", "Labels", "User", "WorkingDir", "ExposedPorts", "Volumes", "Healthcheck", "StopSignal",
)  # fmt: skip


def _refuse(containers: Containers, found: Document, name: str) -> None:
    labels = found["Config"].get("Labels") or {}
    if CLIENT in labels:
        whose = (
            "this client's already"
            if labels[CLIENT] == containers.client
            else f"that of client {labels[CLIENT]}"
        )
        raise InputError(f"container {name!r} was made by an updater: it is {whose}")
    adopted = containers.memory.adopted()
    if adopted is not None and adopted.container_id != found["Id"]:
        raise InputError(f"container {adopted.name!r} is adopted already, and a device has one client")
    if found["HostConfig"].get("AutoRemove"):
        todo = "Start it without --rm."
        raise InputError(
            f"container {name!r} removes itself when it is stopped: nothing could go back to it", todo=todo
        )
    for label, why in _OTHERS.items():
        if label in labels:
            raise InputError(f"container {name!r} is looked after by somebody else", todo=f"{why}.")


def _warnings(found: Document) -> list[str]:
    labels = found["Config"].get("Labels") or {}
    said = []
    if "com.docker.compose.project" in labels:
        said.append(
            "it was made by Docker Compose: `docker compose up` may make it again beside the updater's"
        )
    if not found["State"].get("Running"):
        said.append("it does not run: the updater will start it")
    return said


def _image(found: Document, document: Document) -> Image:
    """Its image by digest. One that was built here is known by the engine's id, and no registry has it."""
    named = str(found["Config"].get("Image", ""))
    known = [str(name).partition("@") for name in document.get("RepoDigests") or []]
    repository, tag = _split(named)
    chosen = next((pair for pair in known if pair[0] == repository), known[0] if known else None)
    if chosen is not None:
        repository, digest = chosen[0], chosen[2]
    else:
        repository, digest = (repository or "local"), str(document["Id"])
    label = str(((document.get("Config") or {}).get("Labels") or {}).get(_VERSION_LABEL, ""))
    version = next((word for word in (label, tag) if _VERSION.fullmatch(word)), "adopted")
    return Image(repository, digest, version)


def _split(reference: str) -> tuple[str, str]:
    """Repository and tag of `[host[:port]/]name[:tag][@digest]`; neither of a bare id."""
    if reference.startswith("sha256:"):
        return "", ""
    name, at, _ = reference.partition("@")
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "" if at else "latest")


def adopt(api: docker.APIClient, containers: Containers, images: Images, adoption: Adoption) -> None:
    """Remember it, durably: its image is named, so that no prune takes it, and what it is is kept."""
    found = containers.inspect(api, adoption.container_id)
    if found is None:
        raise EngineError(f"container {adoption.name!r} is gone")
    images.keep(api, adoption.image.digest, str(found["Image"]))
    containers.memory.note_name(
        f"{adoption.image.repository}@{adoption.image.digest}"
    )  # The updater's from now on.
    containers.memory.keep_template(adoption.container_id, adoption.carried)
    containers.memory.adopt(Adopted(adoption.container_id, adoption.name, adoption.image))
