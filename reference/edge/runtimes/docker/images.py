"""Images of one client: known by a tag for each, so that no prune of what nobody has named takes them.

`blackstart/TENANT.CLIENT:sha256-HEX` is put on at once when an image was pulled, and is what makes it ours. The tags
`current` and `previous` beside it are for people and decide nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import docker
from docker.errors import APIError, NotFound

from reference.core.errors import EngineError
from reference.core.model import Image, ImageState
from reference.edge.runtimes.docker.configuration import CLIENT, IMAGE
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.memory import Adopted, Memory

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_KEPT = re.compile(r"sha256-([0-9a-f]{64})")
CURRENT, PREVIOUS = "current", "previous"


def keep_repository(client: str) -> str:
    """Where the tags of a client's images are."""
    if _COMPONENT.fullmatch(client):
        return f"blackstart/{client}"
    return (
        f"blackstart/{hashlib.sha256(client.encode()).hexdigest()[:32]}"  # `a-.b` names a client and no image
    )


def keep_tag(digest: str) -> str:
    """The tag of an image by its digest as commanded."""
    return digest.replace(":", "-")


@dataclass(frozen=True, slots=True)
class ImageView:
    """All images of the client: what the engine says of each, one by one."""

    states: Mapping[str, ImageState] = field(default_factory=dict)
    """By digest as commanded."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Digest as commanded -> the engine's id."""
    documents: Mapping[str, Document] = field(default_factory=dict)
    """By the engine's id: what `docker image inspect` shows."""

    def truly(self, image: Image, image_id: str) -> Image:
        """What a container that says to be of `image` really runs: the engine's id decides."""
        found = self.documents.get(image_id)
        if found is None or self.ids.get(image.digest) == image_id:
            return image
        digests = [str(name).partition("@") for name in found.get("RepoDigests") or []]
        if not digests or image.digest in [digest for _, _, digest in digests]:
            return image
        repository, _, digest = digests[0]
        return Image(repository, digest, "")


class Images:
    """The images of one client. Everything blocks; raises what the SDK does."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.repository = keep_repository(client)

    def reference(self, digest: str) -> str:
        """The tag that keeps it."""
        return f"{self.repository}:{keep_tag(digest)}"

    def look(self, api: docker.APIClient) -> ImageView:
        """List, then inspect one by one: a broken one must not hide the others."""
        states: dict[str, ImageState] = {}
        ids: dict[str, str] = {}
        documents: dict[str, Document] = {}
        for digest, image_id in self._kept(api):
            ids[digest] = image_id
            found = documents.get(image_id) or inspected(api, image_id)
            states[digest] = ImageState.BROKEN if found is None else ImageState.PRESENT
            if found is not None:
                documents[image_id] = found
        return ImageView(states, ids, documents)

    def _kept(self, api: docker.APIClient) -> list[tuple[str, str]]:
        found = []
        for summary in api.images(self.repository):
            for name in summary.get("RepoTags") or []:
                repository, _, tag = str(name).rpartition(":")
                if repository == self.repository and (match := _KEPT.fullmatch(tag)):
                    found.append((f"sha256:{match[1]}", str(summary["Id"])))
        return found

    def keep(self, api: docker.APIClient, digest: str, image_id: str) -> None:
        """Put the tag on that makes it ours."""
        api.tag(image_id, self.repository, keep_tag(digest))

    def name(self, api: docker.APIClient, role: str, digest: str | None) -> None:
        """Have the tag for people on this image, or on none."""
        wanted = (inspected(api, self.reference(digest)) or {}).get("Id") if digest else None
        now = (inspected(api, f"{self.repository}:{role}") or {}).get("Id")
        if wanted is not None and wanted != now:
            api.tag(wanted, self.repository, role)
        elif wanted is None and now is not None:
            _untag(api, f"{self.repository}:{role}")

    def remove(self, api: docker.APIClient, digest: str, memory: Memory) -> None:
        """Take our names from it, the one that keeps it last: as long as that is there, it can be removed again.

        With its last name the engine removes it, and what only it used. Strangers' names stay: of those by digest the
        memory knows which our own pulls have made. Raises EngineError when a container of ours stands on it.
        """
        view = self.look(api)
        image_id = view.ids.get(digest)
        if image_id is None:
            return
        shared = any(other == image_id for d, other in view.ids.items() if d != digest)
        users = api.containers(all=True, filters={"ancestor": image_id})
        adopted = memory.adopted()
        mine = [u for u in users if self._stands_on(u, image_id, digest, adopted, shared=shared)]
        if mine:
            what = f"the image {digest} is used by container {mine[0]['Id'][:12]}"
            raise EngineError(what, todo="Remove the container first.")
        found = view.documents.get(image_id) or {}
        digests = {str(name) for name in found.get("RepoDigests") or [] if name.endswith(f"@{digest}")}
        names = (
            [] if users else sorted(digests & set(memory.names()))
        )  # What strangers stand on is theirs from now on.
        if not shared:
            tags = [f"{self.repository}:{role}" for role in (CURRENT, PREVIOUS)]
            names += [name for name in tags if name in (found.get("RepoTags") or [])]
        for name in (*names, self.reference(digest)):
            _untag(api, name, force=view.states[digest] is ImageState.BROKEN)
        memory.drop_names(digest)

    def _stands_on(
        self, user: Document, image_id: str, digest: str, adopted: Adopted | None, *, shared: bool
    ) -> bool:
        """Whether it is ours, and of this digest: two digests may be one image for the engine (an index and another)."""
        if user.get("ImageID") != image_id:
            return False  # It runs what somebody has made of this image.
        labels = user.get("Labels") or {}
        if adopted is not None and user["Id"] == adopted.container_id:
            return not shared or adopted.image.digest == digest
        if labels.get(CLIENT) != self.client:
            return False
        return not shared or str(labels.get(IMAGE, "")).endswith(f"@{digest}")

    def remove_broken(self, api: docker.APIClient, image: Image) -> None:
        """Have nothing of it left that the engine would take for whole."""
        found = {self.reference(image.digest), f"{image.repository}@{image.digest}"}
        found |= {image_id for digest, image_id in self._kept(api) if digest == image.digest}
        for name in sorted(found):
            _untag(api, name, force=True)


def _untag(api: docker.APIClient, name: str, *, force: bool = False) -> None:
    try:
        api.remove_image(name, force=force)
    except NotFound:
        return


def inspected(api: docker.APIClient, name: str) -> Document | None:
    """What the engine says of an image; None when there is none, or it cannot be read: then it is broken."""
    try:
        found: Document = api.inspect_image(name)  # type: ignore[no-untyped-call]
    except APIError:
        return None
    return found
