"""A real registry with a real image, the front before it, and our own puller on the other side."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.proxies.registry import RegistryFront
from reference.client.images import write_client_folder
from reference.core.model import Image
from reference.edge.runtimes.bearer import Access
from reference.edge.runtimes.images import ImageStore
from reference.edge.runtimes.pull import Puller, PullLimits
from reference.oci.build import build_image
from reference.oci.layout import Layout, read_layout
from reference.oci.manifests import machine_architecture
from reference.oci.push import push_image
from reference.oci.references import parse_reference
from reference.pki.authority import CertificateFiles
from reference.stack import REGISTRY_USER, Stack
from reference.stack.images import PUBLISHER

NAME = "opc-client"
NOISE_BYTES = 300_000
"""Of the image, that do not compress: there has to be something to pull."""
SOON_S = 10.0
"""What is awaited comes within this, or the test has failed."""


async def until(true: Callable[[], bool]) -> None:
    """Return once it is. Raises TimeoutError."""
    async with asyncio.timeout(SOON_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass
class RegistryBench:
    """What a test works with."""

    folder: Path
    stack: Stack
    front: RegistryFront
    layout: Layout
    stores: list[Path] = field(default_factory=list)

    @property
    def login(self) -> tuple[str, str]:
        return REGISTRY_USER, self.stack.registry().pull_password

    @property
    def layer(self) -> str:
        """The image's one layer."""
        return self.layout.manifest.layers[0].digest

    @property
    def layer_size(self) -> int:
        return self.layout.manifest.layers[0].size

    async def pull(
        self,
        digest: str | None = None,
        *,
        store: Path | None = None,
        stall_ms: int = 10_000,
        ca: Path | None = None,
    ) -> Path:
        """Pull through the front, to a new store or a given one; answers the image's root. Raises BlackstartError."""
        if store is None:
            store = self.folder / f"store-{len(self.stores)}"
            self.stores.append(store)
        store.mkdir(exist_ok=True)
        access = Access(
            {self.front.host: self.login}, frozenset() if ca else frozenset({self.front.host}), ca
        )
        image = Image(f"{self.front.host}/{NAME}", digest or self.layout.descriptor.digest, "2.0.0")
        images = ImageStore(store)
        puller = Puller(
            images, access, PullLimits(connect_ms=5_000, stall_ms=stall_ms), machine_architecture()
        )
        await puller.pull(image, lambda _: None)
        return images.rootfs(image.digest)


def make_layout(folder: Path, version: str = "2.0.0") -> Layout:
    write_client_folder(folder / "client", version)
    (folder / "client" / "noise").write_bytes(random.Random(version).randbytes(NOISE_BYTES))
    build_image(folder / "client", folder / "layout", version=version)
    return read_layout(folder / "layout")


@contextlib.asynccontextmanager
async def registry_bench(folder: Path, tls: CertificateFiles | None = None) -> AsyncIterator[RegistryBench]:
    """A registry and its front; nothing else of a stack runs."""
    stack, front = Stack(folder / "stack"), RegistryFront(seed=1)
    try:
        handle = await stack.start_registry("registry")
        await front.start(handle.host, tls=tls)
        layout = await asyncio.to_thread(make_layout, folder)
        target = parse_reference(f"{handle.host}/{NAME}:2.0.0")
        credentials = (PUBLISHER, handle.push_password)
        await asyncio.to_thread(push_image, layout.path, target, credentials=credentials, plain_http=True)
        stack.add_front("registry", front.host)
        yield RegistryBench(folder, stack, front, layout)
    finally:
        await front.stop()
        await stack.stop()
