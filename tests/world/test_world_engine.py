"""The model engine: each act's atoms in their order, what is there after each, and what a device may boot into."""

from __future__ import annotations

import pytest

from reference.core.errors import Reason
from reference.core.model import Container, ContainerState, HealthState, ImageState, SnapshotState
from reference.core.steps import (
    Act,
    Create,
    PrepareSnapshot,
    Pull,
    Remove,
    RemoveImage,
    RemoveSnapshot,
    RestartEngine,
    RestoreSnapshot,
    SetRestartPolicy,
    Snapshot,
    Start,
    Stop,
    Sync,
)
from reference.world.atoms import Atom
from reference.world.disk import LAYERS, StoredImage
from reference.world.engine import (
    CAP_MS,
    Boot,
    Engine,
    RefusedError,
    Setting,
    advance,
    boots,
    ended,
    first,
    perform,
    unwatched,
)
from reference.world.nouns import Behaviour, image
from reference.world.story import device

V1, V2 = image("v1"), image("v2")
GOOD = Setting()


def after(engine: Engine, *acts: Act, setting: Setting = GOOD) -> Engine:
    """The engine after these acts. Raises RefusedError."""
    for act in acts:
        for _, now in perform(setting, engine, act):
            engine = now
    return engine


def way(engine: Engine, act: Act, setting: Setting = GOOD) -> list[tuple[Atom, Engine]]:
    """All that was reached, also when it was refused."""
    reached = []
    try:
        for atom, now in perform(setting, engine, act):
            reached.append((atom, now))
    except RefusedError:
        pass
    return reached


def refused(engine: Engine, act: Act, setting: Setting = GOOD) -> Reason:
    """With which reason."""
    with pytest.raises(RefusedError) as caught:
        after(engine, act, setting=setting)
    return caught.value.failure.reason


def running(engine: Engine) -> list[str]:
    """Containers that run, by id."""
    return sorted(c.id for c in engine.containers if c.running)


def of(engine: Engine, container_id: str) -> Container:
    """The container."""
    return next(c for c in engine.containers if c.id == container_id)


ONE = device()[1]
PULLED = after(ONE, Pull(V2), Sync())
MADE = after(PULLED, Create(V2, 2), Sync())
TORN = ONE._replace(disk=ONE.disk._replace(images=(*ONE.disk.images, StoredImage(V2.digest, (True,), (0,)))))
COPIED = after(ONE, Stop("c1"), PrepareSnapshot(2), Snapshot(2))


# ---- atoms

HALF, WHOLE = (Atom.PULL_LAYER,) * LAYERS, (Atom.PULL_LAYER,) * LAYERS + (Atom.PULL_INDEX,)
WAYS: list[tuple[str, Engine, Act, tuple[Atom, ...]]] = [
    ("a pull", ONE, Pull(V2), (Atom.PULL_MANIFEST, *WHOLE)),
    ("a pull of what is there", ONE, Pull(V1), (Atom.PULL_MANIFEST,)),
    (
        "a pull of what is broken", TORN, Pull(V2),
        (Atom.PULL_MANIFEST, Atom.UNLIST_HIDE, Atom.UNLIST_PURGE, *WHOLE),
    ),
    ("a create", PULLED, Create(V2, 2), (Atom.CREATE_WRITE, Atom.CREATE_SHOW)),
    ("a create of what is there", MADE, Create(V2, 2), ()),
    ("a start", MADE, Start("c2"), (Atom.START_BEGIN, Atom.START_SPAWN, Atom.START_RECORD)),
    ("a stop", ONE, Stop("c1"), (Atom.STOP_SIGNAL, Atom.STOP_GONE, Atom.STOP_RECORD)),
    ("a stop of what does not run", MADE, Stop("c2"), ()),
    ("a removal", MADE, Remove("c2"), (Atom.REMOVE_HIDE, Atom.REMOVE_PURGE)),
    ("a removal of what is not there", ONE, Remove("c2"), ()),
    ("the end of an image", PULLED, RemoveImage(V2.digest), (Atom.UNLIST_HIDE, Atom.UNLIST_PURGE)),
    ("the end of an image that is not there", ONE, RemoveImage(V2.digest), ()),
    ("a policy", ONE, SetRestartPolicy("c1", "no"), (Atom.POLICY_WRITE, Atom.POLICY_SHOW)),
    ("a sync", ONE, Sync(), (Atom.SYNC_BEGIN, Atom.SYNC_END)),
    ("an engine restart", ONE, RestartEngine(), (Atom.ENGINE_DOWN, Atom.ENGINE_UP)),
    ("room for a copy", ONE, PrepareSnapshot(2), (Atom.RESERVE_MAKE,)),
    ("room that is there", COPIED, PrepareSnapshot(2), ()),
    ("a copy", after(ONE, Stop("c1"), PrepareSnapshot(2)), Snapshot(2), (Atom.SNAPSHOT_COPY, Atom.SNAPSHOT_SHOW)),
    ("a copy brought back", COPIED, RestoreSnapshot(2), (Atom.RESTORE_EXCHANGE, Atom.RESTORE_RECORD)),
    ("a copy brought back twice", after(COPIED, RestoreSnapshot(2)), RestoreSnapshot(2), ()),
    ("the end of a copy", COPIED, RemoveSnapshot(2), (Atom.FORGET_HIDE, Atom.FORGET_PURGE)),
    ("the end of no copy", ONE, RemoveSnapshot(2), ()),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "act", "atoms"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS])
