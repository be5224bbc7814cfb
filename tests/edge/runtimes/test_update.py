"""The real workload, built for real, on the process runtime: one version after the other on the same volume."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import httpx
import pytest

from reference.client.images import write_client_folder
from reference.core.model import Image
from reference.edge.runtimes.base import ContainerSpec
from reference.oci.build import build_image
from reference.oci.layout import blob_path
from tests.edge.runtimes.conftest import ProcessBench
from tests.edge.runtimes.contract import ignore, until


def built(bench: ProcessBench, folder: Path, version: str, defect: str | None = None) -> Image:
    write_client_folder(folder / version, version, defect)
    image = build_image(folder / version, folder / f"{version}.oci", version=version)
    for path in blob_path(image.layout, image.manifest_digest).parent.iterdir():
        bench.registry.content[f"sha256:{path.name}"] = path.read_bytes()
    return Image(f"{bench.registry.address}/opc", image.manifest_digest, version)


async def healthy(port: int) -> str:
    """The version that answers, once one does."""
    deadline = time.monotonic() + 5
    async with httpx.AsyncClient(trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/healthz")
            except httpx.HTTPError:
                await asyncio.sleep(0.001)
                continue
            if answer.status_code == 200:
                return str(answer.json()["version"])
    raise AssertionError("nothing became healthy")


async def test_a_new_version_goes_on_where_the_old_one_ended(
    bench: ProcessBench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config, data = tmp_path / "config.json", tmp_path / "data"
    data.mkdir()
    config.write_text(
        json.dumps({"port": port, "interval_ms": 2, "source": {"kind": "simulated", "seed": 1}})
    )
    mounts = {"/data": str(data), "/etc/opc-client/config.json": str(config)}
    names = []
    for generation, version in enumerate(("2.0.0", "2.1.0"), 1):
        image = built(bench, tmp_path, version)
        await bench.runtime.pull(image, ignore)
        names.append(await bench.runtime.create(ContainerSpec(generation, image, mounts)))
    await bench.runtime.start(names[0])
    assert await healthy(port) == "2.0.0"
    begin = time.perf_counter()
    await bench.runtime.stop(names[0], 5000)
    await bench.runtime.start(names[1])
    assert await healthy(port) == "2.1.0"
    with capsys.disabled():
        print(f" [out for {(time.perf_counter() - begin) * 1000:.0f} ms]", end="")
    await bench.runtime.stop(names[1], 5000)
    numbers = [json.loads(line)["seq"] for line in (data / "samples.log").read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_version_that_migrates_its_volume_and_dies_costs_the_old_one_nothing(
    bench: ProcessBench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config, data = tmp_path / "config.json", tmp_path / "data"
    data.mkdir()
    body = {"port": port, "interval_ms": 2, "source": {"kind": "simulated", "seed": 1}}
    config.write_text(json.dumps(body))
    mounts = {"/data": str(data), "/etc/opc-client/config.json": str(config)}
    runtime, names = bench.runtime, []
    for generation, (version, defect) in enumerate((("2.0.0", None), ("2.1.0", "bad-migration")), 1):
        image = built(bench, tmp_path, version, defect)
        await runtime.pull(image, ignore)
        names.append(await runtime.create(ContainerSpec(generation, image, mounts)))
    await runtime.start(names[0])
    assert await healthy(port) == "2.0.0"
    await runtime.prepare_snapshot(2, mounts)
    await runtime.stop(names[0], 5000)
    begin = time.perf_counter()
    await runtime.snapshot(2, mounts)
    took_ms = (time.perf_counter() - begin) * 1000
    collected = (data / "samples.log").read_bytes()
    await runtime.start(names[1])
    await until((data / "format").exists)
    await until(lambda: not bench.workloads())
    assert not (data / "samples.log").exists(), "it has done its harm"
    begin = time.perf_counter()
    await runtime.restore_snapshot(2)
    with capsys.disabled():
        print(f" [copied in {took_ms:.1f} ms, back in {(time.perf_counter() - begin) * 1000:.1f} ms]", end="")
    await runtime.start(names[0])
    assert await healthy(port) == "2.0.0"
    await runtime.stop(names[0], 5000)
    after = (data / "samples.log").read_bytes()
    assert after.startswith(collected)
    numbers = [json.loads(line)["seq"] for line in after.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    await runtime.remove_snapshot(2)
    assert (tmp_path / ".data.discarded-2" / "samples.v2").exists()
