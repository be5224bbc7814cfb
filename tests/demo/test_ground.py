"""What stories are played on: which of them mean something there, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.demo import ground
from reference.demo.ground import NOT_OURS, DockerGround, ProcessGround
from reference.demo.stories import STORIES
from reference.demo.story import CHECK, Published
from reference.stack.parts import laid_over
from tests.engine import needs_engine

RUNTIMES = {"process", "docker"}


def test_a_story_that_is_left_out_says_where_and_why() -> None:
    for story in STORIES:
        assert set(story.not_on) < RUNTIMES, f"{story.name} has to be played somewhere"
        assert all(story.not_on.values()), story.name
    left_out = {s.name: ProcessGround().why_not(s) for s in STORIES if s.not_on}
    assert (
        left_out["engine-restarts-mid-update"]
        == "the process runtime has no engine that anything could happen to"
    )
    assert all(left_out.values())


def test_what_kills_the_engine_says_so() -> None:
    """On an engine that all share it would take the others with it."""
    killers = [
        s for s in STORIES if s.name.startswith(("killed-in", "engine-", "both-revived", "image-pruned"))
    ]
    assert len(killers) > 8
    assert all(s.hurts_engine for s in killers)


def test_an_engine_that_was_given_is_not_killed(tmp_path: Path) -> None:
    given = DockerGround(tmp_path, STORIES, "unix:///var/run/docker.sock")
    reasons = {s.name: given.why_not(s) for s in STORIES}
    assert reasons["killed-in-switching"] == NOT_OURS
    assert reasons["update-succeeds"] == ""


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:2375", "unix://run/docker.sock", ""])
def test_an_engine_elsewhere_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match="is no unix socket") as refused:
        DockerGround(tmp_path, STORIES, address)
    assert "--engine" in str(refused.value)


def test_no_engine_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground, "why_not", lambda: "dockerd is not installed")
    with pytest.raises(InputError, match="dockerd is not installed") as refused:
        DockerGround(tmp_path, STORIES)
    assert "apt-get install docker.io" in str(refused.value)


async def test_a_story_that_hurts_gets_an_engine_of_its_own(tmp_path: Path) -> None:
    needs_engine()
    hurt = next(s for s in STORIES if s.hurts_engine)
    other = next(s for s in STORIES if not s.hurts_engine)
    async with DockerGround(tmp_path, [hurt, other]) as docker:
        async with docker.box_for(other) as shared, docker.box_for(hurt) as own:
            addresses = {make.keywords["engine"].host for make in (shared, own)}  # type: ignore[attr-defined]
        assert len(addresses) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runtime", "podman"], "there is no runtime 'podman'"),
        (["--engine", "unix:///x"], "the process runtime has no engine"),
    ],
)
def test_bad_input(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "blackstart", "demo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_settings_are_joined_field_by_field() -> None:
    below = {"client": {"port": 1, "mounts": {"/data": "/x"}}, "seed": 1, "registries": [1]}
    above = {"client": {"network": "host", "mounts": {"/more": "/y"}}, "registries": [2]}
    assert laid_over(below, above) == {
        "client": {"port": 1, "mounts": {"/data": "/x", "/more": "/y"}, "network": "host"},
        "seed": 1,
        "registries": [2],
    }
    assert below["client"] == {"port": 1, "mounts": {"/data": "/x"}}


def test_what_is_published_says_how_it_is_updated() -> None:
    assert Published("1").policy == {}
    assert Published("1", snapshot=True, overlaps=True).policy == {"snapshot": True, "handover": "overlap"}
    assert Published("1", probe="").health.probe == ""


def test_the_images_own_check_is_a_program() -> None:
    compile(CHECK.test[-1], "check", "exec")
