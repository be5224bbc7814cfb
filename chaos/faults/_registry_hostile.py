"""What the faults have in common that publish a version of their own: one that no updater may unpack."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

from chaos.faults._registry import behind, repository_of
from chaos.faults._registry_images import HostileLayer, client_with
from chaos.faults.base import Family, Instant, Wants
from chaos.proxies.registry import Handle, Rule, Watched
from chaos.scenario.model import FaultUse
from reference.oci.push import push_image
from reference.oci.references import parse_reference
from reference.stack.images import to_its_end


class HostileVersion(Instant):
    """Pushes and registers its `version`; whoever is asked for it then pulls it. Nothing is taken back."""

    family = Family.REGISTRY
    handle: Handle | None = None
    _made: tuple[str, str, str] | None = None
    """Repository, the image's digest, its layer's digest."""

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:
        """The version is not to be published by the bench."""
        given: Any = cls.params.model_validate(use.with_)
        wants.published.add(given.version)

    @abstractmethod
    def layer(self) -> HostileLayer:
        """What lies on top of the image. Blocking."""

    async def prepare(self) -> None:
        """See the base: the image, in the registry already; the service does not know of it."""
        ground, version = self.ground, self.given.version
        repository = await repository_of(ground)
        host, credentials = behind(ground)
        target = parse_reference(f"{host}/{repository.partition('/')[2]}:{version}")
        layer = await asyncio.to_thread(self.layer)

        def publish() -> str:
            work = ground.guard.path(ground.folder) / "hostile" / version
            layout, _ = client_with(work, version, layer, on_base=ground.stack.images_on_base)
            return push_image(layout, target, credentials=credentials, plain_http=True)

        self._made = repository, await to_its_end(asyncio.to_thread(publish)), layer.digest

    async def begin(self) -> None:
        """See the base."""
        if self._made is None:
            await self.prepare()
        assert self._made is not None
        repository, digest, layer = self._made
        await self.ground.stack.register(self.given.version, repository, digest)
        self.handle = self.ground.front.add(Rule(Watched(), "layer", reference=layer))

    @property
    def served(self) -> tuple[int, int]:
        """How often devices were sent the layer, and how many bytes of it."""
        return (self.handle.hits, self.handle.bytes) if self.handle is not None else (0, 0)
