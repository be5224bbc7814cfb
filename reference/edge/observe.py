"""The agent's eyes: the engine's view and the probe's answers, put together into core's `World`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

from reference.core.errors import BlackstartError, EngineError
from reference.core.limits import Limits
from reference.core.model import Container, Failure, Health, HealthState, Image, Phase, World
from reference.core.steps import Act, Start, Stop, Sync
from reference.core.update import UpdateRecord
from reference.edge import health as probing
from reference.edge.health import HealthTracker
from reference.edge.hold import taken_by
from reference.edge.runtimes.base import ContainerFacts, EngineView, Runtime
from reference.edge.settings import ClientSettings
from reference.support.files import write_durably

HANDOVER_PROBE_S = 0.005
"""How often the client's port is asked while it is handed over: so long an outage may be that is not seen."""


class Eyes:
    """All that the agent knows beyond its journal; what is not boot-scoped dies with the process."""

    def __init__(
        self,
        runtime: Runtime,
        client: ClientSettings,
        run_dir: Path,
        seed: int | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        hold_file: Path | None = None,
        lock_file: Path | None = None,
    ) -> None:
        self._runtime = runtime
        self._client = client
        self._run_dir = run_dir
        self._clock = clock
        # Jitter only: nothing secret hangs on it, and a seed makes a run repeatable.
        self._stream = random.Random(seed)  # noqa: S311
        self._tracker = HealthTracker(clock)
        self._error: Failure | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._restores = 0
        self._restored_at = 0.0
        self._jitter = 0
        self._dirty = True
        self._hold_file = hold_file
        self._lock_file = lock_file
        self._locked_since: float | None = None
        self._probation_since: float | None = None
        self._life = ""
        self._waiting: frozenset[str] = frozenset()
        """Lives that stood by at the last look."""
        self._handover: asyncio.Task[None] | None = None
        self._handover_probe = Health().probe
        self.hold = False
        """Whether an operator holds the device, as last seen."""
        self.view = EngineView((), {})
        self.blind = False
        """Whether the last look failed: the view is an old one then."""
        self.running: Image | None = None
        self.has_looked = False

    def forget(self) -> None:
        """Forget what was counted: with another journal everything begins anew."""
        self._error, self._failures, self._restores, self._life = None, 0, 0, ""
        self._dirty, self._probation_since, self._locked_since = True, None, None

    async def look(self, record: UpdateRecord) -> World:
        """Observe, probing what runs. An engine that does not answer is an error in the last known world."""
        await self._handed_over()
        try:
            self.view = await self._runtime.observe()
        except EngineError as error:
            self.failed(error, None)
            self.blind = True
        else:
            self.blind, self.has_looked = False, True
        running = [c for c in self.view.containers if c.life]
        self._tracker.present([key for c in running for key in (c.life, _standing_by(c.life))])
        two = len(running) > 1 and all(c.overlaps for c in running)
        self._waiting = await self._standbys(running, record) if two else frozenset()
        active = [c for c in running if c.life not in self._waiting]
        self.running = active[0].image if len(active) == 1 else None
        if len(active) == 1:
            await self._probe(active[0], record)
        elif two:
            await self._probe_either(active, record)
        else:
            self._tracker.down()
        return self._world(record)

    def acted(self, act: Act) -> None:
        """An act has succeeded. A sync between two tries of what fails is no end of its failures."""
        self._error = None
        if not isinstance(act, Sync):
            self._failures = 0
        self._dirty = not isinstance(act, Sync)
        self._count_start(act)

    def failed(self, error: BlackstartError, act: Act | None) -> None:
        """An act has failed; whatever it did may be half done."""
        trusted = isinstance(act, Start) and act.trusted
        # Names of files may hold what is no text (surrogates), and a journal that refused it would stop the agent.
        message = str(error).encode("utf-8", "replace").decode()
        self._error = Failure(error.reason, message, trusted)
        self._failures += 1
        self._failed_at = self._clock()
        self._jitter = self._stream.randrange(1001)
        self._dirty = True
        self._count_start(act)

    def dropped(self, act: Act) -> None:
        """An act was cancelled, at whatever point: a start may have happened, so it counts."""
        self._error, self._dirty = None, True
        self._count_start(act)

    def pause_ms(self, limits: Limits) -> int:
        """How long to wait, in ms, before an engine that does not answer is asked again."""
        return limits.backoff_ms(self._failures, self._jitter) if self.blind else 0

    def journaled(self, before: UpdateRecord, after: UpdateRecord) -> None:
        """The record has changed: a new phase does not inherit the old one's failures."""
        self._error = None
        if before.phase is not after.phase:
            self._failures = 0
            if after.phase is Phase.SWITCHING:
                self._tracker.begins()
        if before.probation_left_ms != after.probation_left_ms or before.current != after.current:
            self._probation_since, self._restores = self._clock(), 0
        if after.phase is Phase.ROLLING_BACK and before.phase is not after.phase:
            self._restores = 0  # A revival before the switch is no try of this rollback.

    def stopping(self, act: Stop) -> None:
        """Something is about to be stopped by us: the outage begins now, not at the next look.

        Unless another one stands by, ready: then the port is asked all the while, and its answers say what the outage was.
        """
        others = [c for c in self.view.containers if c.life in self._waiting and c.id != act.container_id]
        stopped = [c for c in self.view.containers if c.life in self._waiting and c.id == act.container_id]
        ready = [c for c in others if self._tracker.of(_standing_by(c.life))[0] is HealthState.HEALTHY]
        if stopped:
            return  # It stands by itself: the other one works on.
        if not ready:
            self._tracker.down()
            return
        self._tracker.seamless()
        if self._handover is None:
            self._handover = asyncio.create_task(self._watch_handover(self._client_address(ready[0])))

    async def _watch_handover(self, address: str) -> None:
        while True:
            asked_at = self._clock()
            good = await probing.ask(address, self._client.port, self._handover_probe)
            self._tracker.answered(good, asked_at)
            await asyncio.sleep(HANDOVER_PROBE_S)

    async def _handed_over(self) -> None:
        """From here on the looks do it."""
        if self._handover is not None:
            task, self._handover = self._handover, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def mark_engine_restart(self, record: UpdateRecord) -> None:
        """Remember, until the next boot, that the engine was restarted for this job: written before it is done.

        Raises EngineError: what cannot be remembered is not done, or it would be done again and again.
        """
        try:
            write_durably(self._marker(), self._job_id(record).encode())
        except OSError as error:
            what = f"cannot remember that the engine was restarted: {error.strerror}"
            raise EngineError(what, where=str(self._marker()), todo="Look at run_dir.") from error

    def _count_start(self, act: Act | None) -> None:
        if isinstance(act, Start) and act.trusted:
            self._restores += 1
            self._restored_at = self._clock()
            self._life = ""  # A new life is ours, and counted here.

    async def _standbys(self, running: list[ContainerFacts], record: UpdateRecord) -> frozenset[str]:
        """Ask each whether it stands by, and how it is: it answers where only the updater asks."""
        asked = [probing.ask_standby(c.standby, _pid(c.life), _health_of(c, record).probe) for c in running]
        waiting = []
        for facts, answer in zip(running, await asyncio.gather(*asked), strict=True):
            if answer is None:
                continue
            good = answer and facts.engine_health in (None, HealthState.HEALTHY)
            self._tracker.forget(facts.life)
            key = _standing_by(facts.life)
            self._tracker.heard(key, _health_of(facts, record), good, facts.up_ms, serves=False)
            waiting.append(facts.life)
        return frozenset(waiting)

    async def _probe_either(self, active: list[ContainerFacts], record: UpdateRecord) -> None:
        """None of them stands by yet, or any more: whose answer it is nobody can say, only whether there was one."""
        for facts in active:
            self._tracker.watched(facts.life, _health_of(facts, record))
        health = _health_of(active[0], record) if active else Health()
        if health.probe:
            good = await probing.ask(self._client_address(active[0]), self._client.port, health.probe)
            self._tracker.answered(good)

    async def _probe(self, facts: ContainerFacts, record: UpdateRecord) -> None:
        health = _health_of(facts, record)
        self._handover_probe = health.probe or self._handover_probe
        good = await self._well(facts, health)
        self._tracker.heard(facts.life, health, good, facts.up_ms)
        state, healthy_ms = self._tracker.of(facts.life)
        if _on_probation(record):
            if self._life not in ("", facts.life):
                self._restores += 1  # The engine has started it by itself.
            self._life = facts.life
            return
        trusted = [
            i for i in (record.current, record.previous) if i is not None and i.generation == facts.generation
        ]
        if trusted and state == "healthy" and healthy_ms >= health.stable_for_ms:
            self._restores = 0

    async def _well(self, facts: ContainerFacts, health: Health) -> bool:
        """By its probe, by the engine's own check, or by both: whatever there is has to be good.

        Without a probe the engine's check is all there is, and an image that has none cannot be healthy.
        """
        by_engine = facts.engine_health
        if by_engine is not None and by_engine is not HealthState.HEALTHY:
            return False
        if not health.probe:
            return by_engine is HealthState.HEALTHY
        return await probing.ask(self._client_address(facts), self._client.port, health.probe)

    def _client_address(self, facts: ContainerFacts) -> str:
        """Where it is asked: as it is set up, or at its own address in the engine's network."""
        set_up = self._client.address
        return facts.address or "127.0.0.1" if set_up == "container" else set_up

    def _world(self, record: UpdateRecord) -> World:
        now = self._clock()
        self.hold = self._hold_file is not None and taken_by(self._hold_file) is not None
        locked_by = taken_by(self._lock_file) if self._lock_file is not None else None
        return World(
            boot_id=self._runtime.boot_id,
            containers=tuple(self._container(facts) for facts in self.view.containers),
            images=dict(self.view.images),
            dirty=self._dirty,
            error=self._error,
            failures=self._failures,
            since_failure_ms=round((now - self._failed_at) * 1000),
            restores=self._restores,
            since_restore_ms=round((now - self._restored_at) * 1000),
            engine_restarted=self._engine_restarted(record),
            jitter_permille=self._jitter,
            outage_ms=self._tracker.outage_ms,
            hold=self.hold,
            locked_ms=self._locked_ms(record, now, locked_by is not None),
            locked_by=locked_by or "",
            snapshots=dict(self.view.snapshots),
            survived_ms=self._survived_ms(record, now),
        )

    def _locked_ms(self, record: UpdateRecord, now: float, taken: bool) -> int | None:
        """Since this job had nothing left to do but to wait for the lock: a hold, too, makes that begin anew."""
        if not taken or record.phase is not Phase.STAGED or self.hold:
            self._locked_since = None
            return 0 if taken else None
        if self._locked_since is None:
            self._locked_since = now
        return round((now - self._locked_since) * 1000)

    def _survived_ms(self, record: UpdateRecord, now: float) -> int:
        """In one unbroken life, without one bad answer, and not counted before."""
        if not _on_probation(record) or record.current is None:
            self._probation_since = None
            return 0
        if self._probation_since is None:
            self._probation_since = now
        digest = record.current.image.digest
        lives = [c.life for c in self.view.containers if c.life and c.image.digest == digest]
        lives = [life for life in lives if life not in self._waiting]
        healthy_ms = self._tracker.of(lives[0])[1] if len(lives) == 1 else 0
        return min(healthy_ms, round((now - self._probation_since) * 1000))

    def _container(self, facts: ContainerFacts) -> Container:
        standby = facts.life in self._waiting
        key = _standing_by(facts.life) if standby else facts.life
        state, healthy_ms = self._tracker.of(key)
        return Container(
            id=facts.id,
            generation=facts.generation,
            image=facts.image,
            state=facts.state,
            started_this_boot=facts.started_this_boot,
            up_ms=facts.up_ms,
            health=state,
            healthy_ms=healthy_ms,
            watched_ms=self._tracker.watched_ms(key),
            exit_code=facts.exit_code,
            restart_policy=facts.restart_policy,
            configuration=facts.configuration,
            overlaps=facts.overlaps,
            standby=standby,
        )

    def _engine_restarted(self, record: UpdateRecord) -> bool:
        try:
            return self._marker().read_bytes() == self._job_id(record).encode()
        except OSError:
            return False

    def _marker(self) -> Path:
        return self._run_dir / "engine-restarted"

    @staticmethod
    def _job_id(record: UpdateRecord) -> str:
        return record.job.job_id if record.job is not None else ""


def _standing_by(life: str) -> str:
    """Names a life's time as a standby."""
    return f"{life} standing by"


def _pid(life: str) -> int:
    """Both runtimes name a life by its process first; 0: they do not."""
    word = life.partition(":")[0]
    return int(word) if word.isdecimal() else 0


def _on_probation(record: UpdateRecord) -> bool:
    return record.phase is Phase.IDLE and record.probation_left_ms > 0 and not record.duty


def _health_of(facts: ContainerFacts, record: UpdateRecord) -> Health:
    if record.job is not None and record.job.generation == facts.generation:
        return record.job.health
    for installed in (record.current, record.previous):
        if installed is not None and installed.generation == facts.generation:
            return installed.health
    return Health()
