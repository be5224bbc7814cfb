"""A container engine on a device that loses power, as a value: every act answers the states between its atoms.

It can boot into what Docker was seen to do: an image that is listed and empty, a container that is `created` though
it had answered, starts refused because a port is still allocated, a first pull that fails, containers revived by
their restart policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from reference.core.errors import Reason
from reference.core.model import (
    Container,
    ContainerState,
    Failure,
    HealthState,
    Image,
    ImageState,
    SnapshotState,
)
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
from reference.world import volumes
from reference.world.atoms import Atom
from reference.world.disk import (
    ENDED,
    LAYERS,
    NEVER,
    RUNNING,
    Disk,
    StoredContainer,
    StoredImage,
    after_cut,
    synced,
    then,
)
from reference.world.nouns import GOOD, HEALTH, Behaviour

FOR_GOOD = 9
"""What is to fail so often fails whenever it is tried."""
CAP_MS = 350
"""Ages of one process life above this decide nothing any more, and are not told apart."""


class Boot(StrEnum):
    """How a device comes back."""

    PLAIN = "plain"
    STUCK = "stuck"
    """The engine refuses every start until it is restarted: a port is still allocated."""
    FLAKY = "flaky"
    """The first pull fails."""


@dataclass(frozen=True)
class Setting:
    """What stays the same over a story: how versions behave (by digest), and how this device may boot."""

    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    boots: tuple[Boot, ...] = tuple(Boot)

    def of(self, container: Container) -> Behaviour:
        """How its version behaves."""
        return self.behaviours.get(container.image.digest, GOOD)

    @property
    def worn_after(self) -> int:
        """The last boot that anything depends on."""
        return max((b.last_boot or 0 for b in self.behaviours.values()), default=0)


class Engine(NamedTuple):
    """Containers as they are seen, the disk under them, and what holds until the next boot."""

    containers: tuple[Container, ...] = ()
    disk: Disk = Disk()
    boot: int = 1
    """Counted no further than anything depends on it."""
    stuck: bool = False
    freed: bool = False
    """The engine was restarted in this boot, so no port is stuck."""
    flaky: bool = False
    revived: int = 0
    """Starts by the engine itself, until somebody looks."""
    pulls: tuple[tuple[str, tuple[Reason, ...]], ...] = ()
    """Registry trouble to come, by digest: used up one by one, over boots too."""
    acts: tuple[tuple[str, int, Reason], ...] = ()
    """So many times an act of this kind will fail: its class, or `TrustedStart` for a start of what was confirmed."""
    leaving: tuple[str, ...] = ()
    """Containers that have given up their lease and are about to end, whatever the updater does."""

    @property
    def images(self) -> dict[str, ImageState]:
        """What the engine lists."""
        return {i.digest: i.state for i in self.disk.images if i.state is not None}


Way = Iterator[tuple[Atom, Engine]]


class RefusedError(Exception):
    """An act has failed where the generator stopped."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


def perform(setting: Setting, engine: Engine, step: Act) -> Way:
    """The atoms of an act, each with the engine after it. Raises RefusedError where the act fails."""
    wanted = "TrustedStart" if isinstance(step, Start) and step.trusted else type(step).__name__
    for kind, left, reason in engine.acts:
        if kind == wanted and left > 0:
            others = tuple(a for a in engine.acts if a[0] != kind)
            later = left if left >= FOR_GOOD else left - 1
            rest = ((kind, later, reason),) if later else ()
            yield first(step), engine._replace(acts=(*others, *rest))
            raise RefusedError(reason, f"no {kind} today")
    yield from _way(setting, engine, step)


_FIRST: Mapping[type[Act], Atom] = {
    Pull: Atom.PULL_MANIFEST,
    Create: Atom.CREATE_WRITE,
    Start: Atom.START_BEGIN,
    Stop: Atom.STOP_SIGNAL,
    Remove: Atom.REMOVE_HIDE,
    RemoveImage: Atom.UNLIST_HIDE,
    SetRestartPolicy: Atom.POLICY_WRITE,
    Sync: Atom.SYNC_BEGIN,
    RestartEngine: Atom.ENGINE_DOWN,
    PrepareSnapshot: Atom.RESERVE_MAKE,
    Snapshot: Atom.SNAPSHOT_COPY,
    RestoreSnapshot: Atom.RESTORE_EXCHANGE,
    RemoveSnapshot: Atom.FORGET_HIDE,
}


def first(step: Act) -> Atom:
    """Where an act that fails, or has nothing to do, has got to: nothing of it is stored."""
    return _FIRST[type(step)]


