"""One open registry for all tests of this folder: each uses a repository of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.registry.processes import Running, registry


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with registry(tmp_path_factory.mktemp("registry") / "data", "--no-auth") as found:
        yield found


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.base, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository that no other test uses."""
    return "t/" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-").replace(
        "--", "-"
    )
