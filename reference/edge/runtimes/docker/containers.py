"""The client's containers in the engine: found, made, and told from all others. Everything blocks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import docker
from docker.errors import APIError, NotFound

from reference.core.errors import EngineError
from reference.core.model import Image
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.docker import configuration as how
from reference.edge.runtimes.docker import facts as seen
from reference.edge.runtimes.docker.configuration import ASKED, CLIENT, IMAGE, Carried
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.images import Images, inspected
from reference.edge.runtimes.docker.memory import Memory
from reference.edge.runtimes.docker.words import create_error, said

if TYPE_CHECKING:
    from reference.edge.settings import ClientSettings

_SAID = 30


class Containers:
    """Those of one client. Raises what the SDK does, OSError, and EngineError."""

    def __init__(self, client: str, setup: ClientSettings, images: Images, memory: Memory) -> None:
        self.client = client
        self._setup = setup
        self._images = images
        self.memory = memory
        self._said: dict[str, str | None] = {}
        """The engine's id of an image -> what the image itself has as our label: that never changes."""

    def all(self, api: docker.APIClient, unnoticed: Mapping[str, Document] | None = None) -> list[Document]:
        """All of ours, inspected one by one: one that is broken, or was just removed, must not hide the others.

        `unnoticed`: how those were whose end the engine may not have noticed; while it still lists one as running, it
        is not asked for it.
        """
        listed = api.containers(all=True, filters={"label": f"{CLIENT}={self.client}"})
        running = {str(found["Id"]) for found in listed if found.get("State") == "running"}
        ids = [str(found["Id"]) for found in listed]
        adopted = self.memory.adopted()
        if adopted is not None and adopted.container_id not in ids:
            ids.append(adopted.container_id)
        known = {name: seen for name, seen in (unnoticed or {}).items() if name in running}
        found = [known.get(container_id) or self.inspect(api, container_id) for container_id in ids]
        return [c for c in found if c is not None and self.ours(api, c)]

    @staticmethod
    def inspect(api: docker.APIClient, container_id: str) -> Document | None:
        """What the engine says of it; of one that it cannot look into, what its list says. None: there is none."""
        try:
            found: Document = api.inspect_container(container_id)
        except NotFound:
            return None
        except APIError:
            listed = api.containers(all=True, filters={"id": container_id})
            return next((seen.from_list(one) for one in listed if one["Id"] == container_id), None)
        return found

    def ours(self, api: docker.APIClient, container: Document) -> bool:
        """Whether it is the client's: by its label, or because it was adopted."""
        if self._labelled(container):
            return not self._of_a_copy(api, container)
        adopted = self.memory.adopted()
        return adopted is not None and adopted.container_id == container["Id"]

    def _of_a_copy(self, api: docker.APIClient, container: Document) -> bool:
        """Whether somebody has made an image of a container of ours (`docker commit`) and runs that.

        Its labels are its image's then. An image of ours never says of itself what our label says: its own digest.
        """
        image_id, label = str(container["Image"]), (container["Config"].get("Labels") or {}).get(IMAGE)
        if image_id not in self._said:
            image = inspected(api, image_id)
            if image is None:
                return False
            labels = (image.get("Config") or {}).get("Labels") or {}
            self._said = {**dict(list(self._said.items())[-_SAID:]), image_id: labels.get(IMAGE)}
        return label is not None and self._said[image_id] == label

    def mine(self, api: docker.APIClient, container_id: str) -> Document:
        """One of ours. Raises EngineError for one that is not there, or somebody else's: that is never touched."""
        found = self.inspect(api, container_id)
        if found is None:
            raise EngineError(f"there is no container {container_id[:12]!r}")
        if not self.ours(api, found):
            todo = "Adopt it first: blackstart edge adopt NAME."
            raise EngineError(
                f"container {container_id[:12]} is not the updater's, and is not touched", todo=todo
            )
        return found

    def image_of(self, container: Document) -> Image | None:
        """What its label says that it is of, or whoever adopted it."""
        adopted = self.memory.adopted()
        is_it = adopted is not None and adopted.container_id == container["Id"]
        return seen.image_of(container, adopted.image if adopted is not None and is_it else None)

    def carried(self, api: docker.APIClient, container: Document, host_name: str) -> Carried:
        """What it is beside its image. Where its image cannot be read any more, what was kept of it counts."""
        image = inspected(api, container["Image"])
        asked = ASKED in (container["Config"].get("Labels") or {})
        if image is None and not asked:
            kept = self.memory.template()
            if kept is not None and kept[0] == container["Id"]:
                return kept[1]
        return how.carry_over(container, image or {}, host_name)

    def create(self, api: docker.APIClient, spec: ContainerSpec, host_name: str) -> str:
        """Make it, or finish what was begun. Raises EngineError, DeviceError."""
        for container in self.all(api):
            if seen.generation_of(container) != spec.generation or not self._labelled(container):
                continue
            image = self.image_of(container)
            if image is None or image.digest != spec.image.digest:
                what = f"generation {spec.generation} is {container['Id'][:12]} already, of another image"
                raise EngineError(what, todo="Remove that container first.")
            self._connect(api, container)
            return str(container["Id"])
        reference, image_document = self._image(api, spec.image)
        carried = self._configuration(api, spec, host_name)
        name = f"{self.client.partition('.')[2]}-g{spec.generation}-{os.urandom(4).hex()}"
        body = how.create_body(carried, spec, self.client, name, reference, image_document)
        try:
            made = api.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
        except APIError as error:
            raise create_error(said(error), spec.generation) from error
        found = self.mine(api, made["Id"])
        self._connect(api, found)
        return str(found["Id"])

    def remove_unfinished(self, api: docker.APIClient, digest: str) -> None:
        """Those of an image that nobody wants any more, whose making was interrupted: no look shows them."""
        for container in self.all(api):
            image = self.image_of(container)
            if image is not None and image.digest == digest and missing_networks(container):
                api.remove_container(container["Id"], v=False)

    def _labelled(self, container: Document) -> bool:
        return (container["Config"].get("Labels") or {}).get(CLIENT) == self.client

    def _image(self, api: docker.APIClient, image: Image) -> tuple[str, Document]:
        """What to call it in a create call, and what the engine says of it. Raises EngineError."""
        kept = inspected(api, self._images.reference(image.digest))
        if kept is None:
            raise EngineError(
                f"the image {image.digest} is not here, or it is damaged", todo="Pull it again."
            )
        by_digest = f"{image.repository}@{image.digest}"
        known = by_digest in (kept.get("RepoDigests") or [])
        return by_digest if known else str(kept["Id"]), kept

    def _configuration(self, api: docker.APIClient, spec: ContainerSpec, host_name: str) -> Carried:
        """Current's; without it what was kept of it; for a first install what is set up."""
        like = self.inspect(api, spec.like) if spec.like else None
        if like is not None and self.ours(api, like) and seen.whole(like):
            carried = self.carried(api, like, host_name)
            self.memory.keep_template(str(like["Id"]), carried)
            return carried
        kept = self.memory.template()
        return kept[1] if kept is not None else how.first_install(spec, self._setup)

    def _connect(self, api: docker.APIClient, container: Document) -> None:
        """Connect it to all its networks: a create call does that for one only."""
        for network, endpoint in missing_networks(container).items():
            ipam = endpoint.get("IPAMConfig") or {}
            api.connect_container_to_network(
                container["Id"],
                network,
                ipv4_address=ipam.get("IPv4Address"),
                ipv6_address=ipam.get("IPv6Address"),
                aliases=endpoint.get("Aliases"),
                links=[tuple(link.split(":", 1)) for link in endpoint.get("Links") or []],
                link_local_ips=ipam.get("LinkLocalIPs"),
                driver_opt=endpoint.get("DriverOpts"),
            )


def missing_networks(container: Document) -> Mapping[str, Document]:
    """The networks that its label names and it is not connected to: whoever made it was interrupted."""
    wanted = how.networks_of(container)
    if str(container["State"].get("StartedAt") or seen.NEVER) != seen.NEVER:
        return {}  # It was whole once. What somebody has disconnected since stays so.
    there = container.get("NetworkSettings", {}).get("Networks") or {}
    return {name: endpoint for name, endpoint in wanted.items() if name not in there}


def kept_elsewhere(api: docker.APIClient, data_root: Path, mounts: Mapping[str, str]) -> list[str]:
    """Those mounts that are volumes with a device of their own (NFS, another disk, a folder): options of `local`.

    The engine mounts the device on the volume's folder while a container runs: what lies there at rest is not the data.
    """
    volumes, found = data_root / "volumes", []
    for inside, path in mounts.items():
        if Path(path).name == "_data" and Path(path).parent.parent == volumes:
            with contextlib.suppress(NotFound):
                options = api.inspect_volume(Path(path).parent.name).get("Options") or {}
                if options.keys() & {"device", "type"}:
                    found.append(inside)
    return found
