"""A device on a real engine, seen and hurt from outside."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from reference.core.errors import ServiceError
from reference.engine import Engine, PrivateEngine
from reference.stack.box import Site
from reference.stack.docker_box import MARK, DockerBox
from tests.engine import engine, own_engine, static_image

__all__ = ["engine", "own_engine"]
FOR_EVER = ["/bin/busybox", "sleep", "1000"]
DIGEST, CONFIG = "sha256:" + "a" * 64, "b" * 64


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site("acme", "press-1", tmp_path / "device", 4_840)
    found.run_dir.mkdir(parents=True)
    return found


def run(box: DockerBox, site: Site, *, always: bool = False) -> str:
    """A container of the device's, started; its id."""
    image = static_image(box.engine, "box:1")
    with box.asked() as docker:
        found = docker.containers.create(
            image, FOR_EVER, environment={MARK: str(site.root)}, network_mode="host",
            restart_policy={"Name": "always"} if always else None,
        )  # fmt: skip
        found.start()
        return str(found.id)


async def alive(box: DockerBox, many: int) -> list[int]:
    """Its processes, once they are so many: a container that was started is its runtime's for a moment."""
    async with asyncio.timeout(10):
        while len(found := box.processes()) != many:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def test_one_process_for_each_container_whatever_else_runs_in_it(engine: Engine, site: Site) -> None:
    box = DockerBox(site, engine=engine)
    assert box.processes() == []
    name = run(box, site)
    [first] = await alive(box, 1)
    with box.asked() as docker:
        docker.containers.get(name).exec_run(FOR_EVER, detach=True)  # as a health check is run
    assert box.processes() == [first]
    other = run(box, site)
    await alive(box, 2)
    foreign = DockerBox(Site("acme", "press-2", site.root.with_name("other"), 1), engine=engine)
    await foreign.clear()
    assert len(box.processes()) == 2, "another device's are not touched"
    await box.clear()
    assert box.processes() == []
    with box.asked() as docker:
        assert {name, other}.isdisjoint(c.id for c in docker.containers.list(all=True))


async def test_what_is_killed_is_gone_and_a_boot_brings_back_what_the_policy_says(
    own_engine: PrivateEngine, site: Site
) -> None:
    box = DockerBox(site, engine=own_engine)
    run(box, site, always=True)
    [before] = await alive(box, 1)
    (site.run_dir / "boot-id").write_text("this boot")
    await box.kill()
    assert box.processes() == []
    assert own_engine.pid is None
    await box.boot()
    assert not (site.run_dir / "boot-id").exists()
    [after] = await alive(box, 1)
    assert after != before
    await box.kill()
    await box.clear()
    assert box.processes() == [], "an engine that was killed is started to clear it"
    own_engine.stop()
    await box.clear()
    assert own_engine.pid is None, "one that was taken down is not: who would take it down again?"


async def test_an_engine_that_is_not_ours_is_not_killed(tmp_path: Path, site: Site) -> None:
    box = DockerBox(site, engine=Engine(tmp_path / "docker.sock"))
    with pytest.raises(ServiceError, match="not ours to stop"):
        await box.kill()


def test_an_image_is_there_while_the_engine_has_its_file(tmp_path: Path, site: Site) -> None:
    box = DockerBox(site, engine=PrivateEngine(tmp_path / "engine"))
    store = tmp_path / "engine" / "data" / "image" / "overlay2"
    file = store / "imagedb" / "content" / "sha256" / CONFIG
    file.parent.mkdir(parents=True)
    (store / "repositories.json").write_text('{"Repositories": {}}')
    with pytest.raises(ServiceError, match="do not name the image"):
        box.has_image(DIGEST)
    named = {"r:5000/opc-client": {f"r:5000/opc-client@{DIGEST}": f"sha256:{CONFIG}"}}
    (store / "repositories.json").write_text(json.dumps({"Repositories": named}))
    file.touch()
    assert box.has_image(DIGEST)
    file.unlink()
    assert not box.has_image(DIGEST)


@pytest.mark.parametrize("network", ["host", "bridge"])
def test_the_agent_is_told_where_its_client_is(tmp_path: Path, site: Site, network: str) -> None:
    box = DockerBox(site, engine=PrivateEngine(tmp_path / "engine"), network=network)
    said = box.settings()
    assert said["runtime"] == "docker"
    assert said["engine"] == {"socket": box.engine.host, "restart": ["/bin/true"]}, "others may be on it"
    own = DockerBox(site, engine=PrivateEngine(tmp_path / "engine"), alone=True, network=network).settings()
    assert "restart" in str(own["engine"]) and str(tmp_path / "engine") in str(own["engine"])
    published = {} if network == "host" else {"publish": {"4840/tcp": "127.0.0.1:4840"}}
    assert said["client"] == {"network": network, "environment": {MARK: str(site.root)}, **published}
    assert box.listens == ("127.0.0.1" if network == "host" else "0.0.0.0")