def test_the_atoms_of_an_act_come_in_this_order(engine: Engine, act: Act, atoms: tuple[Atom, ...]) -> None:
    reached = way(engine, act)
    assert tuple(atom for atom, _ in reached) == atoms
    if atoms:
        assert first(act) is atoms[0]


@pytest.mark.parametrize(("engine", "act", "atoms"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS])
def test_an_act_that_was_cut_short_is_continued_by_the_same_act(
    engine: Engine, act: Act, atoms: tuple[Atom, ...]
) -> None:
    """Repeating a step is how it goes on: from any atom of it, the end is the same."""
    whole = after(engine, act)
    for number, (_, reached) in enumerate(way(engine, act)):
        again = after(reached, act)
        assert again.images == whole.images, number
        assert [(c.id, c.state, c.restart_policy) for c in again.containers] == [
            (c.id, c.state, c.restart_policy) for c in whole.containers
        ]
        assert again.disk.volumes[-1] == whole.disk.volumes[-1]


def test_what_the_table_has_not_is_no_effect_of_an_act() -> None:
    shown = {atom for _, _, _, atoms in WAYS for atom in atoms}
    others = {
        atom for atom in Atom if atom.partition(".")[0] in ("journal", "open", "boot", "wait", "message")
    }
    assert shown | others == set(Atom) and not shown & others


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (Create(V2, 2), Reason.IMAGE_INVALID),
        (Start("c9"), Reason.ENGINE_ERROR),
        (RemoveImage(V1.digest), Reason.ENGINE_ERROR),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(act: Act, reason: Reason) -> None:
    assert refused(ONE, act) is reason
    assert all(engine == ONE for _, engine in way(ONE, act))


def test_an_act_fails_as_often_as_it_is_told_to_and_stores_nothing() -> None:
    doomed = ONE._replace(acts=(("Stop", 2, Reason.DISK_FULL),))
    (reached,) = way(doomed, Stop("c1"))
    assert reached[0] is Atom.STOP_SIGNAL and running(reached[1]) == ["c1"]
    assert reached[1].disk == ONE.disk
    assert refused(doomed, Stop("c1")) is Reason.DISK_FULL
    (again,) = way(reached[1], Stop("c1"))
    assert running(after(again[1], Stop("c1"))) == []


def test_registry_trouble_is_used_up_one_by_one_and_outlives_a_boot() -> None:
    trouble = ONE._replace(pulls=((V2.digest, (Reason.REGISTRY_DENIED, Reason.PULL_CORRUPT)),))
    assert refused(trouble, Pull(V2)) is Reason.REGISTRY_DENIED
    later = way(trouble, Pull(V2))[-1][1]
    plain = Setting(boots=(Boot.PLAIN,))
    (booted,) = {engine for _, engine in boots(plain, later)}
    assert refused(booted, Pull(V2)) is Reason.PULL_CORRUPT
    assert after(way(booted, Pull(V2))[-1][1], Pull(V2)).images[V2.digest] is ImageState.PRESENT


# ---- what a device may boot into: what Docker was seen to do


def booted(engine: Engine, setting: Setting = GOOD) -> list[Engine]:
    """Every engine after a cut now."""
    return [found for _, found in boots(setting, engine)]


