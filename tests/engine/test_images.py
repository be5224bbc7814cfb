"""Images of the client run on a real engine: the one that is made here without an engine, and the Dockerfile's."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reference.client.images import write_client_folder
from reference.engine import Engine
from reference.oci.base import python_base
from reference.oci.build import Healthcheck, build_image
from reference.oci.push import push_image
from reference.oci.references import parse_reference
from reference.registry.users import RegistryUsers, make_user
from reference.support.processes import ROOT, start_module
from tests.engine.test_private import eventually, free_port, page

CHECK = ("python3", "-I", "-S", "/app/check.py")


@pytest.fixture
def docker_client(engine: Engine) -> Iterator[Any]:
    client = engine.client()
    yield client
    client.close()


def run_client(docker_client: Any, image: str, folder: Path, port: int) -> Any:
    """On the host's network, with a volume and a configuration."""
    (folder / "data").mkdir()
    (folder / "config.json").write_text(json.dumps({"port": port}))
    volumes = {
        str(folder / "data"): {"bind": "/data"},
        str(folder / "config.json"): {"bind": "/etc/opc-client/config.json"},
    }
    return docker_client.containers.run(image, detach=True, network_mode="host", volumes=volumes)


def judge(container: Any, port: int, version: str) -> None:
    try:
        assert eventually(lambda: b'"status": "ok"' in page(f"127.0.0.1:{port}/healthz")), container.logs()
        assert json.loads(page(f"127.0.0.1:{port}/healthz"))["version"] == version

        def health() -> str:
            container.reload()
            return str(container.attrs["State"]["Health"]["Status"])

        assert eventually(lambda: health() == "healthy"), container.attrs["State"]["Health"]
        container.stop(timeout=9)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0, "SIGTERM reached the program"
    finally:
        container.remove(force=True, v=True)


async def test_an_image_made_without_an_engine(engine: Engine, docker_client: Any, tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    accounts = {"device": make_user("device", "pull"), "publisher": make_user("publisher", "push", push=True)}
    RegistryUsers(accounts).save(users)
    registry = await start_module(
        "reference.registry", "--data", str(tmp_path / "registry"), "--users", str(users), "--port", "0",
        log_path=tmp_path / "registry.log",
    )  # fmt: skip
    try:
        name = f"127.0.0.1:{(await registry.ready())['port']}/opc-client"
        write_client_folder(tmp_path / "app", "2.1.0")
        check = Healthcheck(CHECK, interval_ms=500)
        build_image(
            tmp_path / "app", tmp_path / "image", version="2.1.0", base=python_base(), healthcheck=check
        )
        digest = await asyncio.to_thread(
            push_image, tmp_path / "image", parse_reference(f"{name}:2.1.0"),
            credentials=("publisher", "push"), plain_http=True,
        )  # fmt: skip
        auth = {"username": "device", "password": "pull"}

        def pull_and_run() -> None:
            lines = list(docker_client.api.pull(name, tag=digest, auth_config=auth, stream=True, decode=True))
            assert not [line for line in lines if "error" in line], lines
            port = free_port()
            judge(run_client(docker_client, f"{name}@{digest}", tmp_path, port), port, "2.1.0")
            docker_client.api.remove_image(f"{name}@{digest}", force=True)

        await asyncio.to_thread(pull_and_run)
    finally:
        await registry.stop()


def test_the_dockerfile(engine: Engine, docker_client: Any, tmp_path: Path) -> None:
    """With the same base that we make in place of the one that it names, which nothing here can pull."""
    docker_client.api.import_image_from_data(
        gzip.decompress(python_base().path.read_bytes()), repository="base-for-tests", tag="1"
    )
    context = tmp_path / "context"
    shutil.copytree(ROOT / "reference/client/app", context / "reference/client/app")
    shutil.copytree(ROOT / "deploy", context / "deploy")
    image, _ = docker_client.images.build(
        path=str(context), dockerfile="deploy/client.Dockerfile", tag="built:1",
        buildargs={"BASE": "base-for-tests:1", "VERSION": "3.0.0"}, rm=True,
    )  # fmt: skip
    assert image.labels["org.opencontainers.image.version"] == "3.0.0"
    assert image.attrs["Config"]["Entrypoint"] == ["python3", "-I", "-S", "/app/main.py"]
    port = free_port()
    judge(run_client(docker_client, "built:1", tmp_path, port), port, "3.0.0")
    docker_client.api.remove_image("built:1", force=True)
