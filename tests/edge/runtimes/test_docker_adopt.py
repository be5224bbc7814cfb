"""A container made by hand is adopted and updated: what `docker inspect` shows is what it was, less what must differ."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reference.client.images import write_client_folder
from reference.core.errors import InputError, JournalError, Reason
from reference.core.model import Command, Image, Installed
from reference.core.update import UpdateRecord
from reference.edge.adopt import adopt, main
from reference.edge.journal import Journal
from reference.edge.main import alone, open_journal, open_runtime
from reference.edge.observe import Eyes
from reference.edge.settings import EdgeSettings
from reference.oci.build import build_image
from reference.oci.layout import blob_path
from reference.oci.manifests import OCI_MANIFEST
from tests.edge.bench import edge_settings
from tests.edge.runtimes.contract import until
from tests.edge.runtimes.docker_agent import HEALTH, running_agent, updated
from tests.edge.runtimes.docker_bench import DockerBench, base
from tests.edge.runtimes.test_pull_real import free_port

ENGINE_MADE: dict[str, str] = json.loads(Path(__file__).with_name("adopted_differs.json").read_text())
OF_THE_IMAGE = {"Image", "Config.Image", "Config.Env"}
OURS = {"Name", "Config.Labels", "NetworkSettings.Networks.*.Aliases"}
SECRET = "not-for-the-eyes-of-others"


def version(bench: DockerBench, folder: Path, name: str, defect: str | None = None) -> Image:
    """A version of the real client in the registry."""
    write_client_folder(folder / name, name, defect)
    built = build_image(folder / name, folder / f"{name}.oci", version=name, base=base())
    for path in blob_path(built.layout, built.manifest_digest).parent.iterdir():
        bench.registry.content[f"sha256:{path.name}"] = path.read_bytes()
    bench.registry.content_types[built.manifest_digest] = OCI_MANIFEST
    return Image(f"{bench.registry.address}/opc", built.manifest_digest, name)


@dataclass
class Hand:
    """A client that somebody has set up by hand, in a hurry and well."""

    bench: DockerBench
    folder: Path
    settings: EdgeSettings
    image: Image
    name: str
    network: str
    id: str = ""

    def inspect(self, container_id: str = "") -> dict[str, Any]:
        found: dict[str, Any] = self.bench.api.inspect_container(container_id or self.id)
        found["Mounts"].sort(key=lambda mount: str(mount["Destination"]))  # an engine shows them in any order
        return found

    def run(self, healthcheck: Any = None) -> None:
        """`docker run`, as its documentation shows it."""
        api, port = self.bench.api, self.settings.client.port
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps({"port": 8080, "host": "0.0.0.0"}))
        host = api.create_host_config(
            binds=[
                f"{self.folder / 'data'}:/data:rw",
                f"{self.folder / 'config.json'}:/etc/opc-client/config.json:ro",
            ],
            port_bindings={8080: ("127.0.0.1", port)},
            restart_policy={"Name": "unless-stopped"},
            network_mode=self.network,
            mem_limit=256 << 20,
        )
        networking = api.create_networking_config(
            {self.network: api.create_endpoint_config(aliases=["opc"])}  # type: ignore[arg-type]
        )
        made = api.create_container(
            f"{self.image.repository}@{self.image.digest}",
            name=self.name, environment={"TZ": "Europe/Vienna", "API_KEY": SECRET}, ports=[8080],
            host_config=host, networking_config=networking, labels={"site": "north"}, healthcheck=healthcheck,
        )  # fmt: skip
        self.id = str(made["Id"])
        api.start(self.id)


@pytest.fixture
async def hand(docker_bench: DockerBench, tmp_path: Path) -> AsyncIterator[Hand]:
    api, name = docker_bench.api, docker_bench.client.partition(".")[2]
    network = f"{name}-net"
    api.create_network(network)
    settings = edge_settings(
        tmp_path, free_port(), runtime="docker", engine={"socket": docker_bench.engine.host},
        registries=[{"host": docker_bench.registry.address, "plain_http": True}], tenant_id="test", client_id=name,
        ballast_bytes=0,
    )  # fmt: skip
    image = version(docker_bench, tmp_path, "1.0.0")
    await asyncio.to_thread(api.pull, image.repository, tag=image.digest)
    found = Hand(docker_bench, tmp_path, settings, image, f"{name}-by-hand", network)
    yield found
    for container in api.containers(all=True, filters={"name": name}):
        api.remove_container(container["Id"], force=True, v=True)
    api.remove_network(network)


def leaves(document: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value with its path. Empty things are no difference: one engine says null where another says []."""
    if isinstance(document, dict) and document:
        for key, value in document.items():
            inside = "*" if path == "NetworkSettings.Networks" else key
            yield from leaves(value, f"{path}.{inside}".lstrip("."))
    else:
        yield path, document or None


