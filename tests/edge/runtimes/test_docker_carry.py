"""What one container hands on to the next: as a table, as properties, and on a real engine before and after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.core.errors import EngineError, InputError
from reference.core.model import Image
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.docker.configuration import (
    carried_from,
    carry_over,
    create_body,
    first_install,
    policy_word,
    restart_policy,
)
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.fields import FATES, FIELDS
from reference.edge.settings import ClientSettings
from tests.edge.runtimes.contract import SLEEPER, ignore
from tests.edge.runtimes.docker_bench import DockerBench, on_python

ID = "0123456789ab" + "c" * 52
ENGINE_MADE = json.loads((Path(__file__).with_name("engine_made.json")).read_text())
"""Fields that differ between two containers of one configuration, each with why."""


def container(config: Document | None = None, host: Document | None = None, **more: Any) -> Document:
    return {
        "Id": ID,
        "Name": "/by-hand",
        "Image": "sha256:1",
        "Config": {"Hostname": ID[:12], "Env": None, "Labels": {}, **(config or {})},
        "HostConfig": {"NetworkMode": "default", **(host or {})},
        "State": {},
        "Mounts": [],
        "NetworkSettings": {"Networks": {}},
        **more,
    }


def carried(config: Document | None = None, image: Document | None = None, **more: Any) -> Document:
    """The configuration that is handed on."""
    return carry_over(container(config, **more), {"Config": image or {}}, "device").config


IMAGE = {
    "Env": ["PATH=/bin", "MODE=fast"],
    "Cmd": ["run"],
    "Entrypoint": ["/entry"],
    "Labels": {"from": "image"},
    "User": "app",
    "WorkingDir": "/app",
    "ExposedPorts": {"1/tcp": {}},
    "Volumes": {"/vol": {}},
    "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "check"]},
}


@pytest.mark.parametrize(
    ("config", "handed_on"),
    [
        (IMAGE, {}),
        ({**IMAGE, "Env": ["A=b", *IMAGE["Env"]]}, {"Env": ["A=b"]}),
        ({**IMAGE, "Env": ["MODE=slow", "PATH=/bin"]}, {"Env": ["MODE=slow"]}),
        ({**IMAGE, "Env": ["MODE=fast", "PATH=/bin"]}, {"Env": ["MODE=fast"]}),
        ({**IMAGE, "Env": ["BLACKSTART_STANDBY=x", *IMAGE["Env"]]}, {}),
        ({**IMAGE, "Cmd": ["other"]}, {"Cmd": ["other"]}),
        ({**IMAGE, "Entrypoint": ["/other"], "Cmd": None}, {"Entrypoint": ["/other"], "Cmd": []}),
        ({**IMAGE, "Entrypoint": ["/other"], "Cmd": ["run"]}, {"Entrypoint": ["/other"], "Cmd": ["run"]}),
        ({**IMAGE, "Entrypoint": None, "Cmd": ["sh"]}, {"Entrypoint": [""], "Cmd": ["sh"]}),
        ({**IMAGE, "Labels": {"from": "image", "mine": "1"}}, {"Labels": {"mine": "1"}}),
        ({**IMAGE, "Labels": {"from": "me"}}, {"Labels": {"from": "me"}}),
        ({**IMAGE, "Labels": {"from": "image", "blackstart.version": "1"}}, {}),
        ({**IMAGE, "User": "1000"}, {"User": "1000"}),
        ({**IMAGE, "WorkingDir": "/x"}, {"WorkingDir": "/x"}),
        ({**IMAGE, "ExposedPorts": {"1/tcp": {}, "2/tcp": {}}}, {"ExposedPorts": {"2/tcp": {}}}),
        ({**IMAGE, "Volumes": {"/vol": {}, "/mine": {}}}, {"Volumes": {"/mine": {}}}),
        ({**IMAGE, "StopSignal": "SIGHUP"}, {"StopSignal": "SIGHUP"}),
        ({**IMAGE, "Healthcheck": {"Test": ["NONE"]}}, {"Healthcheck": {"Test": ["NONE"]}}),
        ({**IMAGE, "Hostname": "plc-7"}, {"Hostname": "plc-7"}),
        ({**IMAGE, "Tty": True, "StopTimeout": 3}, {"Tty": True, "StopTimeout": 3}),
        ({**IMAGE, "Image": "x", "OnBuild": ["y"], "ArgsEscaped": True}, {}),
        ({**IMAGE, "LearnedLater": 7}, {"LearnedLater": 7}),
    ],
)
def test_what_was_asked_for_is_handed_on_and_what_the_image_brought_is_not(
    config: Document, handed_on: Document
) -> None:
    assert carried(config, IMAGE) == handed_on


def test_the_devices_own_name_is_not_taken_for_one_that_was_asked_for() -> None:
    assert "Hostname" not in carried({"Hostname": "device"}, host={"NetworkMode": "host"})
    assert carried({"Hostname": "other"}, host={"NetworkMode": "host"})["Hostname"] == "other"
    assert "Hostname" not in carried({"Hostname": "x"}, host={"NetworkMode": "container:abc"})


def test_restart_policy_and_what_is_of_one_container_stay_behind() -> None:
    host = {
        "RestartPolicy": {"Name": "always"},
        "AutoRemove": True,
        "ContainerIDFile": "/x",
        "ConsoleSize": [1, 2],
    }
    kept = carry_over(container(host={**host, "Memory": 7, "Nothing": None}), {}).host
    assert kept == {"NetworkMode": "default", "Memory": 7, "Mounts": []}


def test_a_volume_without_a_name_is_handed_on_by_the_name_that_the_engine_gave_it() -> None:
    volume = {"Type": "volume", "Name": "f" * 64, "Destination": "/vol", "RW": False, "Source": "/x"}
    bound = {"Type": "volume", "Name": "named", "Destination": "/named", "RW": True, "Source": "/y"}
    found = carry_over(container(host={"Binds": ["named:/named"]}, Mounts=[volume, bound]), {})
    assert found.host["Mounts"] == [
        {"Type": "volume", "Source": "f" * 64, "Target": "/vol", "ReadOnly": True}
    ]


def test_networks_are_handed_on_with_what_was_asked_for() -> None:
    one = {
        "Aliases": ["plc", ID[:12]], "IPAMConfig": {"IPv4Address": "10.0.0.9"}, "DriverOpts": {"a": "b"},
        "IPAddress": "10.0.0.9", "MacAddress": "02:42:0a:00:00:09", "NetworkID": "n1", "EndpointID": "e",
    }  # fmt: skip
    networks = {"one": one, "two": {"Aliases": None}}
    found = carry_over(container(host={"NetworkMode": "one"}, NetworkSettings={"Networks": networks}), {})
    assert found.primary == "one"
    assert found.networks == {
        "one": {
            "Aliases": ["by-hand", "plc"],
            "IPAMConfig": {"IPv4Address": "10.0.0.9"},
            "DriverOpts": {"a": "b"},
        },
        "two": {"Aliases": ["by-hand"]},
    }


def test_the_name_of_an_adopted_container_stays_an_alias_and_that_of_ours_does_not() -> None:
    networks = {"Networks": {"one": {"Aliases": ["by-hand"]}}}
    mine = container(
        {"Labels": {"blackstart.client": "t.c"}}, {"NetworkMode": "one"}, NetworkSettings=networks
    )
    assert carry_over(mine, {}).networks == {"one": {}}
    default = container(NetworkSettings={"Networks": {"bridge": {"Aliases": None}}})
    assert carry_over(default, {}).networks == {"bridge": {}}, "the default network knows no aliases"


def test_a_network_that_somebody_disconnected_is_not_asked_for_again() -> None:
    networks = {"Networks": {"left": {"NetworkID": "n2"}}}
    found = carry_over(container(host={"NetworkMode": "gone"}, NetworkSettings=networks), {})
    assert (found.host["NetworkMode"], found.primary) == ("left", "left")
    by_id = carry_over(container(host={"NetworkMode": "n2"}, NetworkSettings=networks), {})
    assert by_id.host["NetworkMode"] == "left"


def test_links_are_asked_for_as_they_were() -> None:
    assert carry_over(container(host={"Links": ["/db:/by-hand/store"]}), {}).host["Links"] == ["db:store"]


WORD = st.text("abcXYZ0189_", min_size=1, max_size=6)
ENTRY = st.tuples(WORD, WORD)


def _as_engine_merges(asked: dict[str, str], image: dict[str, str]) -> list[str]:
    """moby/daemon/commit.go, `merge`: the container's own first, then what only the image has."""
    mine = [f"{k}={v}" for k, v in asked.items()]
    return mine + [f"{k}={v}" for k, v in image.items() if k not in asked]