def _way(setting: Setting, engine: Engine, step: Act) -> Way:
    match step:
        case Pull(wanted):
            yield from _pull(engine, wanted)
        case Create(wanted, generation):
            yield from _create(setting, engine, wanted, generation)
        case Start(container_id):
            yield from _start(setting, engine, container_id)
        case Stop(container_id):
            yield from _stop(engine, container_id)
        case Remove(container_id):
            yield from _remove(engine, container_id)
        case RemoveImage(digest):
            yield from _remove_image(engine, digest)
        case SetRestartPolicy(container_id, policy):
            yield from _set_policy(engine, container_id, policy)
        case Sync():
            yield Atom.SYNC_BEGIN, engine
            yield Atom.SYNC_END, engine._replace(disk=synced(engine.disk))
        case RestartEngine():
            yield Atom.ENGINE_DOWN, engine
            yield Atom.ENGINE_UP, engine._replace(freed=True, stuck=False)
        case _:
            if isinstance(step, RestoreSnapshot) and not _copied(engine, step.generation):
                raise RefusedError(
                    Reason.ENGINE_ERROR, f"no snapshot of generation {step.generation} was taken"
                )
            for atom, values in volumes.perform(engine.disk.volumes, step):
                yield atom, engine._replace(disk=engine.disk._replace(volumes=values))


def _copied(engine: Engine, generation: int) -> bool:
    copies = engine.disk.volumes[-1].snapshots
    return any(g == generation and state is not SnapshotState.PREPARED for g, state, _ in copies)


# ---- images


def _pull(engine: Engine, wanted: Image) -> Way:
    yield Atom.PULL_MANIFEST, engine
    if engine.flaky:
        yield Atom.PULL_MANIFEST, engine._replace(flaky=False)
        raise RefusedError(Reason.ENGINE_ERROR, "the first pull after a cut failed")
    coming = dict(engine.pulls)
    if reasons := coming.pop(wanted.digest, ()):
        left = reasons if len(reasons) >= FOR_GOOD else reasons[1:]
        if left:
            coming[wanted.digest] = left
        yield Atom.PULL_MANIFEST, engine._replace(pulls=tuple(sorted(coming.items())))
        raise RefusedError(reasons[0], f"no pull of {wanted.version}")
    state = engine.images.get(wanted.digest)
    if state is ImageState.PRESENT:
        return
    if state is ImageState.BROKEN:
        for atom, engine in _unlist(engine, wanted.digest):  # noqa: B020 - it goes on from where that has led
            yield atom, engine
    files = next((i for i in engine.disk.images if i.digest == wanted.digest), None)
    files = files or StoredImage(wanted.digest, (False,), (0,))
    for layers in range(1, LAYERS + 1):
        files = files._replace(layers=then(files.layers, layers))
        yield Atom.PULL_LAYER, _with_image(engine, files)
    yield Atom.PULL_INDEX, _with_image(engine, files._replace(listed=then(files.listed, True)))


def _remove_image(engine: Engine, digest: str) -> Way:
    if any(c.image.digest == digest for c in engine.containers):
        raise RefusedError(Reason.ENGINE_ERROR, f"{digest} is in use")
    yield from _unlist(engine, digest)


def _unlist(engine: Engine, digest: str) -> Way:
    files = next((i for i in engine.disk.images if i.digest == digest), None)
    if files is None:
        return
    files = files._replace(listed=then(files.listed, False))
    yield Atom.UNLIST_HIDE, _with_image(engine, files)
    yield Atom.UNLIST_PURGE, _with_image(engine, files._replace(layers=then(files.layers, 0)))


def _with_image(engine: Engine, files: StoredImage) -> Engine:
    others = (i for i in engine.disk.images if i.digest != files.digest)
    return engine._replace(disk=engine.disk._replace(images=tuple(sorted((*others, files)))))


# ---- containers


def _create(setting: Setting, engine: Engine, wanted: Image, generation: int) -> Way:
    if engine.images.get(wanted.digest) is not ImageState.PRESENT:
        raise RefusedError(Reason.IMAGE_INVALID, "no such image")
    if any(c.generation == generation and c.image == wanted for c in engine.containers):
        return
    if any(c.generation == generation for c in engine.containers):
        raise RefusedError(Reason.ENGINE_ERROR, f"generation {generation} is there with another image")
    yield Atom.CREATE_WRITE, engine
    taken = {c.id for c in engine.disk.containers}
    names = (f"c{generation}", *(f"c{generation}-{n}" for n in range(2, 9)))
    name = next(n for n in names if n not in taken)
    made = Container(name, generation, wanted, ContainerState.CREATED, configuration="same")
    made = replace(made, overlaps=setting.of(made).overlaps)
    files = StoredContainer(name, generation, wanted, (False, True))
    disk = engine.disk._replace(containers=(*engine.disk.containers, files))
    yield Atom.CREATE_SHOW, engine._replace(containers=(*engine.containers, made), disk=disk)


