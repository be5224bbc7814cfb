"""The lease in the model world: who has it, who stands by, and when it passes on."""

from __future__ import annotations

import pytest

from reference.core.invariants import never_two_active
from reference.core.model import Container, HealthState
from reference.core.steps import Act, Create, Pull, Remove, SetRestartPolicy, Start, Stop, Sync
from reference.world.atoms import Atom
from reference.world.engine import Boot, Engine, Setting, advance, boots, ended, perform, unwatched
from reference.world.nouns import Behaviour, image
from reference.world.search.faults import Fault, Kind
from reference.world.search.run import Run
from reference.world.search.world import World
from reference.world.story import device

WAITS = Behaviour(overlaps=True)


def setting(v1: Behaviour = WAITS, v2: Behaviour = WAITS) -> Setting:
    return Setting({image("v1").digest: v1, image("v2").digest: v2}, (Boot.PLAIN,))


def after(known: Setting, engine: Engine, *acts: Act) -> Engine:
    for act in acts:
        engine = [engine, *(after for _, after in perform(known, engine, act))][-1]
    return engine


def two(known: Setting) -> Engine:
    """v1 runs, and v2 was started beside it."""
    versions = {v: known.behaviours[image(v).digest] for v in ("v1", "v2")}
    return after(known, device(versions)[1], Pull(image("v2")), Create(image("v2"), 2), Sync(), Start("c2"))


def of(engine: Engine, container_id: str) -> Container:
    return next(c for c in engine.containers if c.id == container_id)


def roles(engine: Engine) -> dict[str, str]:
    return {c.id: "stands by" if c.standby else "works" for c in engine.containers if c.running}


def test_who_finds_it_taken_stands_by() -> None:
    known = setting()
    engine = two(known)
    assert roles(engine) == {"c1": "works", "c2": "stands by"}
    assert not never_two_active(engine.containers)
    assert of(advance(known, engine, 50), "c2").health is HealthState.HEALTHY
    assert of(advance(known, engine, 50), "c2").healthy_ms == 0, "that is no part of its trial"


@pytest.mark.parametrize(
    ("v1", "v2"), [(Behaviour(), WAITS), (WAITS, Behaviour()), (Behaviour(), Behaviour())]
)
def test_who_knows_of_no_lease_waits_for_none_and_keeps_none(v1: Behaviour, v2: Behaviour) -> None:
    engine = two(setting(v1, v2))
    assert roles(engine) == {"c1": "works", "c2": "works"}
    assert [v.invariant for v in never_two_active(engine.containers)] == ["never_two_active"]


def test_it_passes_on_before_the_one_that_is_stopped_is_gone() -> None:
    known = setting()
    engine = advance(known, two(known), 50)
    reached = list(perform(known, engine, Stop("c1")))
    assert [atom for atom, _ in reached] == [
        Atom.STOP_SIGNAL, Atom.STOP_SIGNAL, Atom.STOP_GONE, Atom.STOP_RECORD,
    ]  # fmt: skip
    assert [roles(e) for _, e in reached] == [
        {"c1": "works", "c2": "stands by"}, {"c1": "stands by", "c2": "works"}, {"c2": "works"}, {"c2": "works"},
    ]  # fmt: skip
    taken = of(reached[1][1], "c2")
    assert (taken.up_ms, taken.watched_ms, taken.health) == (0, 0, HealthState.STARTING)


def test_one_that_has_let_go_ends_by_itself_and_takes_nothing_back() -> None:
    """Whatever becomes of the updater in between."""
    known = setting()
    left = list(perform(known, two(known), Stop("c1")))[1][1]
    later = advance(known, unwatched(left), 50)
    assert roles(later) == {"c2": "works"} and later.leaving == ()
    both_gone = ended(left, "c2")
    assert roles(both_gone) == {"c1": "stands by"}, "nobody works for a moment, and it is about to end"
    assert roles(advance(known, both_gone, 50)) == {}


@pytest.mark.parametrize("end", ["killed", "removed", "died"])
def test_it_is_freed_by_every_end(end: str) -> None:
    known = setting(v1=Behaviour(overlaps=True, dies_at=360))
    engine = two(known)
    engine = {
        "killed": lambda: ended(engine, "c1"),
        "removed": lambda: after(known, engine, Remove("c1")),
        "died": lambda: advance(known, after(known, engine, SetRestartPolicy("c1", "no")), 50),
    }[end]()
    assert roles(engine) == {"c2": "works"}


def test_one_that_is_revived_beside_another_one_stands_by() -> None:
    known = setting(v1=Behaviour(overlaps=True, dies_at=360))
    assert roles(advance(known, two(known), 50)) == {"c1": "stands by", "c2": "works"}


def test_a_boot_frees_it() -> None:
    known = setting()
    engine = after(known, two(known), SetRestartPolicy("c1", "no"), Sync())
    ((_, booted),) = boots(known, engine)
    assert roles(booted) == {}
    assert all(c.overlaps for c in booted.containers)
    assert roles(after(known, booted, Start("c2"))) == {"c2": "works"}


@pytest.mark.parametrize(
    ("does", "health"),
    [
        (Behaviour(overlaps=True, ready_at=None), HealthState.STARTING),
        (Behaviour(overlaps=True, healthy_at=None), HealthState.HEALTHY),
    ],
)
def test_how_it_stands_by_and_how_it_works_are_two_things(does: Behaviour, health: HealthState) -> None:
    known = setting(v2=does)
    engine = advance(known, two(known), 50)
    assert of(engine, "c2").health is health
    engine = advance(known, after(known, engine, Stop("c1")), 50)
    other = {HealthState.STARTING: HealthState.HEALTHY, HealthState.HEALTHY: HealthState.STARTING}[health]
    assert of(engine, "c2").health is other


def test_the_search_hands_over_too() -> None:
    """A good order of the kind that overlaps goes over two that run at once, of which one stands by."""
    world = World()
    assert Run(world, [Fault(Kind.ORDER, 3, 0, 0)]).play().violations == ()
    assert any(c.standby for e in world.driver.engines.values for c in e.containers)