@given(
    st.dictionaries(WORD, WORD, max_size=5),
    st.dictionaries(WORD, WORD, max_size=5),
    st.dictionaries(WORD, WORD),
)
def test_an_environment_goes_through_any_number_of_updates(
    asked: dict[str, str], first: dict[str, str], second: dict[str, str]
) -> None:
    """By our label exactly; without it all of what differs from the image, which is all that can be told apart."""
    image = {"Env": [f"{k}={v}" for k, v in first.items()]}
    made = container({"Env": _as_engine_merges(asked, first)})
    guessed = carry_over(made, {"Config": image}).environment
    assert {k: v for k, v in asked.items() if first.get(k) != v}.items() <= guessed.items() <= asked.items()
    spec = ContainerSpec(2, Image("r.test/x", "sha256:2", "2"))
    body = create_body(carry_over(made, {"Config": image}), spec, "t.c", "n", "r", {})
    env = dict(entry.split("=", 1) for entry in body["Env"])
    after = container({"Env": _as_engine_merges(env, second), "Labels": body["Labels"]})
    again = carry_over(after, {"Config": {"Env": [f"{k}={v}" for k, v in second.items()]}})
    assert again.environment == guessed
    assert again.digest == carry_over(made, {"Config": image}).digest


def test_the_digest_does_not_depend_on_the_order() -> None:
    first = carry_over(container({"Env": ["A=1", "B=2"]}, {"Binds": ["a:/a", "b:/b"]}), {})
    second = carry_over(container({"Env": ["B=2", "A=1"]}, {"Binds": ["b:/b", "a:/a"]}), {})
    other = carry_over(container({"Env": ["A=1", "B=3"]}, {"Binds": ["a:/a", "b:/b"]}), {})
    assert first.digest == second.digest != other.digest
    assert carried_from(json.loads(json.dumps(first.as_json()))).digest == first.digest
    with pytest.raises(ValueError, match="not a container"):
        carried_from({"config": []})


