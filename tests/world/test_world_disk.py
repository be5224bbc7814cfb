"""What a cut leaves: every combination of values, each once, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.core.model import ImageState, SnapshotState
from reference.world.disk import (
    ENDED,
    LAYERS,
    NEVER,
    RUNNING,
    Disk,
    StoredContainer,
    StoredImage,
    Volumes,
    after_cut,
    synced,
    then,
)
from reference.world.nouns import image

same_runs = settings(deadline=None, derandomize=True, database=None)


def values(*of: object) -> st.SearchStrategy[tuple[object, ...]]:
    """What a stored thing may have had since the last sync: some values, each once, in any order."""
    return st.lists(st.sampled_from(of), min_size=1, unique=True).map(tuple)


LISTED, POLICIES, RAN = values(True, False), values("no", "always"), values(NEVER, RUNNING, ENDED)
LAYERED = values(*range(LAYERS + 1))
FORMATS = values(Volumes(), Volumes("v2"), Volumes("v2", ((2, SnapshotState.TAKEN, ""),)))


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    containers = tuple(
        StoredContainer(f"c{n}", n, image(f"v{n}"), draw(LISTED), draw(POLICIES), draw(RAN))  # type: ignore[arg-type]
        for n in range(draw(st.integers(0, 2)))
    )
    images = tuple(
        StoredImage(f"sha256:v{n}", draw(LISTED), draw(LAYERED))  # type: ignore[arg-type]
        for n in range(draw(st.integers(0, 2)))
    )
    return Disk(containers, images, draw(FORMATS))  # type: ignore[arg-type]


def by_hand(disk: Disk) -> Iterator[Disk]:
    """The same from the other end: every value of every cell, and what is not listed then is not there."""
    cells = [
        *(cell for c in disk.containers for cell in (c.listed, c.policy, c.ran)),
        *(cell for i in disk.images for cell in (i.listed, i.layers)),
        disk.volumes,
    ]
    for chosen in product(*cells):
        left = iter((value,) for value in chosen)
        containers = tuple(
            StoredContainer(c.id, c.generation, c.image, next(left), next(left), next(left))  # type: ignore[arg-type]
            for c in disk.containers
        )
        images = tuple(StoredImage(i.digest, next(left), next(left)) for i in disk.images)  # type: ignore[arg-type]
        yield Disk(
            tuple(c for c in containers if c.listed == (True,)),
            tuple(i for i in images if i.listed == (True,)),
            next(left),  # type: ignore[arg-type]
        )


@same_runs
@given(disks())
def test_a_cut_leaves_every_combination_once(disk: Disk) -> None:
    left = list(after_cut(disk))
    assert len(left) == len(set(left))
    assert set(left) == set(by_hand(disk))


def test_the_combinations_are_as_many_as_they_should_be() -> None:
    c1 = StoredContainer("c1", 1, image("v1"), (True,), ("no", "always"), (NEVER, RUNNING, ENDED))
    c2 = StoredContainer("c2", 2, image("v2"), (False, True), ("no",), (NEVER,))
    torn = StoredImage("sha256:v2", (False, True), (0, 1, 2))
    volumes = (Volumes(), Volumes("v2"))
    # 2 policies x 3 runs, x there or not, x gone or one of three, x 2 formats
    assert len(list(after_cut(Disk((c1, c2), (torn,), volumes)))) == 6 * 2 * 4 * 2


@same_runs
@given(disks())
def test_what_is_read_after_a_cut_is_durable(disk: Disk) -> None:
    for left in after_cut(disk):
        assert list(after_cut(left)) == [left]
        assert left.settled


@same_runs
@given(disks())
def test_a_sync_leaves_what_was_seen_last(disk: Disk) -> None:
    done = synced(disk)
    (left,) = after_cut(done)
    assert left in set(after_cut(disk)), "a sync invents nothing"
    assert {c.id for c in left.containers} == {c.id for c in disk.containers if c.listed[-1]}
    seen = {i.digest: i.state for i in disk.images if i.state is not None}
    assert {i.digest: i.state for i in left.images} == seen
    assert left.volumes == disk.volumes[-1:]
    assert done.settled and synced(done) == done


@same_runs
@given(disks())
def test_settled_is_that_a_cut_loses_nothing_of_what_was_ordered(disk: Disk) -> None:
    calm = disk._replace(
        containers=tuple(c._replace(ran=c.ran[-1:]) for c in disk.containers), volumes=disk.volumes[-1:]
    )
    assert disk.settled is calm.settled, "what processes write is their own business"
    if disk.settled:
        assert len(list(after_cut(calm))) == 1


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        ((0,), 0, (0,)),
        ((0,), 1, (0, 1)),
        ((0, 1), 1, (0, 1)),
        ((0, 1), 0, (1, 0)),
        ((0, 1, 2), 0, (1, 2, 0)),
    ],
)
def test_a_write_adds_a_value_once_and_it_is_the_last(
    before: tuple[int, ...], value: int, after: tuple[int, ...]
) -> None:
    assert then(before, value) == after


@same_runs
@given(st.lists(st.integers(0, 3), min_size=1))
def test_every_value_since_the_sync_may_come_back(written: list[int]) -> None:
    cell: tuple[int, ...] = (9,)
    for value in written:
        cell = then(cell, value)
    assert cell[-1] == written[-1]
    assert sorted(cell) == sorted({9, *written})


def test_an_image_is_what_its_index_and_layers_say() -> None:
    assert StoredImage("d", (False,), (LAYERS,)).state is None
    assert StoredImage("d", (True,), (LAYERS,)).state is ImageState.PRESENT
    assert StoredImage("d", (True,), (LAYERS - 1,)).state is ImageState.BROKEN
    assert StoredImage("d", (True, False), (LAYERS,)).state is None, "the last value is what is seen"
