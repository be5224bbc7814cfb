"""Pulls from real registries, whole and resumed: what the fake registry promises, they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from reference.core.errors import Reason, RegistryError
from reference.core.model import Image, ImageState
from reference.edge.credentials import CredentialFile, Keyring
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.pull import Access
from reference.oci.manifests import OCI_MANIFEST
from reference.registry.users import RegistryUsers, make_user
from tests.edge.runtimes.contract import SLEEPER, ignore
from tests.edge.runtimes.registry import Built, build
from tests.registry.processes import registry

CONFIG = """
version: 0.1
storage:
  filesystem:
    rootdirectory: {folder}
http:
  addr: 127.0.0.1:{port}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def distribution(tmp_path: Path) -> AsyncIterator[str]:
    """`host:port` of it."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(folder=tmp_path / "registry", port=port))
    process = await asyncio.create_subprocess_exec(
        program, "serve", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/v2/")
                    break
                await asyncio.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def push(host: str, built: Built, auth: httpx.Auth | None = None) -> Image:
    async with httpx.AsyncClient(base_url=f"http://{host}", trust_env=False, auth=auth) as client:
        for digest, data in built.content.items():
            if digest == built.digest:
                continue
            begun = await client.post("/v2/opc/blobs/uploads/")
            where = httpx.URL(begun.headers["Location"]).copy_add_param("digest", digest)
            (await client.put(where, content=data)).raise_for_status()
        done = await client.put(
            f"/v2/opc/manifests/{built.digest}",
            content=built.content[built.digest],
            headers={"Content-Type": OCI_MANIFEST},
        )
        done.raise_for_status()
    return Image(f"{host}/opc", built.digest, "1")


async def test_whole_and_resumed(distribution: str, tmp_path: Path) -> None:
    built = build([{"app/main.py": SLEEPER, "app/noise": os.urandom(3_000_000)}])
    image = await push(distribution, built)
    layer = built.content[built.layers[0]]
    runtime = ProcessRuntime(tmp_path / "state", tmp_path / "run", Access({}, frozenset({distribution})))
    beginning = tmp_path / "state" / "partial" / built.layers[0].partition(":")[2]
    beginning.write_bytes(layer[:2_000_000])
    await runtime.pull(image, ignore)
    assert (await runtime.observe()).images == {image.digest: ImageState.PRESENT}
    config = next(len(data) for data in built.content.values() if data.startswith(b'{"architecture"'))
    assert runtime.received_bytes == len(layer) - 2_000_000 + config
    await runtime.close()


async def test_our_registry_with_its_own_tokens(tmp_path: Path) -> None:
    """The challenge, the token endpoint and the range of `reference.registry`, and credentials from a file."""
    users = tmp_path / "users.json"
    device = make_user("device", "s3cret", push=True)
    RegistryUsers({"device": device}).save(users)
    credentials = tmp_path / "credentials.json"
    built = build([{"app/main.py": SLEEPER, "app/noise": os.urandom(1_000_000)}])
    layer = built.content[built.layers[0]]
    with registry(tmp_path / "registry", "--users", str(users), "--auth", "token") as running:
        image = await push(running.host, built, httpx.BasicAuth("device", "s3cret"))
        credentials.write_text(f'{{"{running.host}": {{"username": "device", "password": "wrong"}}}}')
        credentials.chmod(0o600)
        keyring = Keyring({running.host: CredentialFile(credentials)})
        access = Access(keyring, frozenset({running.host}))
        runtime = ProcessRuntime(tmp_path / "state", tmp_path / "run", access)
        with pytest.raises(RegistryError) as caught:
            await runtime.pull(image, ignore)
        assert caught.value.reason is Reason.REGISTRY_UNAUTHORIZED
        credentials.write_text(credentials.read_text().replace("wrong", "s3cret"))
        beginning = tmp_path / "state" / "partial" / built.layers[0].partition(":")[2]
        beginning.write_bytes(layer[:700_000])
        await runtime.pull(image, ignore)
        assert (await runtime.observe()).images == {image.digest: ImageState.PRESENT}
        assert runtime.received_bytes < len(layer) - 700_000 + 1_000
        await runtime.close()