def differences(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    was, now = dict(leaves(before)), dict(leaves(after))
    return {path for path in was | now if was.get(path) != now.get(path)}


def unexplained(paths: set[str]) -> set[str]:
    labels = {
        path for path in paths if re.fullmatch(r"Config\.Labels\.(blackstart|org\.opencontainers)\..*", path)
    }
    return paths - labels - set(ENGINE_MADE) - OF_THE_IMAGE - OURS


async def test_only_what_must_differ_differs(hand: Hand) -> None:
    hand.run()
    before = hand.inspect()
    adoption = await adopt(hand.settings, hand.name, None)
    assert adoption.container_id == hand.id
    assert hand.inspect() == before, "nothing about it changes"
    target = version(hand.bench, hand.folder, "2.0.0")
    async with running_agent(hand.settings) as agent:
        record = await updated(agent, 7, target)
        assert record.current is not None
        assert record.current.container_id is not None
        assert (record.current.image, record.current.generation) == (target, 7)
        after = hand.inspect(record.current.container_id)
    assert unexplained(differences(before, after)) == set()
    # What is explained is still what it has to be.
    assert after["Config"]["Labels"]["site"] == "north"
    assert after["Config"]["Labels"]["org.opencontainers.image.version"] == "2.0.0"
    assert {"TZ=Europe/Vienna", f"API_KEY={SECRET}", "OPC_VERSION=2.0.0"} <= set(after["Config"]["Env"])
    assert "OPC_VERSION=1.0.0" not in after["Config"]["Env"]
    aliases = set(after["NetworkSettings"]["Networks"][hand.network]["Aliases"])
    assert aliases - {after["Id"][:12]} == {"opc", hand.name}, "its old name has become an alias"
    assert after["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert hand.id not in {c["Id"] for c in hand.bench.api.containers(all=True)}, "the old one is gone"


async def test_a_version_that_fails_brings_the_one_made_by_hand_back(hand: Hand) -> None:
    hand.run()
    await adopt(hand.settings, hand.name, None)
    before = hand.inspect()
    async with running_agent(hand.settings) as agent:
        record = await updated(agent, 3, version(hand.bench, hand.folder, "2.0.0", "crash-on-start"))
        assert record.current is not None
        assert record.current.container_id == hand.id
        assert agent.memory.finished[-1].reason is not None
    after = hand.inspect()
    changed = differences(before, after) - set(ENGINE_MADE)
    assert changed == set()
    assert after["State"]["Running"]


async def test_the_agent_leaves_what_it_was_given_as_it_is(hand: Hand) -> None:
    """Started, restarted, and started again: the container made by hand runs through it all, in one life."""
    hand.run()
    await adopt(hand.settings, hand.name, None)
    before = hand.inspect()
    for _ in range(2):
        async with running_agent(hand.settings) as agent:
            await until(lambda: agent.has_looked, seconds=10)
            assert agent.memory.record.current is not None
    assert hand.inspect() == before


# ---- a cut between any two writes


@pytest.mark.parametrize("then", ["again", "agent"])
async def test_a_cut_in_between_is_made_good(hand: Hand, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """The runtime knows it, the journal is not made yet: it is made from what runs, by whoever comes first."""
    hand.run()
    Journal.create(hand.settings.state_dir / "journal.db", UpdateRecord(epoch="old", floor=4))

    def cut(*_: object) -> None:
        raise JournalError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "create", cut)
        with pytest.raises(JournalError, match="the power is gone"):
            await adopt(hand.settings, hand.name, None)
    before = hand.inspect()
    assert not (hand.settings.state_dir / "journal.db").exists(), (
        "one that knows no client would have it stopped"
    )
    if then == "again":
        await adopt(hand.settings, hand.name, None)
    else:
        runtime = open_runtime(hand.settings)
        eyes = Eyes(runtime, hand.settings.client, hand.settings.run_dir, 1)
        (await open_journal(hand.settings, eyes, runtime)).close()
        await runtime.close()
    current = journaled(hand).current
    assert current is not None
    assert current.container_id == hand.id
    assert hand.inspect() == before


def journaled(hand: Hand) -> UpdateRecord:
    journal = Journal.open(hand.settings.state_dir / "journal.db")
    try:
        return journal.memory.record
    finally:
        journal.close()


CHECK = {"test": ["CMD", "python3", "-I", "-S", "/app/check.py"], "interval": 200_000_000}


@pytest.mark.parametrize(
    ("check", "given", "probe"),
    [(None, None, "/healthz"), (None, "/alive", "/alive"), (CHECK, None, ""), (CHECK, "/alive", "/alive"),
     ({"test": ["NONE"]}, None, "/healthz")],
)  # fmt: skip
async def test_how_its_health_is_asked(hand: Hand, check: Any, given: str | None, probe: str) -> None:
    hand.run(check)
    await adopt(hand.settings, hand.name, given)
    current = journaled(hand).current
    assert current is not None
    assert current.health.probe == probe


async def test_again_is_success_and_another_one_is_refused(hand: Hand) -> None:
    hand.run()
    first = await adopt(hand.settings, hand.name, None)
    record = journaled(hand)
    assert await adopt(hand.settings, hand.id, "/other") == first
    assert journaled(hand) == record
    hand.bench.api.stop(hand.id, timeout=1)
    adopted_id, hand.name = hand.id, f"{hand.name}-2"
    hand.run()
    with pytest.raises(InputError) as caught:
        await adopt(hand.settings, hand.name, None)
    assert "adopted already, and a device has one client" in str(caught.value)
    assert record.current is not None
    assert record.current.container_id == adopted_id


# ---- what is refused


async def test_only_where_no_agent_runs(hand: Hand) -> None:
    hand.run()
    hand.settings.state_dir.mkdir(parents=True, exist_ok=True)
    with alone(hand.settings.state_dir), pytest.raises(JournalError) as caught:
        await adopt(hand.settings, hand.name, None)
    assert caught.value.reason is Reason.JOURNAL_LOCKED
    assert caught.value.todo.startswith("End that one first")


async def test_not_over_a_client_that_the_journal_knows(hand: Hand) -> None:
    hand.run()
    current = Installed(hand.image, HEALTH, 5, "0123456789abcdef")
    Journal.create(hand.settings.state_dir / "journal.db", UpdateRecord(epoch="e", floor=5, current=current))
    with pytest.raises(InputError, match=r"this device's client is 1\.0\.0 in container 0123456789ab"):
        await adopt(hand.settings, hand.name, None)


async def test_not_over_an_update_that_is_not_told_yet(hand: Hand) -> None:
    hand.run()
    queued = Command("job", 6, hand.image, HEALTH, 4_000_000_000_000)
    Journal.create(hand.settings.state_dir / "journal.db", UpdateRecord(epoch="e", floor=6, queued=queued))
    with pytest.raises(JournalError, match="holds an update") as caught:
        await adopt(hand.settings, hand.name, None)
    assert caught.value.reason is Reason.CONFLICT
    assert journaled(hand).queued == queued


async def test_the_process_runtime_has_nothing_to_adopt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only a container of a Docker engine can be adopted"):
        await adopt(edge_settings(tmp_path), "client", None)


async def test_one_that_is_not_there(hand: Hand) -> None:
    with pytest.raises(InputError, match="there is no container 'nobody'"):
        await adopt(hand.settings, "nobody", None)
    assert not (hand.settings.state_dir / "journal.db").exists()


# ---- for people and machines


def command_line(hand: Hand, *arguments: str) -> int:
    config = hand.folder / "edge.json"
    config.write_text(hand.settings.model_dump_json())
    return main([hand.name, "--config", str(config), *arguments])


async def test_it_says_what_an_update_keeps(hand: Hand, capsys: pytest.CaptureFixture[str]) -> None:
    hand.run()
    assert await asyncio.to_thread(command_line, hand, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adopted"] is False
    assert not (hand.settings.state_dir / "journal.db").exists()
    fields = {row["field"]: row for row in found["fields"]}
    assert fields["Config.Env"]["value"] == "TZ, API_KEY (values as they are)"
    assert fields["HostConfig.RestartPolicy"]["value"] == "unless-stopped"
    assert fields["HostConfig.Memory"] == {
        "field": "HostConfig.Memory", "value": str(256 << 20), "inAnUpdate": "kept"
    }  # fmt: skip
    assert f"{hand.folder / 'data'}:/data:rw" in fields["HostConfig.Binds"]["value"]
    assert json.loads(fields[f"Networks.{hand.network}"]["value"])["Aliases"] == sorted([hand.name, "opc"])
    assert fields["Config.Entrypoint"]["inAnUpdate"] == "goes with its image"
    assert await asyncio.to_thread(command_line, hand) == 0
    text = capsys.readouterr().out
    assert f"{hand.name} ({hand.id[:12]}) of {hand.image.repository} 1.0.0 is the client here now" in text
    for row in found["fields"]:
        assert row["field"] in text
    assert SECRET not in text + json.dumps(found), "values of the environment may be secrets"
    assert journaled(hand).current is not None
    assert await asyncio.to_thread(command_line, hand, "--json") == 0
    assert json.loads(capsys.readouterr().out)["adopted"] is True


async def test_what_was_given_wrong_is_one_sentence(hand: Hand, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(command_line, hand) == 2
    said = capsys.readouterr().err
    assert said == f"blackstart edge: there is no container {hand.name!r}. See docker ps --all.\n"