def test_no_value_gets_into_a_label() -> None:
    found = carry_over(container({"Env": ["TOKEN=secret"], "User": "secret-user"}), {})
    body = create_body(found, ContainerSpec(2, Image("r.test/x", "sha256:2", "2")), "t.c", "n", "r", {})
    assert "secret" not in json.dumps(body["Labels"])
    assert json.loads(body["Labels"]["blackstart.asked"]) == ["Env.TOKEN", "User"]


def test_a_standby_is_given_only_where_image_and_network_allow_it() -> None:
    spec = ContainerSpec(2, Image("r.test/x", "sha256:2", "2"))
    image = {"Config": {"Labels": {"blackstart.handover": "overlap"}}}
    for mode, document, allowed in (("host", image, True), ("bridge", image, False), ("host", {}, False)):
        found = carry_over(container(host={"NetworkMode": mode}), {})
        body = create_body(found, spec, "t.c", "c-g2-x", "r", document)
        assert ("BLACKSTART_STANDBY=blackstart-standby-c-g2-x" in body["Env"]) is allowed


@pytest.mark.parametrize("policy", ["no", "always", "unless-stopped", "on-failure", "on-failure:3"])
def test_a_restart_policy_is_a_word(policy: str) -> None:
    assert policy_word({"RestartPolicy": restart_policy(policy)}) == policy


