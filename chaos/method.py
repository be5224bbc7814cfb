"""Plays a method: actions in their turn, faults at their moments, each healed in the end whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import httpx

from chaos.actions import act
from chaos.bench import Bench
from chaos.faults import fault_named
from chaos.faults.base import Fault, checked
from chaos.moments import Reached, arrived
from chaos.plan import Planned, seed_of
from chaos.result import FaultRow
from chaos.scenario.model import FaultUse, Wait
from reference.core.errors import BlackstartError

QUIET_S = 0.5
"""After everything is done, so that the observers see what comes of it."""
LATE_S = 2.0
"""How long after the last job's end something that waits for its moment is still waited for."""
HEAL_S = 60.0
"""The longest that the healing of one fault may take."""
LOOK_S = 0.02


@dataclass(slots=True)
class Coming:
    """One coming of one fault."""

    fault: Fault
    row: FaultRow
    in_force: bool = False


@dataclass(slots=True)
class Player:
    """Plays one scenario's method on a bench that stands."""

    bench: Bench
    items: tuple[Planned, ...]
    ended: Callable[[], bool]
    """Whether every job that was ordered has ended, as the API shows it."""
    rows: list[FaultRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What could not be done: the run is unknown."""
    undone: list[str] = field(default_factory=list)
    """What of the rollbacks could not be done: the run is unknown."""
    _comings: list[Coming] = field(default_factory=list)
    _first: dict[int, Coming] = field(default_factory=dict)
    """The first coming of each fault, by its place in the method."""
    _busy: int = 0
    """Items that have reached their moment, and are not over."""
    _began: float = 0.0
    _tasks: dict[asyncio.Task[None], Planned] = field(default_factory=dict)
    _healing: set[asyncio.Task[None]] = field(default_factory=set)

    async def play(self, time_limit_s: float) -> str:
        """Until all is done and every job has ended, or the time is over; answers `done` or `time-limit`.

        Faults that last until the method's end are still in force then: `heal_all` ends them.
        """
        await self._prepare()
        self._began = self.bench.recorder.now()
        self.bench.recorder.record("run", "method-begins", t=self._began)
        for item in self.items:
            if item.is_fault:
                self.bench.recorder.record("fault", "planned", label=item.label, fault=item.what)
            if item.when is not None and item.what != "wait":
                self._tasks[asyncio.create_task(self._at_its_moment(item))] = item
        why = "done"
        turns = asyncio.create_task(self._turns())
        try:
            async with asyncio.timeout(time_limit_s):
                await turns
                await self._settled()
        except TimeoutError:
            why = "time-limit"
        finally:
            for task in (turns, *self._tasks):
                task.cancel()
            await asyncio.gather(turns, *self._tasks, return_exceptions=True)
        await asyncio.sleep(QUIET_S)
        self.bench.recorder.record("run", "method-ends", why=why, problems=list(self.problems))
        return why

    async def _prepare(self) -> None:
        """Make the first coming of each fault, and ready what of it takes long."""
        for item in self.items:
            thing = self.bench.scenario.method[item.index]
            if isinstance(thing, FaultUse):
                self._first[item.index] = self._coming(item, thing, 1)
                with self._told(item):
                    await self._first[item.index].fault.prepare()

    async def heal_all(self) -> None:
        """End every fault that is in force, the last one first; what is being healed is waited for."""
        await asyncio.gather(*self._healing, return_exceptions=True)
        for coming in reversed(self._comings):
            await self._heal(coming)
        self.bench.recorder.record("run", "healed-all")

    async def prove_all(self) -> None:
        """Ask again those that could not show yet that they had happened; say which were never in force."""
        for coming in self._comings:
            await self._prove(coming)
        for row in self.rows:
            if row.triggered_t is None and not row.failed:
                row.failed = "its moment never came"
            if not row.fired and not row.failed:
                self.bench.recorder.record("fault", "not-fired", row.device, label=row.label, nth=row.nth)

    # ---- in turn, and at a moment

    async def _turns(self) -> None:
        """What has no moment of its own, one after the other; a fault's turn is over when it is in force."""
        for item in self.items:
            if item.what != "wait" and item.when is not None:
                continue
            with self._told(item):
                thing = self.bench.scenario.method[item.index]
                if isinstance(thing, Wait):
                    await self._wait(item)
                elif isinstance(thing, FaultUse):
                    coming = self._first[item.index]
                    await self._begin(coming, Reached(self.bench.recorder.now()))
                    self._tasks[asyncio.create_task(self._go_on(item, thing, coming))] = item
                else:
                    await act(self.bench, thing)

    async def _at_its_moment(self, item: Planned) -> None:
        thing = self.bench.scenario.method[item.index]
        assert item.when is not None
        assert not isinstance(thing, Wait)
        with self._told(item):
            if not isinstance(thing, FaultUse):
                async with arrived(self.bench, item.when, self._began), self._occupied():
                    await act(self.bench, thing)
                return
            async with arrived(self.bench, item.when, self._began) as reached, self._occupied():
                coming = self._first[item.index]
                await self._begin(coming, reached)
            await self._go_on(item, thing, coming)

    async def _wait(self, item: Planned) -> None:
        if item.when is None:
            await asyncio.sleep((item.for_ms or 0) / 1000)
            return
        async with arrived(self.bench, item.when, self._began):
            pass

    async def _settled(self) -> None:
        """Until nothing is left to be done: all that has a time is over, all jobs have ended, and what waits for a moment
        that did not come has been given a while."""
        loop = asyncio.get_running_loop()
        quiet_since: float | None = None
        while True:
            waiting = [item for task, item in self._tasks.items() if not task.done()]
            timed = any(item.when is not None and item.when.time_ms is not None for item in waiting)
            if self._busy or timed or not self.ended():
                quiet_since = None
            elif not waiting:
                return
            elif quiet_since is None:
                quiet_since = loop.time()
            elif loop.time() - quiet_since > LATE_S:
                return
            await asyncio.sleep(LOOK_S)

    # ---- one fault

    def _coming(self, item: Planned, use: FaultUse, nth: int) -> Coming:
        kind = fault_named(use.fault)
        chance = random.Random(seed_of(item.seed, nth))  # noqa: S311 - repeatable, no secret
        row = FaultRow(
            item.label,
            item.what,
            nth,
            f"edge-{use.device}" if use.device else "",
            use.link.value if use.link else "",
        )
        coming = Coming(kind(self.bench, use, checked(kind, use), chance), row)
        self._comings.append(coming)
        self.rows.append(row)
        return coming

    async def _begin(self, coming: Coming, reached: Reached) -> None:
        row, record = coming.row, self.bench.recorder.record
        row.triggered_t = reached.t
        record("fault", "triggered", row.device, label=row.label, fault=row.fault, nth=row.nth, t=reached.t)
        coming.in_force = True
        try:
            await coming.fault.begin()
        except BlackstartError as error:
            row.failed = str(error)
            record("fault", "failed", row.device, label=row.label, nth=row.nth, what=row.failed)
            raise
        row.in_force_t = self.bench.recorder.now()
        row.lag_ms = round((row.in_force_t - reached.t) * 1000, 2)
        record(
            "fault", "in-force", row.device, label=row.label, fault=row.fault, nth=row.nth, lag_ms=row.lag_ms
        )

    async def _go_on(self, item: Planned, use: FaultUse, coming: Coming) -> None:
        """What comes after its first coming: its end, and the comings that are left."""
        with self._told(item):
            for nth in range(1, item.times + 1):
                if nth > 1:
                    async with self._occupied():
                        await asyncio.sleep(item.every_ms[nth - 2] / 1000)
                        await self._heal(coming)
                        coming = self._coming(item, use, nth)
                        await coming.fault.prepare()
                        await self._begin(coming, Reached(self.bench.recorder.now()))
                if item.for_ms is not None:
                    async with self._occupied():
                        await asyncio.sleep(item.for_ms / 1000)
                        await self._heal(coming)
                elif not coming.fault.lasts:
                    coming.in_force = False
                    await self._prove(coming)

    async def _heal(self, coming: Coming) -> None:
        """Ask what it did, and undo it, to its end, also when the method is broken off meanwhile; again is success."""
        healing = asyncio.create_task(self._healed(coming))
        self._healing.add(healing)
        healing.add_done_callback(self._healing.discard)
        await asyncio.shield(healing)

    async def _healed(self, coming: Coming) -> None:
        if not coming.in_force:
            return
        coming.in_force = False
        row, record = coming.row, self.bench.recorder.record
        await self._prove(coming)
        try:
            async with asyncio.timeout(HEAL_S):
                await coming.fault.heal()
        except (BlackstartError, TimeoutError, OSError) as error:
            row.failed = f"could not be healed: {str(error) or 'it took too long'}"
            self.problems.append(f"{row.label}: {row.failed}")
            record("fault", "failed", row.device, label=row.label, nth=row.nth, what=row.failed)
            return
        if coming.fault.lasts:
            row.healed_t = self.bench.recorder.now()
            record("fault", "healed", row.device, label=row.label, fault=row.fault, nth=row.nth)

    async def _prove(self, coming: Coming) -> None:
        row = coming.row
        if row.fired or row.in_force_t is None:
            return
        try:
            row.fired = await coming.fault.fired()
        except (BlackstartError, OSError, httpx.HTTPError) as error:
            self.problems.append(f"{row.label}: cannot be told whether it happened: {error}")
        if row.fired:
            self.bench.recorder.record(
                "fault", "fired", row.device, label=row.label, fault=row.fault, nth=row.nth, how=row.fired
            )

    # ---- bookkeeping

    @contextlib.asynccontextmanager
    async def _occupied(self) -> AsyncIterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    @contextlib.contextmanager
    def _told(self, item: Planned) -> Iterator[None]:
        """What goes wrong makes the run unknown; it does not end it."""
        try:
            yield
        except (BlackstartError, OSError) as error:
            self.problems.append(f"{item.label}: {error}")
        except httpx.HTTPError as error:
            self.problems.append(f"{item.label}: the service did not answer: {error!r}")
