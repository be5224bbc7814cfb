"""A private engine for tests. Load it with `pytest_plugins`, or import the fixtures into a conftest.

`engine` lives for the whole session (one for each worker of xdist) and is shared: a test removes what it makes there,
and never stops it. `own_engine` is a test's own, to be hurt.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from reference.engine import Engine, PrivateEngine, why_not

DOCKER_HOST = "BLACKSTART_DOCKER_HOST"
"""An engine that runs already and may be used by tests: `unix:///var/run/docker.sock`."""
BUSYBOX = Path("/bin/busybox")


def needs_engine() -> None:
    """Skip, by name, where no private engine can run."""
    if reason := why_not():
        pytest.skip(f"docker: {reason}")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine that tests share."""
    if given := os.environ.get(DOCKER_HOST):
        yield Engine(Path(given.removeprefix("unix://")))
        return
    needs_engine()
    with PrivateEngine(tmp_path_factory.mktemp("engine")) as private:
        yield private
    private.wipe()


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[PrivateEngine]:
    """An engine of the test's own: restart it, kill it."""
    needs_engine()
    with PrivateEngine(tmp_path / "engine") as private:
        yield private
    private.wipe()


def static_image(
    engine: Engine, tag: str, files: Mapping[str, bytes] | None = None, changes: list[str] | None = None
) -> str:
    """Make an image of busybox and `files` in the engine, without a registry; its id. `changes` as in a Dockerfile."""
    # ldd fails for what needs no library.
    if (
        not BUSYBOX.exists()
        or subprocess.run(["ldd", BUSYBOX], check=False, capture_output=True).returncode == 0
    ):
        pytest.skip("docker: busybox-static is not installed")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {"bin/busybox": BUSYBOX.read_bytes(), **(files or {})}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
        for name in ("sh", "sleep", "httpd", "cat", "nc"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    client = engine.client()
    try:
        repository, _, name = tag.partition(":")
        client.api.import_image_from_data(
            buffer.getvalue(), repository=repository, tag=name or "latest", changes=changes
        )
        return str(client.images.get(tag).id)
    finally:
        client.close()
