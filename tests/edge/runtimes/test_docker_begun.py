"""What is remembered of pulls: by it alone is an image that a cut has emptied told from a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference.edge.runtimes.docker.begun import MOST, Begun

ONE, TWO = f"sha256:{1:064x}", f"sha256:{2:064x}"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "docker").mkdir()
    return tmp_path


def test_a_pull_is_open_until_it_is_on_the_disk_and_cut_when_another_boot_finds_it(state: Path) -> None:
    here = Begun(state, "boot-1")
    assert here.open | here.cut == set()
    here.begin(ONE)
    assert (sorted(here.open), sorted(here.cut)) == ([ONE], [])
    assert Begun(state, "boot-1").open == {ONE}, "the agent alone was started again"
    later = Begun(state, "boot-2")
    assert (sorted(later.open), sorted(later.cut)) == ([], [ONE])
    later.synced()
    assert later.cut == {ONE}, "a sync makes nothing whole that a cut has emptied"
    later.begin(ONE)
    assert (sorted(later.open), sorted(later.cut)) == ([ONE], [])
    later.synced()
    assert Begun(state, "boot-3").open | Begun(state, "boot-3").cut == set()


def test_one_pull_leaves_another_s_note_alone(state: Path) -> None:
    Begun(state, "boot-1").begin(ONE)
    later = Begun(state, "boot-2")
    later.begin(TWO)
    later.synced()
    assert Begun(state, "boot-2").cut == {ONE}
    later.forget(ONE)
    assert Begun(state, "boot-3").cut == frozenset()


def test_only_so_many_are_remembered_and_they_are_the_newest(state: Path) -> None:
    begun = Begun(state, "boot-1")
    for number in range(MOST + 3):
        begun.begin(f"sha256:{number:064x}")
    assert begun.open == {f"sha256:{number:064x}" for number in range(3, MOST + 3)}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"body": {}, "sha256": ""}', b"\xff"])
def test_a_file_that_is_damaged_is_none(state: Path, content: bytes) -> None:
    (state / "docker" / "pulls.json").write_bytes(content)
    begun = Begun(state, "boot-1")
    assert begun.cut == frozenset()
    begun.begin(ONE)
    assert Begun(state, "boot-2").cut == {ONE}