@pytest.mark.parametrize("policy", ["", "sometimes", "always:3", "on-failure:x", "on-failure:-1"])
def test_another_word_is_no_restart_policy(policy: str) -> None:
    with pytest.raises(EngineError):
        restart_policy(policy)


def test_a_first_install_is_what_the_device_is_set_up_with() -> None:
    setup = ClientSettings(
        port=8080, network="plant", publish={"8080": "127.0.0.1:80", "53/udp": "53"}, aliases=["opc"], hostname="plc",
        user="1000", devices=["/dev/ttyS0", "/dev/a:/dev/b:r"], capabilities=["NET_RAW"], memory_bytes=1 << 20,
        log_options={"max-size": "1m"},
    )  # fmt: skip
    spec = ContainerSpec(1, Image("r.test/x", "sha256:2", "2"), {"/data": "/srv", "/v": "named"}, {"A": "b"})
    found = first_install(spec, setup)
    assert found.config == {
        "Env": ["A=b"], "User": "1000", "Hostname": "plc", "ExposedPorts": {"8080/tcp": {}, "53/udp": {}},
    }  # fmt: skip
    assert found.host["PortBindings"] == {
        "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}],
        "53/udp": [{"HostIp": "", "HostPort": "53"}],
    }
    assert [m["Type"] for m in found.host["Mounts"]] == ["bind", "volume"]
    assert found.host["Devices"][1] == {
        "PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r",
    }  # fmt: skip
    assert found.networks == {"plant": {"Aliases": ["opc"]}}
    assert first_install(ContainerSpec(1, spec.image), ClientSettings(port=1)).networks == {}


# ---- on a real engine


@pytest.fixture
def bench(docker_bench: DockerBench) -> DockerBench:
    return docker_bench


OLD = {
    "Env": ["PATH=/usr/local/bin:/bin", "MODE=fast", "LEVEL=1"], "Labels": {"i": "old"}, "WorkingDir": "/app",
    "ExposedPorts": {"9/tcp": {}}, "Volumes": {"/vol": {}}, "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "true"]},
}  # fmt: skip
NEW = {
    "Env": ["PATH=/usr/local/bin:/bin", "MODE=slow", "NEW=1"], "Labels": {"i": "new"}, "WorkingDir": "/",
    "ExposedPorts": {"10/tcp": {}}, "StopSignal": "SIGTERM",
}  # fmt: skip


def by_hand(bench: DockerBench, image: Image, networks: list[str]) -> str:
    """A container with something in every field that there is."""
    api: Any = bench.api  # the SDK's stubs know fewer types than the SDK
    client = bench.client.partition(".")[2]
    host = api.create_host_config(
        network_mode=networks[0], binds=[f"{bench.folder}:/data:ro", f"{client}:/named"],
        port_bindings={80: ("127.0.0.1", 18_579)}, restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        cap_add=["NET_ADMIN"], cap_drop=["MKNOD"], dns=["9.9.9.9"], dns_opt=["ndots:2"], dns_search=["x.y"],
        extra_hosts={"h": "1.2.3.4"}, group_add=["7"], ipc_mode="shareable", oom_score_adj=10, mem_limit="64m",
        mem_reservation="32m", cpu_shares=300, nano_cpus=500_000_000, cpuset_cpus="0", pids_limit=100,
        devices=["/dev/null:/dev/mynull:rw"], device_cgroup_rules=["c 1:3 rwm"],
        ulimits=[{"Name": "nofile", "Soft": 100, "Hard": 200}], sysctls={"net.ipv4.ip_forward": "1"},
        log_config={"Type": "json-file", "Config": {"max-size": "1m"}}, read_only=True, tmpfs={"/scratch": "size=1m"},
        security_opt=["no-new-privileges"], shm_size=1 << 20, init=True, userns_mode="host",
        mounts=[{"Type": "tmpfs", "Target": "/t2", "TmpfsOptions": {"SizeBytes": 1 << 20}}],
    )  # fmt: skip
    endpoint = api.create_endpoint_config(aliases=["al"], ipv4_address="198.19.250.9")
    made = api.create_container(
        f"{image.repository}@{image.digest}", name=f"hand-{client}", hostname="plc-7", domainname="plant.example",
        user="1000:1000", environment=["A=b", "LEVEL=1"], labels={"mine": "1"}, ports=[80], host_config=host,
        mac_address="02:42:aa:bb:cc:dd", stop_signal="SIGUSR1", stdin_open=True, tty=True, volumes=["/anon"],
        networking_config=api.create_networking_config({networks[0]: endpoint}),
    )  # fmt: skip
    api.connect_container_to_network(made["Id"], networks[1], aliases=["second"])
    api.start(made["Id"])
    return str(made["Id"])


