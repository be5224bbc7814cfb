"""Devices that people have enrolled end with `up`, whatever their client runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference.cli import enrolled
from reference.core.model import Image
from reference.edge.settings import EdgeSettings
from tests.fakes.runtime import FakeRuntime

IMAGE = Image("r.test/opc", "sha256:" + "1" * 64, "1.0.0")


async def test_the_client_is_ended_on_what_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "nowhere"
    settings = EdgeSettings.model_validate({
        "tenant_id": "acme", "client_id": "edge-2", "runtime": "docker",
        "state_dir": tmp_path, "run_dir": tmp_path / "run",
        "broker": {"host": "127.0.0.1", "port": 1, "ca": nowhere, "cert": nowhere, "key": nowhere},
        "registries": [], "client": {"port": 1}, "command_keys": [nowhere],
    })  # fmt: skip
    runtime, asked = FakeRuntime(), []
    runtime.install(IMAGE, 1)
    runtime.install(IMAGE, 2, running=False)

    def opened(given: EdgeSettings) -> FakeRuntime:
        asked.append(given.runtime)
        return runtime

    monkeypatch.setattr(enrolled, "open_runtime", opened)
    await enrolled._end(settings)
    assert (asked, runtime.running()) == (["docker"], [])
