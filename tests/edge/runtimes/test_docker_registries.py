"""The engine pulls from our registry and from Debian's (CNCF Distribution): with credentials, and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from reference.core.errors import Reason, RegistryError
from reference.core.model import Image, ImageState
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.bearer import Access
from reference.edge.runtimes.docker import DockerRuntime
from reference.oci.manifests import OCI_MANIFEST
from reference.pki.authority import DevelopmentCA
from reference.registry.users import RegistryUsers, make_user
from tests.edge.runtimes.contract import SLEEPER, ignore, one
from tests.edge.runtimes.docker_bench import DockerBench, on_python
from tests.edge.runtimes.test_pull_real import free_port
from tests.registry.processes import registry

USER, PASSWORD = "device", "s3cret"
HASHED = "$2b$04$FomUrAvuPLpgW8zKIOTDvef.Br18Jj0kiXy6ZZGnY2yar8f.Iff/K"
"""Of the password; bcrypt, which is all that Distribution reads."""
CERTIFICATES = Path("/etc/docker/certs.d")
"""Where an engine looks for the authorities of its registries."""


@dataclass(frozen=True)
class Place:
    """Where a registry listens, and how it shows who it is."""

    host: str = "127.0.0.1"
    authority: DevelopmentCA | None = None


Registry = Callable[[Path, Place], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def ours(folder: Path, place: Place) -> AsyncIterator[str]:
    users = folder / "users.json"
    RegistryUsers({USER: make_user(USER, PASSWORD, push=True)}).save(users)
    more = ["--users", str(users), "--host", place.host]
    if place.authority is not None:
        files = place.authority.issue_server("registry", (place.host,))
        more += ["--tls-cert", str(files.cert), "--tls-key", str(files.key)]
    with registry(folder / "ours", *more) as running:
        yield f"{place.host}:{running.port}"


@asynccontextmanager
async def ours_with_tokens(folder: Path, place: Place) -> AsyncIterator[str]:
    users = folder / "users.json"
    RegistryUsers({USER: make_user(USER, PASSWORD, push=True)}).save(users)
    with registry(folder / "ours", "--users", str(users), "--auth", "token", "--host", place.host) as running:
        yield f"{place.host}:{running.port}"


@asynccontextmanager
async def distribution(folder: Path, place: Place) -> AsyncIterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    (folder / "htpasswd").write_text(f"{USER}:{HASHED}\n")
    lines = [
        "version: 0.1", "storage:", "  filesystem:", f"    rootdirectory: {folder / 'distribution'}",
        "auth:", "  htpasswd:", "    realm: tests", f"    path: {folder / 'htpasswd'}",
        "http:", f"  addr: {place.host}:{port}",
    ]  # fmt: skip
    if place.authority is not None:
        files = place.authority.issue_server("registry", (place.host,))
        lines += ["  tls:", f"    certificate: {files.cert}", f"    key: {files.key}"]
    (folder / "registry.yml").write_text("\n".join(lines) + "\n")
    process = await asyncio.create_subprocess_exec(
        program, "serve", str(folder / "registry.yml"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20), _speaker(f"{place.host}:{port}", place) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get("/v2/")
                    break
                await asyncio.sleep(0.02)
        yield f"{place.host}:{port}"
    finally:
        process.kill()
        await process.wait()


def _speaker(host: str, place: Place) -> httpx.AsyncClient:
    scheme, trust = "http", ssl.create_default_context()
    if place.authority is not None:
        scheme = "https"
        trust.load_verify_locations(place.authority.certificate)
    return httpx.AsyncClient(
        base_url=f"{scheme}://{host}", trust_env=False, auth=(USER, PASSWORD), verify=trust
    )


async def publish(host: str, place: Place) -> Image:
    """Push an image that a real engine runs."""
    built = on_python({"app/main.py": SLEEPER, "app/noise": os.urandom(2_000_000)})
    async with _speaker(host, place) as client:
        for name, data in built.content.items():
            if name != built.digest:
                begun = await client.post("/v2/opc/blobs/uploads/")
                where = client.base_url.join(begun.headers["Location"]).copy_add_param("digest", name)
                (await client.put(where, content=data)).raise_for_status()
        (
            await client.put(
                f"/v2/opc/manifests/{built.digest}",
                content=built.content[built.digest],
                headers={"Content-Type": OCI_MANIFEST},
            )
        ).raise_for_status()
    return Image(f"{host}/opc", built.digest, "1")


@pytest.fixture
def bench(docker_bench: DockerBench) -> DockerBench:
    return docker_bench


async def runtime_for(bench: DockerBench, host: str, password: str, plain: bool = True) -> DockerRuntime:
    """One that has these credentials for this registry."""
    await bench.runtime.close()
    bench.login.clear()
    bench.login[host] = (USER, password)
    bench.registry.address = host  # what the runtime is allowed to reach without TLS
    if plain:
        return bench.open()
    bench.runtime = DockerRuntime(
        bench.state_dir, bench.run_dir, bench.client, bench.setup, bench.runtime._settings,
        Access(bench.login, frozenset()),
    )  # fmt: skip
    return bench.runtime


@pytest.mark.parametrize("kind", [ours, ours_with_tokens, distribution], ids=lambda kind: kind.__name__)
async def test_with_credentials(bench: DockerBench, tmp_path: Path, kind: Registry) -> None:
    async with kind(tmp_path, Place()) as host:
        image = await publish(host, Place())
        with pytest.raises(RegistryError) as caught:
            await (await runtime_for(bench, host, "wrong")).pull(image, ignore)
        assert caught.value.reason is Reason.REGISTRY_UNAUTHORIZED
        assert "wrong" not in str(caught.value)
        runtime = await runtime_for(bench, host, PASSWORD)
        assert (await runtime.observe()).images == {}, "what failed has left nothing"
        await runtime.pull(image, ignore)
        assert (await runtime.observe()).images == {image.digest: ImageState.PRESENT}
        assert runtime.received_bytes > 0
    # The registry is gone: all that is needed is here.
    created = await runtime.create(ContainerSpec(1, image))
    await runtime.start(created)
    assert (await one(runtime)).image == image
    await runtime.stop(created, 0)


@pytest.fixture
def trusted() -> Iterator[Callable[[str, Path], None]]:
    """Tell every engine of this machine to trust an authority for one registry; taken back afterwards."""
    made: list[Path] = []

    def trust(host: str, authority: Path) -> None:
        missing = [
            path for path in (CERTIFICATES.parent, CERTIFICATES, CERTIFICATES / host) if not path.exists()
        ]
        (CERTIFICATES / host).mkdir(parents=True)
        made.extend(missing)
        shutil.copy(authority, CERTIFICATES / host / "ca.crt")

    yield trust
    if made:
        (made[-1] / "ca.crt").unlink(missing_ok=True)
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()


@pytest.mark.parametrize("kind", [ours, distribution], ids=lambda kind: kind.__name__)
async def test_an_authority_that_is_not_trusted_and_then_is(
    bench: DockerBench, tmp_path: Path, kind: Registry, trusted: Callable[[str, Path], None]
) -> None:
    # Not on loopback: an engine does not look at certificates there.
    place = Place(bench.engine.bridge.address, DevelopmentCA.open_or_create(tmp_path / "ca"))
    assert place.authority is not None
    async with kind(tmp_path, place) as host:
        image = await publish(host, place)
        runtime = await runtime_for(bench, host, PASSWORD, plain=False)
        with pytest.raises(RegistryError) as caught:
            await runtime.pull(image, ignore)
        assert caught.value.reason is Reason.REGISTRY_UNREACHABLE
        assert "x509: certificate signed by unknown authority" in str(caught.value)
        assert caught.value.todo.startswith(
            f"Put the registry's CA certificate into /etc/docker/certs.d/{host}/ca.crt"
        )
        assert "\n" not in str(caught.value)
        trusted(host, place.authority.certificate)
        await runtime.pull(image, ignore)
        assert (await runtime.observe()).images == {image.digest: ImageState.PRESENT}


async def test_plain_http_that_is_not_on_loopback(bench: DockerBench, tmp_path: Path) -> None:
    place = Place(bench.engine.bridge.address)
    async with distribution(tmp_path, place) as host:
        image = await publish(host, place)
        runtime = await runtime_for(bench, host, PASSWORD)
        with pytest.raises(RegistryError, match=f"Give the engine '{host}' in `insecure-registries`"):
            await runtime.pull(image, ignore)
