"""The bench of the Docker runtime: a real engine of the tests' own, a registry on loopback, images on a Python base.

All tests of a process share one engine; each is a client of its own in it, and takes down what it has made.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import docker
from docker.errors import APIError

from reference.core.model import Image
from reference.edge.runtimes.base import ContainerFacts
from reference.edge.runtimes.docker import DockerRuntime
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.images import keep_repository
from reference.edge.runtimes.pull import Access, PullLimits
from reference.edge.settings import ClientSettings, EngineSettings
from reference.engine import PrivateEngine, leftovers
from reference.oci.base import ENTRYPOINT, BaseLayer, python_base
from reference.oci.manifests import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, machine_architecture
from tests.edge.runtimes.conftest import Folder
from tests.edge.runtimes.contract import Codes, Room
from tests.edge.runtimes.registry import Built, LayerSource, Registry, digest, layer_of


@functools.cache
def base() -> BaseLayer:
    return python_base()


def on_python(
    files: LayerSource, config: Mapping[str, object] | None = None, *, architecture: str | None = None
) -> Built:
    """An image with a Python of its own below `files`. `config` is what else its configuration says."""
    tar = layer_of(files)
    packed, below = gzip.compress(tar, mtime=0), base()
    body = json.dumps(
        {
            "architecture": architecture or machine_architecture(),
            "os": "linux",
            "config": {"Entrypoint": list(ENTRYPOINT), **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [below.diff_id, digest(tar)]},
        }
    ).encode()
    layers = [(below.digest, below.size), (digest(packed), len(packed))]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest(body), "size": len(body)},
            "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": name, "size": size} for name, size in layers],
        }
    ).encode()
    content = {digest(data): data for data in (body, manifest, packed)}
    content[below.digest] = below.path.read_bytes()
    return Built(digest(manifest), content, [name for name, _ in layers])


def damage_layer(bench: DockerBench, image: Image) -> None:
    """What a cut leaves of a pull that was not synced: a layer whose links lead nowhere."""
    upper = Path(bench.inspected(image)["GraphDriver"]["Data"]["UpperDir"])
    for link in (upper.parent / "lower").read_text().split(":"):
        (bench.engine.data_root / "overlay2" / link).unlink()


def cut(engine: PrivateEngine) -> None:
    """All its processes die at once, and what is of this boot alone is gone: as far as a kill can be a cut."""
    leftovers.end_processes(engine.places)
    leftovers.unmount(engine.places)
    shutil.rmtree(engine.places.exec, ignore_errors=True)


class DockerBench:
    """A Docker runtime with its engine and its registry."""

    codes = Codes(stopped=137, quits=7, cut=None)
    """A program that is process 1 and knows nothing of SIGTERM does not get it: the kernel keeps it away."""

    def __init__(self, folder: Path, registry: Registry, engine: PrivateEngine, client: str) -> None:
        self.folder = folder
        self.registry = registry
        self.engine = engine
        self.client = client
        self.state_dir, self.run_dir = folder / "state", folder / "run"
        self.login: dict[str, tuple[str, str]] = {}
        self.setup = ClientSettings(port=8080)
        self.plain_http = frozenset({registry.address})
        self.api = docker.APIClient(base_url=engine.host, version="1.41", timeout=60)
        self.runtime = self.open()

    def open(self, limits: PullLimits | None = None, **options: str) -> DockerRuntime:
        access = Access(self.login, self.plain_http)
        restart = [sys.executable, "-m", "reference.engine", "restart", str(self.engine.places.folder)]
        self.runtime = DockerRuntime(
            self.state_dir,
            self.run_dir,
            self.client,
            self.setup,
            EngineSettings(socket=self.engine.host, restart=restart, patience_ms=0),
            access,
            limits or PullLimits(stall_ms=5000),
            **options,
        )
        return self.runtime

    def image(self, built: Built, version: str = "1") -> Image:
        self.registry.content_types[built.digest] = OCI_MANIFEST  # An engine believes what it is told.
        return Image(f"{self.registry.address}/opc", self.registry.publish(built), version)

    def publish(self, program: bytes, version: str = "1") -> Image:
        return self.image(on_python({"app/main.py": program}), version)

    def volume(self, content: str) -> Folder:
        return Folder(self.folder, content)

    def room(self) -> Room:
        there = self.folder / "room"
        there.mkdir(exist_ok=True)
        return Room({"/room": str(there)}, "/room", there)

    def told_mounts(self, environment: Mapping[str, str]) -> Mapping[str, str] | None:
        return None

    def kill(self, facts: ContainerFacts) -> None:
        os.kill(int(facts.life.partition(":")[0]), signal.SIGKILL)

    async def again(self) -> DockerRuntime:
        await self.runtime.close()
        return self.open()

    async def reboot(self) -> DockerRuntime:
        await self.runtime.close()
        cut(self.engine)
        shutil.rmtree(self.run_dir)
        self.engine.resume()
        return self.open()

    def inspected(self, image: Image) -> Document:
        found: Document = self.api.inspect_image(f"{image.repository}@{image.digest}")  # type: ignore[no-untyped-call]
        return found

    def mine(self) -> list[str]:
        """Ids of all containers of this client."""
        listed = self.api.containers(all=True, filters={"label": f"blackstart.client={self.client}"})
        return [str(found["Id"]) for found in listed]

    async def clear(self) -> None:
        """Take down all that this test has made."""
        await self.runtime.close()
        for container_id in self.mine():
            with contextlib.suppress(APIError):
                self.api.remove_container(container_id, force=True, v=True)
        for found in self.api.images(keep_repository(self.client)):
            for name in [*(found["RepoTags"] or []), *(found["RepoDigests"] or [])]:
                with contextlib.suppress(APIError):
                    self.api.remove_image(name, force=True)
        self.api.close()
