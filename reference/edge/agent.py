"""The one loop of the edge updater: observe, decide, journal, act.

    while running:
        world = look()
        step = decide(record, world, now)
        journal it | begin, continue or replace the activity | wait

Messages change the memory between two turns (`change`); the next turn sees the new record. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from reference.core.adopt import outdated
from reference.core.delivery import Memory, advance
from reference.core.errors import BlackstartError, EngineError, JournalError, Reason
from reference.core.limits import Limits
from reference.core.model import Image, Installed, Phase
from reference.core.record import HOLDS
from reference.core.steps import Act, Journal, RestartEngine, Stop, Wait
from reference.core.update import UpdateRecord, decide
from reference.edge.executor import execute
from reference.edge.journal import Journal as JournalFile
from reference.edge.observe import Eyes
from reference.edge.runtimes.base import PullProgress, Runtime
from reference.edge.settings import EdgeSettings

log = logging.getLogger("reference.edge")

JOURNAL_RETRY_S = 1.0
REPLACED_MOST = 3
"""Times in one boot that a journal is given up because the service knows a newer one."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Onlooker(Protocol):
    """Is told what happens; can change nothing, and must not fail."""

    def changed(self, before: Memory, after: Memory) -> None:
        """The journal holds something else now."""

    def failed(self, error: BlackstartError) -> None:
        """An act, or a write of the journal, has failed."""