@pytest.fixture
def networks(bench: DockerBench) -> Iterator[list[str]]:
    names = [f"{bench.client.partition('.')[2]}-{n}" for n in ("one", "two")]
    api: Any = bench.api
    api.create_network(names[0], ipam={"Config": [{"Subnet": "198.19.250.0/24"}]})
    bench.api.create_network(names[1])
    yield names
    for container_id in [*bench.mine(), f"hand-{bench.client.partition('.')[2]}"]:
        try:
            bench.api.remove_container(container_id, force=True, v=True)
        except Exception:
            continue
    for name in names:
        bench.api.remove_network(name)
    bench.api.remove_volume(bench.client.partition(".")[2])


def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def differences(before: Document, after: Document) -> dict[str, tuple[object, object]]:
    """By field. The engine shows mounts in another order each time."""
    in_order = [{**d, "Mounts": sorted(d["Mounts"], key=lambda m: m["Destination"])} for d in (before, after)]
    one, two = (dict(flat(document)) for document in in_order)
    return {n: (one.get(n), two.get(n)) for n in sorted(one.keys() | two.keys()) if one.get(n) != two.get(n)}


def expected(name: str) -> bool:
    return any(name == known or name.startswith(f"{known}.") for known in ENGINE_MADE)


async def test_before_and_after_an_update(bench: DockerBench, networks: list[str]) -> None:
    first = bench.image(on_python({"app/main.py": SLEEPER}, OLD), "1")
    second = bench.image(on_python({"app/main.py": SLEEPER + b"#"}, NEW), "2")
    await bench.runtime.pull(first, ignore)
    await bench.runtime.pull(second, ignore)
    hand = await asyncio.to_thread(by_hand, bench, first, networks)
    before = bench.api.inspect_container(hand)
    adoption = await bench.runtime.adopt(f"hand-{bench.client.partition('.')[2]}")
    untouched = bench.api.inspect_container(hand)
    assert not {n for n in differences(before, untouched) if not n.startswith("State.Health")}
    name = await bench.runtime.create(ContainerSpec(5, second, like=hand))
    (old, new) = (await bench.runtime.observe()).containers
    assert (old.generation, new.generation, old.configuration) == (0, 5, new.configuration)
    assert old.mounts == new.mounts
    assert set(old.mounts) == {"/data", "/named", "/anon", "/vol"}
    await bench.runtime.stop(hand, 0)
    await bench.runtime.start(name)
    await bench.runtime.set_restart_policy(name, adoption.restart_policy)
    after = bench.api.inspect_container(name)
    left = {n: pair for n, pair in differences(before, after).items() if not expected(n)}
    assert left == {
        "Config.Env": (
            ["A=b", "LEVEL=1", "PATH=/usr/local/bin:/bin", "MODE=fast"],
            ["A=b", "LEVEL=1", "PATH=/usr/local/bin:/bin", "MODE=slow", "NEW=1"],
        ),
        "Config.ExposedPorts.10/tcp": (None, {}),
        "Config.ExposedPorts.9/tcp": ({}, None),
        "Config.Healthcheck.Test": (["CMD", "true"], None),
        "Config.Labels.i": ("old", "new"),
        "Config.Volumes./vol": ({}, None),
        "Config.WorkingDir": ("/app", "/"),
    }
    aliases = set(after["NetworkSettings"]["Networks"][networks[0]]["Aliases"])
    assert {"al", f"hand-{bench.client.partition('.')[2]}"} <= aliases
    # And once more, from one of ours to the next.
    third = await bench.runtime.create(ContainerSpec(6, first, like=name))
    once_more = differences(after, bench.api.inspect_container(third))
    assert {n for n in once_more if n.startswith(("HostConfig", "Mounts"))} <= {
        "HostConfig.RestartPolicy.Name"
    } | {"HostConfig.RestartPolicy.MaximumRetryCount"}
    assert {c.configuration for c in (await bench.runtime.observe()).containers} == {new.configuration}


