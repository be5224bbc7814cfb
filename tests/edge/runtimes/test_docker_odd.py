"""Odd containers and shared images: what nobody named is not lost, and what is a stranger's stays one's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from docker.errors import APIError

from reference.core.errors import DeviceError, Reason
from reference.core.model import Image, ImageState
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.docker.begun import Begun
from reference.edge.runtimes.docker.configuration import carry_over, create_body
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.facts import only_read
from reference.edge.runtimes.docker.memory import MOST, Memory
from reference.edge.runtimes.docker.pull import Puller
from reference.edge.runtimes.docker.words import classify, classify_start, create_error
from reference.oci.manifests import OCI_INDEX, OCI_MANIFEST, machine_architecture
from tests.edge.runtimes.contract import SLEEPER, ignore, made, one
from tests.edge.runtimes.docker_bench import DockerBench, on_python
from tests.edge.runtimes.registry import Built, digest
from tests.edge.runtimes.test_docker_carry import IMAGE, carried, container


def volume(path: str, name: str = "made-up") -> Document:
    return {"Type": "volume", "Name": name, "Destination": path, "RW": True, "Source": "/x"}


def mounts(host: Document, *found: Document) -> list[Document]:
    kept: list[Document] = carry_over(container(host=host, Mounts=list(found)), {}).host["Mounts"]
    return kept


def test_a_mount_without_a_source_is_handed_on_by_the_name_that_the_engine_gave_it() -> None:
    asked = {"Type": "volume", "Target": "/data", "VolumeOptions": {"NoCopy": True}}
    assert mounts({"Mounts": [asked]}, volume("/data")) == [{**asked, "Source": "made-up"}]
    tmpfs = {"Type": "tmpfs", "Target": "/data"}
    assert mounts({"Mounts": [tmpfs]}) == [tmpfs]


@pytest.mark.parametrize("path", ["/data/", "//data", "/x/../data", "/data"])
def test_a_path_is_the_same_one_however_it_is_written(path: str) -> None:
    assert mounts({"Binds": [f"named:{path}"]}, volume("/data", "named")) == []
    asked = {"Type": "volume", "Source": "named", "Target": path}
    assert mounts({"Mounts": [asked]}, volume("/data", "named")) == [asked]


def test_a_bind_that_is_a_path_alone_is_a_volume_without_a_name() -> None:
    found = carry_over(container(host={"Binds": ["/anon", "n:/n"]}, Mounts=[volume("/anon")]), {}).host
    assert found["Binds"] == ["n:/n"]
    assert [(m["Source"], m["Target"]) for m in found["Mounts"]] == [("made-up", "/anon")]


def test_a_volume_of_its_own_is_handed_on_beside_those_of_another_container() -> None:
    assert [m["Source"] for m in mounts({"VolumesFrom": ["other"]}, volume("/own"))] == ["made-up"]


def test_of_a_health_check_only_what_was_asked_for_is_handed_on() -> None:
    asked = {**IMAGE, "Healthcheck": {"Test": ["CMD", "check"], "Interval": 3}}
    assert carried(asked, IMAGE) == {"Healthcheck": {"Interval": 3}}
    found = carry_over(container(asked), {"Config": IMAGE})
    body = create_body(found, ContainerSpec(2, Image("r.test/x", "sha256:2", "2")), "t.c", "n", "r", {})
    assert json.loads(body["Labels"]["blackstart.asked"]) == ["Healthcheck.Interval"]
    after = {"Healthcheck": {"Test": ["CMD", "new"], "Interval": 3}, "Labels": body["Labels"]}
    assert carry_over(container(after), {}).config == {"Healthcheck": {"Interval": 3}}


def test_a_device_that_was_renamed_does_not_give_its_old_name_to_its_client() -> None:
    labels = {"blackstart.asked": "[]"}
    assert "Hostname" not in carried({"Hostname": "old", "Labels": labels}, host={"NetworkMode": "host"})
    labels = {"blackstart.asked": '["Hostname"]'}
    assert carried({"Hostname": "plc", "Labels": labels})["Hostname"] == "plc"
    asked = carry_over(container({"Hostname": "plc"}), {})
    assert asked.asked == ["Hostname"]
    host = {"NetworkMode": "host", "UTSMode": "host"}
    assert "Hostname" not in carried({"Hostname": "old"}, host=host), "the engine refuses it"


PAGE = "invalid character '<' looking for beginning of value: \"<html>connection refused</html>\""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (401, Reason.REGISTRY_UNAUTHORIZED),
        (403, Reason.REGISTRY_DENIED),
        (404, Reason.IMAGE_UNKNOWN),
        (429, Reason.REGISTRY_THROTTLED),
        (502, Reason.REGISTRY_ERROR),
    ],
)
def test_the_page_of_a_proxy_is_no_damaged_image(code: int, reason: Reason) -> None:
    assert classify(f"error parsing HTTP {code} response body: {PAGE}") is reason


@pytest.mark.parametrize(
    "program", ["docker-init", "docker-proxy", "containerd-shim-runc-v2", "runc", "iptables"]
)
def test_a_program_that_the_device_lacks_is_not_the_image_s_fault(program: str) -> None:
    text = f'something: exec: "{program}": executable file not found in $PATH: unknown'
    assert classify_start(text) is Reason.START_REFUSED


def test_a_container_whose_volumes_or_links_are_wanted_is_gone() -> None:
    for text in ("No such container: other", "could not get container for db", "Duplicate mount point: /x"):
        assert create_error(text, 1).reason is Reason.CONFIGURATION_INVALID


def test_names_that_our_pulls_have_made_are_remembered(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    assert memory.names() == ()
    for number in range(MOST + 1):
        memory.note_name(f"r.test/x@sha256:{number}")
    assert len(Memory(tmp_path).names()) == MOST
    memory.drop_names(f"sha256:{MOST}")
    assert Memory(tmp_path).names()[-1] == f"r.test/x@sha256:{MOST - 1}"
    (tmp_path / "docker" / "names.json").write_bytes(b"{")
    assert Memory(tmp_path).names() == (), "then all names are somebody else's"


# ---- on a real engine


@pytest.fixture
def bench(docker_bench: DockerBench) -> Iterator[DockerBench]:
    yield docker_bench
    for found in docker_bench.api.images():
        for name in [*(found["RepoTags"] or []), *(found["RepoDigests"] or [])]:
            if docker_bench.registry.address in name or "stranger" in name:
                with contextlib.suppress(APIError):
                    docker_bench.api.remove_image(name)


def fresh(bench: DockerBench) -> tuple[Image, Built]:
    """An image that no other test has."""
    built = on_python({"app/main.py": SLEEPER}, {"Labels": {"one": uuid4().hex}})
    return bench.image(built), built


def names(bench: DockerBench, image: Image) -> list[str]:
    found = [name for one in bench.api.images() for name in one["RepoDigests"] or []]
    return sorted(name.partition("@")[0] for name in found if name.endswith(image.digest))


async def test_a_volume_that_a_mount_made_up_is_there_in_the_next_container(bench: DockerBench) -> None:
    image, _ = fresh(bench)
    await bench.runtime.pull(image, ignore)
    asked = [{"Type": "volume", "Target": "/a"}, {"Type": "volume", "Source": "", "Target": "/b/"}]
    host: Any = {"Mounts": asked, "Binds": ["/c", f"{bench.client}:/d/"]}
    hand = bench.api.create_container(f"{image.repository}@{image.digest}", host_config=host)["Id"]
    try:
        await bench.runtime.adopt(hand)
        await bench.runtime.create(ContainerSpec(1, image, like=hand))
        old, new = (await bench.runtime.observe()).containers
        assert set(old.mounts) == {"/a", "/b", "/c", "/d"}
        assert (new.mounts, new.configuration) == (old.mounts, old.configuration)
    finally:
        bench.api.remove_container(hand, force=True)


async def test_an_image_that_a_stranger_has_by_its_digest_stays(bench: DockerBench) -> None:
    image, _ = fresh(bench)
    mirror = image.repository.replace("/opc", "/stranger")
    await asyncio.to_thread(bench.api.pull, mirror, image.digest)
    await bench.runtime.pull(image, ignore)
    assert names(bench, image) == [image.repository, mirror]
    await bench.runtime.remove_image(image.digest)
    assert names(bench, image) == [mirror]
    await asyncio.to_thread(bench.api.pull, image.repository, image.digest)
    await bench.runtime.pull(image, ignore)
    await bench.runtime.remove_image(image.digest)
    assert (await bench.runtime.observe()).images == {}
    assert names(bench, image) == [image.repository, mirror], "it was there before our pull"


async def test_no_pull_is_made_that_a_cut_would_not_find_noted(
    bench: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.state_dir / "docker").mkdir(parents=True, exist_ok=True)
    Begun(bench.state_dir, "an earlier boot").begin(f"sha256:{1:064x}")
    runtime, real, noted = await bench.again(), Puller.pull, []
    image, _ = fresh(bench)

    async def pull(self: Puller, *arguments: Any) -> None:
        noted.append(image.digest in Begun(bench.state_dir, "the next boot").cut)
        await real(self, *arguments)

    monkeypatch.setattr(Puller, "pull", pull)
    await runtime.pull(image, ignore)
    assert noted == [True, True]
    assert (await runtime.observe()).images == {image.digest: ImageState.PRESENT}


async def test_of_two_digests_of_one_image_the_unused_one_can_go(bench: DockerBench) -> None:
    image, built = fresh(bench)
    platform = {"architecture": machine_architecture(), "os": "linux"}
    size = len(built.content[built.digest])
    child = {"mediaType": OCI_MANIFEST, "digest": built.digest, "size": size, "platform": platform}
    images = []
    for word in ("first", "second"):
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child], "annotations": {"w": word}}
        index = json.dumps(body).encode()
        bench.registry.content[digest(index)] = index
        bench.registry.content_types[digest(index)] = OCI_INDEX
        images.append(Image(image.repository, digest(index), word))
        await bench.runtime.pull(images[-1], ignore)
    unused, used = images
    await bench.runtime.start(await bench.runtime.create(ContainerSpec(1, used)))
    await bench.runtime.remove_image(unused.digest)
    view = await bench.runtime.observe()
    assert view.images == {used.digest: ImageState.PRESENT}
    assert view.containers[0].image == used


async def test_who_runs_a_copy_of_a_container_of_ours_is_not_taken_for_it(bench: DockerBench) -> None:
    name = await made(bench)
    await bench.runtime.start(name)
    image = (await one(bench.runtime)).image
    bench.api.commit(name, "stranger-copy", bench.client)
    copy = bench.api.create_container(f"stranger-copy:{bench.client}")["Id"]
    try:
        assert (await one(bench.runtime)).id == name
        await bench.runtime.remove(name)
        await bench.runtime.remove_image(image.digest)
        assert (await bench.runtime.observe()).images == {}
        assert bench.api.inspect_container(copy)["State"]["Status"] == "created"
    finally:
        bench.api.remove_container(copy, force=True)


async def test_one_whose_making_was_interrupted_does_not_keep_its_image_for_ever(bench: DockerBench) -> None:
    image, _ = fresh(bench)
    await bench.runtime.pull(image, ignore)
    networks = [f"{bench.client.partition('.')[2]}-{n}" for n in ("one", "two")]
    for network in networks:
        bench.api.create_network(network)
    host: Any = bench.api.create_host_config(network_mode=networks[0])
    hand = bench.api.create_container(f"{image.repository}@{image.digest}", host_config=host)["Id"]
    try:
        bench.api.connect_container_to_network(hand, networks[1])
        await bench.runtime.adopt(hand)
        half = await bench.runtime.create(ContainerSpec(1, image, like=hand))
        bench.api.disconnect_container_from_network(half, networks[1])
        assert (await one(bench.runtime)).id == hand
        await bench.runtime.remove(hand)
        await bench.runtime.remove_image(image.digest)
        assert bench.mine() == []
        assert (await bench.runtime.observe()).images == {}
    finally:
        for container_id in (hand, *bench.mine()):
            with contextlib.suppress(APIError):
                bench.api.remove_container(container_id, force=True)
        for network in networks:
            bench.api.remove_network(network)


async def test_a_volume_that_is_mounted_only_while_it_is_used_is_not_copied(bench: DockerBench) -> None:
    """At rest its folder is empty: the copy would be, too, and what is brought back would bring nothing back."""
    name, there = bench.client.partition(".")[2], bench.folder / "elsewhere"
    there.mkdir()
    options = {"type": "none", "o": "bind", "device": str(there)}
    bench.api.create_volume(name, driver_opts=options)
    bench.api.create_volume(f"{name}-plain")
    try:
        volumes = bench.engine.data_root / "volumes"
        plain = {"/plain": str(volumes / f"{name}-plain" / "_data"), "/gone": "/no/volume/_data"}
        await bench.runtime.prepare_snapshot(1, {"/plain": plain["/plain"]})
        with pytest.raises(DeviceError) as caught:
            await bench.runtime.prepare_snapshot(2, {**plain, "/data": str(volumes / name / "_data")})
        assert (caught.value.reason, caught.value.where) == (Reason.CONFIGURATION_INVALID, "/data")
    finally:
        for one_of_them in (name, f"{name}-plain"):
            bench.api.remove_volume(one_of_them)


async def test_what_the_client_only_reads_is_not_exchanged(bench: DockerBench) -> None:
    """It is the device's: somebody else writes there, and would lose it."""
    image, _ = fresh(bench)
    await bench.runtime.pull(image, ignore)
    data, theirs = bench.folder / "data", bench.folder / "theirs"
    for folder in (data, theirs):
        folder.mkdir()
        (folder / "file").write_text("before")
    binds = [f"{data}:/data", f"{theirs}:/theirs:ro"]
    reference = f"{image.repository}@{image.digest}"
    hand = bench.api.create_container(reference, host_config=bench.api.create_host_config(binds=binds))["Id"]
    try:
        await bench.runtime.adopt(hand)
        mounts = (await one(bench.runtime)).mounts
        await bench.runtime.prepare_snapshot(1, mounts)
        await bench.runtime.snapshot(1, mounts)
        for folder in (data, theirs):
            (folder / "file").write_text("since")
        await bench.runtime.restore_snapshot(1)
        assert [(folder / "file").read_text() for folder in (data, theirs)] == ["before", "since"]
    finally:
        bench.api.remove_container(hand, force=True)


def test_what_one_container_may_write_is_data_whoever_reads_it_too() -> None:
    found = [
        container(
            Mounts=[{**volume("/a"), "RW": False}, {"Type": "tmpfs", "Destination": "/t", "RW": False}]
        ),
        container(Mounts=[{"Type": "bind", "Destination": "/b", "Source": "/etc", "RW": False}]),
    ]
    assert only_read(found) == {"/x", "/etc"}
    assert only_read([*found, container(Mounts=[volume("/c")])]) == {"/etc"}