class Agent:
    """Drives `decide` for one client. `memory` is always what the journal holds."""

    def __init__(
        self,
        settings: EdgeSettings,
        runtime: Runtime,
        journal: JournalFile,
        eyes: Eyes,
        limits: Limits,
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._journal = journal
        self._eyes = eyes
        self.limits = limits
        self._wall_ms = wall_ms
        self._wake = asyncio.Event()
        self._told = asyncio.Event()
        self._activity: tuple[Act, asyncio.Task[None]] | None = None
        self._lost: JournalError | None = None
        self._believe_at_first = True
        self._settled: tuple[Installed | None, Installed | None] | None = None
        self.progress = PullProgress(0, None)
        self.onlookers: list[Onlooker] = []

    @property
    def memory(self) -> Memory:
        """What the journal holds."""
        return self._journal.memory

    @property
    def has_looked(self) -> bool:
        """Whether the engine has been observed since this process began."""
        return self._eyes.has_looked

    @property
    def running(self) -> Image | None:
        """The image of the container that runs, as last seen."""
        return self._eyes.running

    @property
    def hold(self) -> bool:
        """Whether an operator holds the device, as last seen."""
        return self._eyes.hold

    def now_ms(self) -> int | None:
        """Wall time in ms since 1970, None when this device's clock is not to be trusted."""
        return self._wall_ms() if self._settings.clock_trusted else None

    def change(self, memory: Memory) -> None:
        """Make a changed memory durable and have the loop look at it. Raises JournalError, and nothing changed.

        A write that failed and is found on the disk all the same has worked: what it counts is not to be counted again.
        """
        if memory == self._journal.memory:
            return
        before = self._journal.memory
        try:
            self._journal.write(memory)
        except JournalError as error:
            self._tell_failed(error)
            self._reload()
            if self._journal.memory != memory:
                raise
        for onlooker in self.onlookers:
            onlooker.changed(before, memory)
        if memory.outbox != before.outbox:
            self._told.set()
        self._wake.set()

    def replaced(self) -> None:
        """The service knows a newer journal of this device: make another one, unless something was switched.

        Only so often in one boot: two devices with one identity would replace each other for ever.
        """
        if self.memory.record.phase not in HOLDS:
            return
        marker = self._settings.run_dir / "journal-replaced"
        try:
            times = len(marker.read_bytes()) if marker.exists() else 0
            if times >= REPLACED_MOST:
                log.critical("this journal was replaced again: does another device have this identity?")
                return
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_bytes(b"x" * (times + 1))
        except OSError as error:
            log.error("cannot remember that the journal was replaced", extra={"detail": str(error)})
            return
        todo = "It may have been lost and come back, or this is an old disk."
        self.give_up(JournalError("was replaced by a newer one of this device", todo=todo))

    def give_up(self, why: JournalError) -> None:
        """End `run` with this error: the journal is to be set aside, and another one made from what runs."""
        self._lost = why
        self._wake.set()

    def _reload(self) -> None:
        try:
            self._journal.reload()
        except JournalError as error:
            if error.reason is Reason.JOURNAL_CORRUPT:
                self.give_up(error)  # Nothing that is remembered can be believed: the loop ends with it.
            raise

    def _tell_failed(self, error: BlackstartError) -> None:
        for onlooker in self.onlookers:
            onlooker.failed(error)

    async def outbox_changed(self, timeout_s: float) -> None:
        """Return when there is something new to tell the service, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._told.wait()
        self._told.clear()

    async def run(self) -> None:
        """Go on for ever; a cancel ends it and leaves the client as it is.

        Raises JournalError(JOURNAL_CORRUPT) when the journal can neither be written nor read any more, and when it does
        not know what was done here: it is to be set aside then.
        """
        try:
            while True:
                await self._turn()
        finally:
            await self._drop_activity()

    async def take_record(self, record: UpdateRecord) -> None:
        """Journal a new record: what depends on it comes after this."""
        before = self.memory.record
        self.change(advance(self.memory, record))
        self._eyes.journaled(before, record)
        extra = {
            "phase": record.phase,
            "outcome": record.outcome,
            "reason": record.reason,
            "detail": record.message,
        }
        correlation = record.job.correlation_id if record.job else None
        job_id = record.job.job_id if record.job else None
        log.info("journaled", extra={"job": job_id, "correlation": correlation, **extra})

    async def _turn(self) -> None:
        self._wake.clear()
        if self._lost is not None:
            raise self._lost
        if self._activity is not None and isinstance(self._activity[0], RestartEngine):
            # What restarts cannot be looked at; and by its marker, which is written first, it would be dropped half-way.
            await self._act(self._activity[0])
            return
        world = await self._eyes.look(self.memory.record)
        if self._believe_at_first and self._eyes.has_looked:
            self._believe_at_first = False
            if outdated(self.memory.record, world):
                todo = "It may have lost its end, or been restored from a copy."
                raise JournalError("is older than what is here", where=str(self._journal.path), todo=todo)
        if (pause_ms := self._eyes.pause_ms(self.limits)) > 0:
            # Each look that fails counts as a failure of the job: they must not be used up in a moment.
            await self._wait(pause_ms / 1000, None)
        record = self.memory.record  # A message may have changed it meanwhile; the world is as good for it.
        step = decide(record, world, self.now_ms(), self.limits)
        if self._activity is not None and self._activity[0] != step:
            await self._drop_activity()
            return
        match step:
            case Journal(new):
                try:
                    await self.take_record(new)
                except JournalError as error:
                    log.error(
                        "the journal could not be written",
                        extra={"reason": error.reason, "detail": str(error)},
                    )
                    if self._lost is None:
                        await asyncio.sleep(JOURNAL_RETRY_S)
            case Wait(for_ms):
                await self._tell_settled(record)
                await self._wait(for_ms / 1000, None)
            case _:
                await self._act(step)

    async def _tell_settled(self, record: UpdateRecord) -> None:
        """Let the runtime know what is installed, once at rest: names for people, which nothing hangs on."""
        installed = record.current, record.previous
        if record.phase is not Phase.IDLE or installed == self._settled:
            return
        self._settled = installed
        try:
            await self._runtime.settled(*installed)
        except BlackstartError as error:
            log.info("what is installed could not be named", extra={"detail": str(error)})

    async def _act(self, act: Act) -> None:
        if self._activity is None:
            log.info("act", extra={"step": repr(act)})
            self._activity = (act, asyncio.create_task(self._do(act)))
        task = self._activity[1]
        await self._wait(self.limits.watch_ms / 1000, task)
        if not task.done():
            return
        self._activity = None
        if task.cancelled():  # by whatever it waited for, not by us: as good as never tried
            self._eyes.dropped(act)
            return
        error = task.exception()
        if error is None:
            self._eyes.acted(act)
            return
        if not isinstance(error, BlackstartError):
            log.error("an act failed without a name", exc_info=error)
            error = EngineError(f"{type(error).__name__}: {error}")
        log.warning("act failed", extra={"step": repr(act), "reason": error.reason, "detail": str(error)})
        self._tell_failed(error)
        self._eyes.failed(error, act)

    async def _do(self, act: Act) -> None:
        if isinstance(act, Stop):
            self._eyes.stopping(act)
        if isinstance(act, RestartEngine):
            self._eyes.mark_engine_restart(self.memory.record)
        await execute(act, self._runtime, self._settings.client, self._eyes.view, self._note_progress)

    def _note_progress(self, progress: PullProgress) -> None:
        self.progress = progress

    async def _wait(self, timeout_s: float, task: asyncio.Task[None] | None) -> None:
        wake = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait(
                {wake, *([task] if task else [])}, timeout=timeout_s, return_when="FIRST_COMPLETED"
            )
        finally:
            wake.cancel()

    async def _drop_activity(self) -> None:
        if self._activity is None:
            return
        act, task = self._activity
        self._activity = None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and task.exception() is None:
            # It ended while we looked, and what it did was seen: a start that worked must be counted.
            self._eyes.acted(act)
            return
        self._eyes.dropped(act)
        log.info("dropped", extra={"step": repr(act)})
