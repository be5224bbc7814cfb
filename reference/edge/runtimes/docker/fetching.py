"""The port's part about images: pulled, named, put on the disk and read again before they count; repaired; removed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import docker

from reference.core.errors import BlackstartError, ImageError, Reason
from reference.core.model import Image, ImageState
from reference.edge.runtimes.base import OnProgress
from reference.edge.runtimes.docker.begun import Begun
from reference.edge.runtimes.docker.containers import Containers
from reference.edge.runtimes.docker.engine import Document, Engine, EngineFacts
from reference.edge.runtimes.docker.images import Images, ImageView, inspected
from reference.edge.runtimes.docker.memory import Memory
from reference.edge.runtimes.docker.pull import Puller
from reference.edge.runtimes.docker.words import HALF_THERE
from reference.edge.runtimes.failures import failures
from reference.oci.manifests import Platform


class Fetching:
    """See `base.Runtime`. Whoever inherits sets what is declared here."""

    _engine: Engine
    _images: Images
    _containers: Containers
    _memory: Memory
    _puller: Puller
    _begun: Begun
    _image_lock: asyncio.Lock

    async def sync(self) -> None:
        """See the port."""
        raise NotImplementedError

    @property
    def received_bytes(self) -> int:
        """Of layers, as the engine tells."""
        return self._puller.received_bytes

    def _looked_at(self, api: docker.APIClient) -> ImageView:
        """What the engine lists. One whose pull was cut is broken, however whole it looks; one in a pull is not there yet."""
        view, cut, pulled = self._images.look(api), self._begun.cut, self._begun.open
        states = {d: ImageState.BROKEN if d in cut else state for d, state in view.states.items()}
        return replace(view, states={d: state for d, state in states.items() if d not in pulled})

    async def pull(self, image: Image, progress: OnProgress) -> None:
        """See the port. A broken image is removed first: the engine takes what is there for whole.

        So it does with layers that a cut has left of a pull, and it lists no image by which they could be removed: then
        it is pulled, which costs nothing as far as they go, removed with them, and pulled again.
        """
        async with self._image_lock:
            view = await self._engine.ask("look at images", self._looked_at)
            if view.states.get(image.digest) is ImageState.PRESENT:
                return
            known = await self._engine.known()
            await self._note_name(image)
            if image.digest in view.states:
                await self._remove_broken(image)
            if self._begun.cut:
                if (
                    image.digest not in self._begun.cut
                ):  # A cut from here on leaves something of this one, too.
                    with failures(f"note the pull of {image.digest}"):
                        self._begun.begin(image.digest)
                await self._pulled(image, known, progress)
                await self._remove_broken(image)
            with failures(f"note the pull of {image.digest}"):
                self._begun.begin(image.digest)
            await self._pulled(image, known, progress)
            if not await self._kept(image, known):
                await self._remove_broken(image)
                await self._pulled(image, known, progress)
                if not await self._kept(image, known):
                    raise ImageError(
                        f"{image.digest} was pulled and cannot be read", todo="Look at the engine's log."
                    )
            with failures(f"note the pull of {image.digest}"):
                self._begun.synced()

    async def _note_name(self, image: Image) -> None:
        """Remember that the name is ours to take away again, if nobody has the image by it."""
        name = f"{image.repository}@{image.digest}"

        def work(api: docker.APIClient) -> None:
            if inspected(api, name) is None:
                self._memory.note_name(name)

        await self._engine.act(f"look for {image.digest}", work)

    async def _pulled(self, image: Image, known: EngineFacts, progress: OnProgress) -> None:
        try:
            await self._puller.pull(image, known, progress)
        except BlackstartError as error:
            if HALF_THERE not in str(error).lower():
                raise
            await self._puller.pull(image, known, progress)  # What a cut left is swept away by the first.

    async def _kept(self, image: Image, known: EngineFacts) -> bool:
        """Name it, have it on the disk, and read it again; whether it is whole. Raises ImageError for one not for us."""
        reference = f"{image.repository}@{image.digest}"

        def keep(api: docker.APIClient) -> Document | None:
            found = inspected(api, reference)
            if found is None:
                return None
            try:
                _check_platform(found, known.architecture)
            except ImageError:
                self._images.remove_broken(api, image)  # Nobody would know it, and nobody remove it.
                raise
            self._images.keep(api, image.digest, str(found["Id"]))
            return found

        found = await self._engine.act(f"keep {image.digest}", keep)
        if found is None:
            return False
        await self.sync()
        again = self._images.reference(image.digest)
        return await self._engine.ask("look at an image", lambda api: inspected(api, again)) is not None

    async def _remove_broken(self, image: Image) -> None:
        def work(api: docker.APIClient) -> None:
            self._images.remove_broken(api, image)

        await self._engine.act(f"remove the broken {image.digest}", work)

    async def remove_image(self, digest: str) -> None:
        """See the port. Layers that another image stands on stay."""
        async with self._image_lock:
            listed = digest in (await self._engine.ask("look at images", self._images.look)).states
            await self._engine.act(f"remove {digest}", lambda api: self._remove(api, digest))
            if listed:
                with failures(f"note that {digest} is gone"):
                    self._begun.forget(digest)

    def _remove(self, api: docker.APIClient, digest: str) -> None:
        self._containers.remove_unfinished(api, digest)
        self._images.remove(api, digest, self._memory)


def _check_platform(image: Document, architecture: str) -> None:
    """Raises ImageError(WRONG_ARCHITECTURE)."""
    offered = Platform(str(image.get("Architecture")), str(image.get("Os")))
    if (offered.architecture, offered.os) != (architecture, "linux"):
        what = f"the image is for {offered}, this device is linux/{architecture}"
        todo = "Publish the version for this device's architecture."
        raise ImageError(what, reason=Reason.WRONG_ARCHITECTURE, todo=todo)
