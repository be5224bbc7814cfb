"""A tag that is moved to another image, by somebody who may."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from chaos.faults._registry import VersionParams, behind, repository_of
from chaos.faults._registry_images import client_with
from chaos.faults.base import Family, Fault, FaultError, register
from reference.oci import manifests
from reference.oci.digests import sha256_of
from reference.oci.push import push_image
from reference.oci.references import parse_reference
from reference.stack.images import to_its_end


@register
class TagMoved(Fault):
    """See `about`."""

    name = "registry-tag-moved"
    family = Family.REGISTRY
    about = "The tag of a version is moved to another image in the registry: updates go by digest, and must not care."
    shown_by = "the digest that the registry answers for the tag"
    params = VersionParams
    _old: tuple[bytes, str] | None = None
    """The manifest that the tag named, and its media type."""

    _new: tuple[bytes, str] | None = None
    """The manifest that it is going to name."""

    async def prepare(self) -> None:
        """See the base: the other image."""
        self._repository = await repository_of(self.ground)
        self._host, self._credentials = behind(self.ground)
        async with self._registry() as registry:
            self._was = await self._manifest(registry, self.given.version)
            self._moved_to = await self._other(registry, sha256_of(self._was[0]))
            self._new = await self._manifest(registry, self._moved_to)

    async def begin(self) -> None:
        """See the base."""
        if self._new is None:
            await self.prepare()
        assert self._new is not None
        async with self._registry() as registry:
            self._old = self._was
            await self._put(registry, self._new)

    async def heal(self) -> None:
        """See the base."""
        if self._old is not None:
            async with self._registry() as registry:
                await self._put(registry, self._old)
            self._old = None

    async def fired(self) -> str:
        """See the base."""
        if self._old is None:
            return ""
        async with self._registry() as registry:
            found = await self._manifest(registry, self.given.version)
        before, now = sha256_of(self._old[0]), sha256_of(found[0])
        if now != self._moved_to or now == before:
            return ""
        return f"the registry answers {now} for the tag {self.given.version}, which was {before}"

    async def _other(self, registry: httpx.AsyncClient, than: str) -> str:
        """The digest of another image in the repository: of a version that is there, or of one made for this."""
        name = self._repository.partition("/")[2]
        for digest in sorted(set(self.ground.stack.digests.values()) - {than}):
            with contextlib.suppress(FaultError):
                await self._manifest(registry, digest)
                return digest
        version = "0.0.0-other"
        target = parse_reference(f"{self._host}/{name}:{version}")
        work = self.ground.guard.path(self.ground.folder) / "tag-moved"

        def publish() -> str:
            layout, _ = client_with(work, version, None, on_base=self.ground.stack.images_on_base)
            return push_image(layout, target, credentials=self._credentials, plain_http=True)

        return await to_its_end(asyncio.to_thread(publish))

    def _registry(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://{self._host}",
            auth=self._credentials,
            headers={"Accept": manifests.ACCEPT},
            trust_env=False,
            timeout=10.0,
        )

    async def _manifest(self, registry: httpx.AsyncClient, reference: str) -> tuple[bytes, str]:
        try:
            answer = await registry.get(self._path(reference))
        except httpx.HTTPError as error:
            raise FaultError(f"the registry does not answer: {error}", where=self._host) from error
        if answer.status_code != 200:
            raise FaultError(
                f"the registry answers {answer.status_code} for {reference}",
                where=f"{self._host}{self._path(reference)}",
                todo="Name a version that is published.",
            )
        return answer.content, answer.headers.get("Content-Type", manifests.OCI_MANIFEST)

    async def _put(self, registry: httpx.AsyncClient, manifest: tuple[bytes, str]) -> None:
        data, kind = manifest
        path = self._path(self.given.version)
        try:
            answer = await registry.put(path, content=data, headers={"Content-Type": kind})
        except httpx.HTTPError as error:
            raise FaultError(f"the registry does not answer: {error}", where=self._host) from error
        if answer.status_code != 201:
            raise FaultError(f"the registry answers {answer.status_code} to a push", where=self._host)

    def _path(self, reference: str) -> str:
        return f"/v2/{self._repository.partition('/')[2]}/manifests/{reference}"
