"""A real registry with a real image, the front before it, and our own puller on the other side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from chaos.proxies.registry import Handle, RegistryFront
from reference.client.images import write_client_folder
from reference.core.model import Image
from reference.edge.runtimes.bearer import Access
from reference.edge.runtimes.images import ImageStore
from reference.edge.runtimes.pull import Puller, PullLimits
from reference.oci.build import build_image
from reference.oci.digests import sha256_of
from reference.oci.layout import Layout, read_layout
from reference.oci.manifests import OCI_MANIFEST, machine_architecture
from reference.oci.push import push_image
from reference.oci.references import parse_reference
from reference.pki.authority import CertificateFiles
from reference.registry.users import RegistryUsers, make_user
from reference.stack import HOST, REGISTRY_USER, Stack
from reference.stack.images import PUBLISHER
from reference.stack.parts import RegistryHandle
from tests.registry.processes import registry

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
        wanted = digest or self.layout.descriptor.digest
        return await pull_through(self.front, self.login, wanted, store, stall_ms=stall_ms, ca=ca)


async def pull_through(
    front: RegistryFront,
    login: tuple[str, str],
    digest: str,
    store: Path,
    *,
    stall_ms: int = 10_000,
    ca: Path | None = None,
) -> Path:
    """Pull as a device does; answers the image's root. Raises BlackstartError."""
    store.mkdir(exist_ok=True)  # noqa: ASYNC240
    access = Access({front.host: login}, frozenset() if ca else frozenset({front.host}), ca)
    images = ImageStore(store)
    limits = PullLimits(connect_ms=5_000, stall_ms=stall_ms)
    puller = Puller(images, access, limits, machine_architecture())
    await puller.pull(Image(f"{front.host}/{NAME}", digest, "2.0.0"), lambda _: None)
    return images.rootfs(digest)


def make_layout(folder: Path, version: str = "2.0.0") -> Layout:
    write_client_folder(folder / "client", version)
    (folder / "client" / "noise").write_bytes(random.Random(version).randbytes(NOISE_BYTES))
    build_image(folder / "client", folder / "layout", version=version)
    return read_layout(folder / "layout")


def client_of(bench: RegistryBench, host: str | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://{host or bench.front.host}", auth=bench.login, trust_env=False, timeout=SOON_S
    )


def hit(handle: Handle) -> bool:
    return handle.hits > 0


async def push_by_hand(client: httpx.AsyncClient, data: bytes, *, in_pieces: bool) -> None:
    """A manifest with `data` as its layer, tagged `t`; the registry's own Locations are followed as they are."""
    config = b"{}"
    for blob in (data, config):
        begun = await client.post("/v2/a/b/blobs/uploads/")
        where = client.base_url.join(begun.headers["Location"])
        assert where.netloc == client.base_url.netloc, "it leads back to the front"
        if in_pieces:

            async def pieces(of: bytes) -> AsyncIterator[bytes]:
                for start in range(0, len(of), 70_000):
                    yield of[start : start + 70_000]

            sent = await client.patch(where, content=pieces(blob))  # chunked, as an engine pushes
            assert sent.status_code == 202, sent.text
            where = client.base_url.join(sent.headers["Location"])
            done = await client.put(where.copy_merge_params({"digest": sha256_of(blob)}))
        else:
            done = await client.put(where.copy_merge_params({"digest": sha256_of(blob)}), content=blob)
        assert done.status_code == 201, done.text
    described = [
        {"mediaType": kind, "digest": sha256_of(blob), "size": len(blob)}
        for kind, blob in (
            ("application/vnd.oci.image.config.v1+json", config),
            ("application/vnd.oci.image.layer.v1.tar", data),
        )
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described[0],
        "layers": described[1:],
    }
    done = await client.put(
        "/v2/a/b/manifests/t", content=json.dumps(manifest), headers={"Content-Type": OCI_MANIFEST}
    )
    assert done.status_code == 201, done.text


@dataclass(frozen=True)
class Shelf:
    """A registry that many tests share, and the image in it."""

    host: str
    layout: Layout
    passwords: dict[str, str]


@contextlib.contextmanager
def shelf(folder: Path) -> Iterator[Shelf]:
    """Start it; nobody but tests that pull and push names of their own may use it."""
    passwords = {REGISTRY_USER: "p" * 24, PUBLISHER: "q" * 24}
    users = {name: make_user(name, word, push=name == PUBLISHER) for name, word in passwords.items()}
    RegistryUsers(users).save(folder / "users.json")
    layout = make_layout(folder)
    with registry(folder / "data", "--users", str(folder / "users.json")) as running:
        host = f"{HOST}:{running.port}"
        credentials = (PUBLISHER, passwords[PUBLISHER])
        push_image(
            layout.path, parse_reference(f"{host}/{NAME}:2.0.0"), credentials=credentials, plain_http=True
        )
        yield Shelf(host, layout, passwords)


@contextlib.asynccontextmanager
async def registry_bench(
    folder: Path, of: Shelf, tls: CertificateFiles | None = None
) -> AsyncIterator[RegistryBench]:
    """A front before the shelf; nothing of a stack runs."""
    stack, front = Stack(folder / "stack"), RegistryFront(seed=1)
    await front.start(of.host, tls=tls)
    try:
        pull, push = of.passwords[REGISTRY_USER], of.passwords[PUBLISHER]
        stack._registries["registry"] = RegistryHandle(None, front.host, pull, push, of.host)
        yield RegistryBench(folder, stack, front, of.layout)
    finally:
        await front.stop()
