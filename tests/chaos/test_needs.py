"""Which real parts a scenario needs, and what is said where one is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from chaos import needs
from chaos.faults.base import Need
from chaos.needs import blkio_folder, missing, needs_of, why_skipped
from chaos.scenario import Scenario

V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "38 31 0:35 / {folder} rw,relatime - cgroup cgroup rw,blkio\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V2 = "30 23 0:26 / {folder} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def story(**bench: object) -> Scenario:
    return Scenario.model_validate({"title": "x", "bench": bench, "method": [{"action": "update"}]})


def with_fault(fault: str, **more: object) -> Scenario:
    return Scenario.model_validate({"title": "x", "method": [{"fault": fault, **more}, {"action": "update"}]})


def test_the_embedded_bench_needs_nothing() -> None:
    assert needs_of(story()) == []
    assert why_skipped(story()) == ""


@pytest.mark.parametrize(
    ("bench", "need"),
    [
        ({"runtime": "docker"}, Need.DOCKER),
        ({"broker": "mosquitto"}, Need.MOSQUITTO),
        ({"database": "postgresql"}, Need.POSTGRESQL),
        ({"registry": "distribution"}, Need.DISTRIBUTION),
    ],
)
def test_what_the_bench_is_made_of_is_needed(bench: dict[str, object], need: Need) -> None:
    assert needs_of(story(**bench)) == [need]


def test_what_faults_need_is_needed() -> None:
    assert {Need.ROOT, Need.LOOP} <= set(needs_of(with_fault("power-cut")))
    assert Need.FAKETIME in needs_of(with_fault("clock-jumped"))
    assert Need.TOXIPROXY in needs_of(
        with_fault("latency", link="device-broker", **{"with": {"latency": "1ms"}})
    )


def test_what_is_missing_is_said_in_one_sentence_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for need in (Need.DOCKER, Need.ROOT, Need.LOOP, Need.MOSQUITTO, Need.DISTRIBUTION):
        said = missing(need)
        assert said, need
        assert "\n" not in said
        assert any(word in said for word in ("install", "run it as root")), said
    assert missing(Need.MOSQUITTO) == "mosquitto is not installed: install the package mosquitto"
    skipped = why_skipped(story(runtime="docker", broker="mosquitto"))
    assert skipped.startswith("no Docker engine can run here: ")
    assert skipped.endswith("; mosquitto is not installed: install the package mosquitto")


@pytest.mark.parametrize("need", Need)
def test_every_need_is_looked_for(need: Need) -> None:
    said = missing(need)
    if os.environ.get("BLACKSTART_NO_SKIPS") == "1":
        assert said == "", "everything is installed here"
    assert "\n" not in said


def test_a_control_group_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(V1.format(folder=tmp_path))
    monkeypatch.setattr(needs, "_MOUNTS", mounts)
    assert blkio_folder() is None, "it cannot throttle"
    (tmp_path / "blkio.throttle.write_bps_device").touch()
    assert blkio_folder() == tmp_path
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert blkio_folder() is None
    assert missing(Need.BLKIO).startswith("no control group that can be written throttles disks here")


def test_a_control_group_of_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(V2.format(folder=tmp_path))
    monkeypatch.setattr(needs, "_MOUNTS", mounts)
    (tmp_path / "cgroup.subtree_control").touch()
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert blkio_folder() is None
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    assert blkio_folder() == tmp_path


def test_no_control_groups_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_MOUNTS", tmp_path / "nothing")
    assert blkio_folder() is None