def _start(setting: Setting, engine: Engine, container_id: str) -> Way:
    found = next((c for c in engine.containers if c.id == container_id), None)
    if found is None:
        raise RefusedError(Reason.ENGINE_ERROR, "no such container")
    yield Atom.START_BEGIN, engine
    does = setting.of(found)
    whole = engine.images.get(found.image.digest) is ImageState.PRESENT
    if does.refused or (does.stuck_port and not engine.freed) or engine.stuck or not whole:
        raise RefusedError(Reason.START_REFUSED, "the start was refused")
    engine = _spawned(setting, engine, found)
    yield Atom.START_SPAWN, engine
    yield Atom.START_RECORD, _recorded(engine, container_id)


def _spawned(setting: Setting, engine: Engine, container: Container) -> Engine:
    if container.running:
        return engine
    does, disk = setting.of(container), engine.disk
    standby = does.overlaps and _held(engine)
    if does.migrates:
        now = disk.volumes[-1]._replace(format=container.image.digest)
        disk = disk._replace(volumes=then(disk.volumes, now))
    foreign = disk.volumes[-1].format not in ("", container.image.digest)
    worn = does.last_boot is not None and engine.boot > does.last_boot
    bad = does.crashes or foreign or worn
    fresh = replace(
        container, started_this_boot=True, up_ms=0, watched_ms=0, healthy_ms=0, health=HealthState.STARTING,
        exit_code=1 if bad else None, state=ContainerState.EXITED if bad else ContainerState.RUNNING,
        standby=standby and not bad,
    )  # fmt: skip
    return _seen(engine._replace(disk=disk), container.id, lambda _: fresh)


def _recorded(engine: Engine, container_id: str) -> Engine:
    """The engine writes down whether it runs."""
    running = any(c.id == container_id and c.running for c in engine.containers)
    ran = RUNNING if running else ENDED
    return _kept(engine, container_id, lambda s: s._replace(ran=then(s.ran, ran)))


def _stop(engine: Engine, container_id: str) -> Way:
    if not any(c.id == container_id and c.running for c in engine.containers):
        return
    yield Atom.STOP_SIGNAL, engine
    if _held(engine, container_id) and any(c.standby for c in engine.containers):
        # It gives up the lease before it ends: for a moment both live, and the other one is active.
        left = _seen(engine, container_id, lambda c: replace(c, standby=True, health=HealthState.STARTING))
        engine = _taken_over(left._replace(leaving=(container_id,)))
        yield Atom.STOP_SIGNAL, engine
    engine = _gone(engine, container_id, 0)
    yield Atom.STOP_GONE, engine
    yield Atom.STOP_RECORD, _recorded(engine, container_id)


def ended(engine: Engine, container_id: str) -> Engine:
    """The engine after a container's process was killed by somebody; what its restart policy says is not done."""
    return _recorded(_gone(engine, container_id, 137), container_id)


def _gone(engine: Engine, container_id: str, exit_code: int | None) -> Engine:
    """The engine without this process. Who stood by takes over."""
    engine = _seen(engine, container_id, lambda c: _ended(c, exit_code))
    return _taken_over(engine._replace(leaving=tuple(i for i in engine.leaving if i != container_id)))


def _held(engine: Engine, by: str = "") -> bool:
    """Whether somebody has the lease on the volume, or whether this one has it. Only those that overlap know of one."""
    return any(c.active and c.overlaps and by in ("", c.id) for c in engine.containers)


def _taken_over(engine: Engine) -> Engine:
    """A free lease is taken by the first that waits for it: what it was as a standby says nothing of it any more."""
    waiting = (c for c in engine.containers if c.running and c.standby and c.id not in engine.leaving)
    first_of_them = next(waiting, None)
    if first_of_them is None or _held(engine):
        return engine
    active = replace(
        first_of_them, standby=False, up_ms=0, watched_ms=0, healthy_ms=0, health=HealthState.STARTING
    )
    return _seen(engine, active.id, lambda _: active)


def _set_policy(engine: Engine, container_id: str, policy: str) -> Way:
    yield Atom.POLICY_WRITE, engine
    changed = _seen(engine, container_id, lambda c: replace(c, restart_policy=policy))
    yield Atom.POLICY_SHOW, _kept(changed, container_id, lambda s: s._replace(policy=then(s.policy, policy)))


def _remove(engine: Engine, container_id: str) -> Way:
    if not any(c.id == container_id for c in engine.containers):
        return
    engine = _kept(engine, container_id, lambda s: s._replace(listed=then(s.listed, False)))
    engine = _gone(engine, container_id, None)
    engine = engine._replace(containers=tuple(c for c in engine.containers if c.id != container_id))
    yield Atom.REMOVE_HIDE, engine
    yield Atom.REMOVE_PURGE, engine