def test_a_pull_that_is_not_synced_may_leave_an_image_that_is_listed_and_empty() -> None:
    pulled = after(ONE, Pull(V2))
    left = {engine.images.get(V2.digest) for engine in booted(pulled)}
    assert left == {None, ImageState.BROKEN, ImageState.PRESENT}
    layers = {i.layers for engine in booted(pulled) for i in engine.disk.images if i.digest == V2.digest}
    assert (0,) in layers, "and not one file of it is whole"
    assert {engine.images.get(V2.digest) for engine in booted(after(pulled, Sync()))} == {ImageState.PRESENT}


def test_what_was_pulled_over_a_broken_image_is_whole() -> None:
    for engine in booted(after(ONE, Pull(V2))):
        if engine.images.get(V2.digest) is ImageState.BROKEN and not engine.flaky:
            assert after(engine, Pull(V2)).images[V2.digest] is ImageState.PRESENT
            assert refused(engine, Create(V2, 2)) is Reason.IMAGE_INVALID


def test_a_container_that_had_answered_may_come_back_as_created() -> None:
    answered = advance(GOOD, after(MADE, Stop("c1"), Start("c2")), 100)
    assert of(answered, "c2").health is HealthState.HEALTHY
    states = {(of(e, "c2").state, of(e, "c2").exit_code) for e in booted(answered)}
    assert states == {(ContainerState.CREATED, None), (ContainerState.EXITED, 137)}
    synced = {of(e, "c2").state for e in booted(after(answered, Sync()))}
    assert synced == {ContainerState.EXITED}


def test_a_port_may_be_stuck_until_the_engine_is_restarted() -> None:
    stuck = [e for e in booted(ONE) if e.stuck]
    assert stuck and all(running(e) == [] for e in stuck), "not even a restart policy gets past it"
    for engine in stuck:
        assert refused(engine, Start("c1")) is Reason.START_REFUSED
        again = after(engine, Remove("c1"), Create(V1, 1))
        assert refused(again, Start(again.containers[0].id)) is Reason.START_REFUSED, "made anew, too"
        assert running(after(engine, RestartEngine(), Start("c1"))) == ["c1"]


def test_the_first_pull_after_a_boot_may_fail() -> None:
    flaky = [e for e in booted(ONE) if e.flaky]
    assert flaky
    for engine in flaky:
        assert refused(engine, Pull(V2)) is Reason.ENGINE_ERROR
        second = way(engine, Pull(V2))[-1][1]
        assert after(second, Pull(V2)).images[V2.digest] is ImageState.PRESENT


def test_both_may_be_revived_by_their_policies() -> None:
    careless = after(
        MADE, SetRestartPolicy("c1", "always"), SetRestartPolicy("c2", "always"), Stop("c1"), Start("c2"), Sync()
    )  # fmt: skip
    assert running(careless) == ["c2"]
    assert ["c1", "c2"] in [running(e) for e in booted(careless)]
    careful = after(careless, SetRestartPolicy("c1", "no"), SetRestartPolicy("c2", "no"), Sync())
    assert [running(e) for e in booted(careful) if running(e)] == []


def test_a_policy_that_is_not_synced_may_still_revive() -> None:
    changed = after(ONE, SetRestartPolicy("c1", "no"), Stop("c1"))
    plain = [e for e in booted(changed) if not e.stuck]
    assert {tuple(running(e)) for e in plain} == {(), ("c1",)}


def test_unless_stopped_revives_what_was_recorded_as_running_only() -> None:
    made = after(MADE, SetRestartPolicy("c2", "unless-stopped"), Stop("c1"), Sync())
    assert {tuple(running(e)) for e in booted(made)} == {()}
    (begun, spawned, recorded) = way(made, Start("c2"))
    assert {tuple(running(e)) for e in booted(begun[1])} == {()}
    assert {tuple(running(e)) for e in booted(spawned[1])} == {()}, "nobody had written down that it runs"
    assert {tuple(running(e)) for e in booted(recorded[1])} == {(), ("c2",)}
    noted = after(recorded[1], Sync())
    assert {tuple(running(e)) for e in booted(noted) if not e.stuck} == {("c2",)}
    gone = way(noted, Stop("c2"))[-2]
    assert gone[0] is Atom.STOP_GONE and running(gone[1]) == []
    assert {tuple(running(e)) for e in booted(gone[1]) if not e.stuck} == {("c2",)}, "it was not recorded yet"