async def test_every_field_of_a_real_container_is_in_the_table(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    found = bench.api.inspect_container(await bench.runtime.create(ContainerSpec(1, image)))
    names = [f"Config.{n}" for n in found["Config"]] + [f"HostConfig.{n}" for n in found["HostConfig"]]
    names += [f"Networks.{n}" for endpoint in found["NetworkSettings"]["Networks"].values() for n in endpoint]
    assert not [name for name in names if name not in FATES]
    assert len(FATES) == len(FIELDS), "a field is listed twice"


async def test_what_cannot_be_adopted_says_why(bench: DockerBench) -> None:
    with pytest.raises(InputError) as caught:
        await bench.runtime.adopt("no-such-container")
    assert "no-such-container" in str(caught.value)
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    reference = f"{image.repository}@{image.digest}"
    ours = await bench.runtime.create(ContainerSpec(1, image))
    made = [
        bench.api.create_container(reference, host_config=bench.api.create_host_config(auto_remove=True))[
            "Id"
        ],
        bench.api.create_container(reference, labels={"com.docker.swarm.service.id": "x"})["Id"],
        bench.api.create_container(reference)["Id"],
        bench.api.create_container(reference)["Id"],
    ]
    try:
        for name, word in ((ours, "already"), (made[0], "--rm"), (made[1], "Swarm")):
            with pytest.raises(InputError) as caught:
                await bench.runtime.adopt(name)
            assert word in str(caught.value)
        assert (await bench.runtime.adopt(made[2])).container_id == made[2]
        assert (await bench.runtime.adopt(made[2])).container_id == made[2], "done again it is success"
        with pytest.raises(InputError) as caught:
            await bench.runtime.adopt(made[3])
        assert "one client" in str(caught.value)
    finally:
        for container_id in made:
            bench.api.remove_container(container_id, force=True)


async def test_one_that_was_adopted_is_known_and_can_be_managed(bench: DockerBench) -> None:
    image = bench.publish(SLEEPER)
    await bench.runtime.pull(image, ignore)
    hand = bench.api.create_container(f"{image.repository}@{image.digest}")["Id"]
    await bench.runtime.adopt(hand)
    runtime = await bench.again()
    await runtime.set_restart_policy(hand, "always")
    await runtime.start(hand)
    (facts,) = (await runtime.observe()).containers
    assert (facts.id, facts.generation, facts.image.digest, facts.restart_policy) == (
        hand,
        0,
        image.digest,
        "always",
    )
    await runtime.stop(hand, 0)
    await runtime.remove(hand)
    assert (await runtime.observe()).containers == ()
    other = bench.api.create_container(f"{image.repository}@{image.digest}")["Id"]
    await runtime.adopt(other)
    await runtime.remove(other)