def _ended(c: Container, exit_code: int | None) -> Container:
    if not c.running:
        return c
    return replace(
        c, state=ContainerState.EXITED, exit_code=exit_code, health=HealthState.STARTING, healthy_ms=0,
        up_ms=0, watched_ms=0, standby=False,
    )  # fmt: skip


def _seen(engine: Engine, container_id: str, change: Callable[[Container], Container]) -> Engine:
    changed = tuple(change(c) if c.id == container_id else c for c in engine.containers)
    return engine._replace(containers=changed)


def _kept(engine: Engine, container_id: str, change: Callable[[StoredContainer], StoredContainer]) -> Engine:
    changed = tuple(change(s) if s.id == container_id else s for s in engine.disk.containers)
    return engine._replace(disk=engine.disk._replace(containers=changed))


# ---- what happens by itself


def advance(setting: Setting, engine: Engine, ms: int) -> Engine:
    """The engine after so much time: processes age, are probed, and may die."""
    for leaving in engine.leaving:
        engine = _recorded(_gone(engine, leaving, 0), leaving)
    for container_id in [c.id for c in engine.containers if c.running]:
        container = next(c for c in engine.containers if c.id == container_id)
        engine = _aged(setting, engine, container, ms)
    return engine


def _aged(setting: Setting, engine: Engine, c: Container, ms: int) -> Engine:
    does, up = setting.of(c), c.up_ms + ms
    dies_at = does.dies_waiting_at if c.standby else does.dies_at
    if dies_at is None or up < dies_at:
        watched = min((c.watched_ms or 0) + ms, CAP_MS)
        older = probed(does, replace(c, up_ms=min(up, CAP_MS), watched_ms=watched))
        return _seen(engine, c.id, lambda _: older)
    engine = _gone(engine, c.id, 3)
    if c.restart_policy != "no":
        engine = _spawned(setting, engine._replace(revived=engine.revived + 1), _ended(c, 3))
    return _recorded(engine, c.id)


def probed(does: Behaviour, c: Container) -> Container:
    """A running container as the probe sees it at its age."""
    good_at = does.ready_at if c.standby else does.healthy_at
    if good_at is None or c.up_ms < good_at:
        return replace(c, health=HealthState.STARTING, healthy_ms=0)
    if c.standby:
        return replace(c, health=HealthState.HEALTHY, healthy_ms=0)
    if does.bad_at is not None and c.up_ms >= does.bad_at:
        return replace(c, health=HealthState.UNHEALTHY, healthy_ms=0)
    good = min(c.up_ms - good_at, c.watched_ms or 0)
    if does.flaps_every is not None:
        good %= does.flaps_every
    return replace(c, health=HealthState.HEALTHY, healthy_ms=min(good, HEALTH.stable_for_ms))


def unwatched(engine: Engine) -> Engine:
    """The engine after the updater's end: all that is known of a life is how old it is."""
    blind = (
        replace(c, watched_ms=0, healthy_ms=0, health=HealthState.STARTING) if c.running else c
        for c in engine.containers
    )
    return engine._replace(containers=tuple(blind))


def boots(setting: Setting, engine: Engine) -> Iterator[tuple[str, Engine]]:
    """Every engine that a device may boot into after a cut now, each with its name; what is revived runs already."""
    boot = min(engine.boot + 1, setting.worn_after + 1)
    for number, disk in enumerate(after_cut(engine.disk)):
        for kind in setting.boots:
            down = Engine(
                tuple(_down(setting, s) for s in disk.containers), disk, boot, kind is Boot.STUCK, False,
                kind is Boot.FLAKY, 0, engine.pulls, engine.acts,
            )  # fmt: skip
            yield f"{kind}/{number}", revived(setting, down)


def _down(setting: Setting, s: StoredContainer) -> Container:
    state = ContainerState.CREATED if s.ran[-1] == NEVER else ContainerState.EXITED
    down = Container(
        s.id, s.generation, s.image, state, exit_code=137 if s.ran[-1] == RUNNING else None,
        restart_policy=s.policy[-1], configuration="same", watched_ms=0,
    )  # fmt: skip
    return replace(down, overlaps=setting.of(down).overlaps)


def revived(setting: Setting, engine: Engine) -> Engine:
    """The engine starts what its restart policies name: `always` whatever was, `unless-stopped` what it had as running."""
    for s in engine.disk.containers:
        tried = s.policy[-1] == "always" or (s.policy[-1] == "unless-stopped" and s.ran[-1] == RUNNING)
        found = next(c for c in engine.containers if c.id == s.id)
        does = setting.of(found)
        whole = engine.images.get(s.image.digest) is ImageState.PRESENT
        if tried and whole and not (does.refused or does.stuck_port or engine.stuck):
            engine = _recorded(_spawned(setting, engine, found), s.id)
    return engine