def test_what_is_revived_began_in_this_boot_and_what_is_not_did_not() -> None:
    for engine in booted(ONE):
        c1 = of(engine, "c1")
        assert c1.started_this_boot is c1.running
        assert (c1.up_ms, c1.watched_ms, c1.healthy_ms) == (0, 0, 0)
        assert engine.revived == 0, "nobody was there to count it"


def test_a_broken_image_or_a_bad_version_is_not_revived() -> None:
    torn = ONE._replace(disk=ONE.disk._replace(images=(StoredImage(V1.digest, (True,), (0,)),)))
    assert {tuple(running(e)) for e in booted(torn)} == {()}
    worn = Setting({V1.digest: Behaviour(last_boot=1)})
    assert {(of(e, "c1").exit_code, e.boot) for e in booted(ONE, worn) if not e.stuck} == {(1, 2)}


def test_boots_are_named_and_come_in_the_same_order() -> None:
    pulled = after(ONE, Pull(V2), Create(V2, 2))
    names = [name for name, _ in boots(GOOD, pulled)]
    assert len(names) == len(set(names)) and names == [name for name, _ in boots(GOOD, pulled)]
    assert {name.partition("/")[0] for name in names} == {boot.value for boot in Boot}


# ---- what happens by itself


@pytest.mark.parametrize(
    ("does", "at", "health"),
    [
        (Behaviour(), 10, HealthState.STARTING),
        (Behaviour(), 20, HealthState.HEALTHY),
        (Behaviour(healthy_at=None), 300, HealthState.STARTING),
        (Behaviour(bad_at=60), 50, HealthState.HEALTHY),
        (Behaviour(bad_at=60), 60, HealthState.UNHEALTHY),
    ],
)
def test_a_version_is_as_well_as_it_says(does: Behaviour, at: int, health: HealthState) -> None:
    setting = Setting({V2.digest: does})
    began = after(MADE, Stop("c1"), Start("c2"), setting=setting)
    assert of(advance(setting, began, at), "c2").health is health


def test_a_version_that_flaps_is_never_healthy_for_long() -> None:
    setting = Setting({V2.digest: Behaviour(flaps_every=60)})
    engine, most = after(MADE, Stop("c1"), Start("c2"), setting=setting), 0
    for _ in range(30):
        engine = advance(setting, engine, 10)
        most = max(most, of(engine, "c2").healthy_ms)
    assert 0 < most < 60


@pytest.mark.parametrize(("policy", "revived"), [("no", 0), ("unless-stopped", 1)])
def test_a_version_that_dies_is_started_again_if_its_policy_says_so(policy: str, revived: int) -> None:
    setting = Setting({V2.digest: Behaviour(dies_at=60)})
    began = after(MADE, SetRestartPolicy("c2", policy), Stop("c1"), Start("c2"), setting=setting)
    gone = advance(setting, began, 60)
    assert gone.revived == revived and of(gone, "c2").running is bool(revived)
    assert of(gone, "c2").exit_code == (None if revived else 3)


def test_ages_that_decide_nothing_are_not_told_apart() -> None:
    old, older = advance(GOOD, ONE, CAP_MS), advance(GOOD, ONE, 10 * CAP_MS)
    assert old == older and of(old, "c1").up_ms == CAP_MS


def test_the_updaters_end_leaves_the_client_and_forgets_how_it_was() -> None:
    blind = of(unwatched(ONE), "c1")
    assert blind.running and blind.up_ms == of(ONE, "c1").up_ms
    assert (blind.watched_ms, blind.healthy_ms, blind.health) == (0, 0, HealthState.STARTING)


def test_a_killed_process_is_told_from_one_that_was_stopped() -> None:
    assert of(ended(ONE, "c1"), "c1").exit_code == 137
    assert of(after(ONE, Stop("c1")), "c1").exit_code == 0


def test_a_migration_is_on_the_volume_and_the_old_version_does_not_know_it() -> None:
    setting = Setting({V2.digest: Behaviour(migrates=True)})
    engine = after(
        MADE, Stop("c1"), PrepareSnapshot(2), Snapshot(2), Start("c2"), Stop("c2"), setting=setting
    )
    assert engine.disk.volumes[-1].format == V2.digest
    assert of(after(engine, Start("c1"), setting=setting), "c1").exit_code == 1
    back = after(engine, RestoreSnapshot(2), Start("c1"), setting=setting)
    assert running(back) == ["c1"] and back.disk.volumes[-1].snapshots == (
        (2, SnapshotState.RESTORED, V2.digest),
    )
