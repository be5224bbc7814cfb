"""What is made of `docker inspect` and /proc, and how a start of this boot is known, without an engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reference.core.model import ContainerState, HealthState, Image
from reference.edge.runtimes.docker import facts as seen
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.images import ImageView, keep_repository
from reference.edge.runtimes.docker.memory import Adopted, Markers, Memory

ID = "0123456789ab" + "c" * 52
IMAGE = Image("r.test/x", "sha256:" + "1" * 64, "1")
ONCE, TWICE = "2026-01-01T00:00:01.000000001Z", "2026-01-01T00:00:02.000000002Z"


def container(state: Document | None = None, **more: Any) -> Document:
    return {
        "Id": ID,
        "Name": "/c-g3-x",
        "Image": "sha256:2",
        "Config": {"Labels": {"blackstart.generation": "3"}, "Env": []},
        "HostConfig": {"NetworkMode": "host"},
        "State": {"Running": True, "Pid": os.getpid(), "StartedAt": ONCE, **(state or {})},
        "Mounts": [],
        "NetworkSettings": {"Networks": {}},
        **more,
    }


def shown(found: Document, alive: seen.Running | None = None, **more: Any) -> Any:
    options: dict[str, Any] = {"started_this_boot": True, "host_name": "device", "exit_code": None, **more}
    return seen.facts(found, IMAGE, ImageView(), alive, **options)


def test_a_process_that_is_gone_does_not_run_whatever_the_engine_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seen, "_is_in", lambda *_: True)
    assert seen.running(container(), sees_processes=True) is not None
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    pid = child.pid
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert seen.running(container({"Pid": pid}), sees_processes=True) is None, "a zombie is none"
    child.wait()
    assert seen.running(container({"Pid": pid}), sees_processes=True) is None


def test_a_process_of_somebody_else_under_the_same_pid_is_not_the_containers() -> None:
    if not Path("/proc/self/cgroup").read_text().strip("0:/.\n"):
        pytest.skip("this process is in no control group that has a name")
    assert seen.running(container(), sees_processes=True) is None


@pytest.mark.parametrize("state", [{"Running": False}, {"Restarting": True}, {"Pid": 0}])
def test_what_the_engine_says_to_be_down_is_down(state: Document) -> None:
    for sees in (True, False):
        assert seen.running(container(state), sees_processes=sees) is None


def test_an_engine_elsewhere_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_767_225_661.5)  # a minute after ONCE
    alive = seen.running(container({"Pid": 4_000_000}), sees_processes=False)
    assert alive is not None
    assert (alive.name, alive.up_ms, alive.process) == (f"4000000:{ONCE}", 60_500, None)
    monkeypatch.setattr("time.time", lambda: 0.0)
    early = seen.running(container(), sees_processes=False)
    assert early is not None
    assert early.up_ms == 0, "a clock that is wrong makes nothing old"


@pytest.mark.parametrize(
    ("started_at", "running", "this_boot", "state", "code"),
    [
        (seen.NEVER, False, False, ContainerState.CREATED, None),
        (ONCE, False, True, ContainerState.EXITED, 7),
        (ONCE, False, False, ContainerState.EXITED, None),
    ],
)
def test_state_and_exit_code(
    started_at: str, running: bool, this_boot: bool, state: ContainerState, code: int | None
) -> None:
    found = container({"Running": running, "StartedAt": started_at, "ExitCode": 7, "Pid": 0})
    facts = shown(found, started_this_boot=this_boot)
    assert (facts.state, facts.exit_code, facts.life) == (state, code, "")


def test_an_exit_code_is_not_told_before_the_engine_knows_it() -> None:
    assert shown(container({"ExitCode": 0})).exit_code is None
    assert shown(container({"ExitCode": 0}), exit_code=137).exit_code == 137


def test_health_and_address_are_those_of_a_life() -> None:
    networks = {"b": {"IPAddress": "10.0.0.2"}, "a": {"IPAddress": ""}}
    found = container({"Health": {"Status": "unhealthy"}}, NetworkSettings={"Networks": networks})
    alive = seen.Running("life", 5, None)
    facts = shown(found, alive)
    assert (facts.engine_health, facts.address, facts.life) == (HealthState.UNHEALTHY, "10.0.0.2", "life")
    assert (shown(found).engine_health, shown(found).address) == (None, "")
    assert shown(container({"Health": {"Status": "none"}}), alive).engine_health is None


def test_mounts_have_a_path_on_the_device_or_say_what_they_are() -> None:
    mounts = [
        {"Type": "bind", "Source": "/srv", "Destination": "/data"},
        {"Type": "volume", "Name": "v", "Source": "/var/lib/v/_data", "Destination": "/v"},
        {"Type": "volume", "Name": "remote", "Source": "", "Destination": "/r"},
        {"Type": "tmpfs", "Source": "", "Destination": "/t"},
    ]
    assert seen.mounts_of(container(Mounts=mounts)) == {
        "/data": "/srv",
        "/v": "/var/lib/v/_data",
        "/r": "volume:remote",
    }


@pytest.mark.parametrize(
    ("word", "number"), [("7", 7), ("", 0), ("-1", 0), ("x", 0), ("9" * 30, 0), ("٣", 0)]
)
def test_a_generation_is_a_number(word: str, number: int) -> None:
    found = container(Config={"Labels": {"blackstart.generation": word}})
    assert seen.generation_of(found) == number


def test_what_only_the_list_knows_is_shown_as_far_as_it_goes() -> None:
    listed = {
        "Id": ID, "Names": ["/n"], "ImageID": "sha256:2", "State": "running", "HostConfig": {"NetworkMode": "host"},
        "Labels": {"blackstart.generation": "3", "blackstart.image": f"r.test/x@{IMAGE.digest}"},
    }  # fmt: skip
    found = seen.from_list(listed)
    assert (seen.generation_of(found), seen.whole(found), seen.whole(container())) == (3, False, True)
    assert seen.image_of(found, None) == Image("r.test/x", IMAGE.digest, "")
    alive = seen.running(found, sees_processes=True)
    assert shown(found, alive).state is ContainerState.RUNNING
    assert shown(seen.from_list({**listed, "State": "created"})).state is ContainerState.CREATED


def test_a_standby_needs_to_have_been_told_where_to_answer() -> None:
    labels = {"blackstart.handover": "overlap"}
    told = container(Config={"Labels": labels, "Env": ["BLACKSTART_STANDBY=s"]})
    adopted = container(Config={"Labels": labels, "Env": []})
    bridge = {**told, "HostConfig": {"NetworkMode": "bridge"}}
    assert [(shown(c).overlaps, shown(c).standby) for c in (told, adopted, bridge)] == [
        (True, "s"),
        (False, ""),
        (False, "s"),
    ]
    assert shown(told).environment == {}


def test_a_start_of_this_boot_is_told_by_another_word_of_the_engine(tmp_path: Path) -> None:
    markers = Markers(tmp_path)
    assert not markers.started(ID, ONCE), "of an earlier boot"
    markers.before_start(ID, ONCE)
    assert not markers.started(ID, ONCE), "the start never came"
    assert markers.started(ID, TWICE)
    markers.before_start(ID, TWICE)
    assert markers.started(ID, TWICE), "a second start that never came takes nothing away from the first"
    assert Markers(tmp_path).started(ID, TWICE)
    markers.forget(ID)
    assert not markers.started(ID, TWICE)


def test_what_is_seen_to_run_was_started_in_this_boot(tmp_path: Path) -> None:
    markers = Markers(tmp_path)
    markers.seen_running(ID)
    assert markers.started(ID, ONCE)
    (tmp_path / "containers" / ID).write_bytes(b"\xff")
    assert not Markers(tmp_path).started(ID, ONCE)


def test_what_was_adopted_is_remembered_until_it_is_gone(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    assert memory.adopted() is None
    memory.adopt(Adopted(ID, "by-hand", IMAGE))
    assert memory.adopted() == Memory(tmp_path).adopted() == Adopted(ID, "by-hand", IMAGE)
    memory.let_go("another")
    assert memory.adopted() is not None
    memory.let_go(ID)
    assert memory.adopted() is Memory(tmp_path).adopted() is None


@pytest.mark.parametrize(
    ("client", "good"), [("acme.edge-1", True), ("a.b", True), ("a-.b", False), ("a.b-", False)]
)
def test_every_client_has_a_name_that_an_engine_takes(client: str, good: bool) -> None:
    assert (keep_repository(client) == f"blackstart/{client}") is good
    assert len(keep_repository(client)) < 128


def test_a_damaged_file_does_not_make_an_adopted_container_nobodys(tmp_path: Path) -> None:
    mine = Adopted(ID, "by-hand", IMAGE)
    Memory(tmp_path).adopt(mine)
    (tmp_path / "docker" / "adopted.json").write_bytes(b"{}")
    memory = Memory(tmp_path)
    assert memory.adopted() == mine
    memory.let_go(ID)
    assert memory.adopted() is None and Memory(tmp_path).adopted() is None
