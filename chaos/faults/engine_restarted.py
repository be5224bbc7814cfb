"""The Docker Engine under the client ends, and starts again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable

from chaos.faults._parts import docker_box
from chaos.faults.base import Family, Fault, FaultError, Need, Params, register
from reference.engine import PrivateEngine
from reference.engine.leftovers import started
from reference.support.files import write_durably

RELOAD_S = 5.0


class EngineParams(Params):
    """How it ends."""

    kill: bool = False
    """SIGKILL for dockerd and containerd, in place of an orderly end."""
    live_restore: bool = True
    """Whether containers go on while it is away; without it they end with it, unless it is killed."""


@register
class EngineRestarted(Fault):
    """dockerd ends, and is started again when it is healed; at once without `for`."""

    name = "engine-restarted"
    family = Family.PARTS
    about = "dockerd ends, its containers with it or not, and starts again after `for`; at once without it."
    shown_by = "another dockerd answers, or none does; and whether the client's processes are the same"
    params = EngineParams
    needs = (Need.DOCKER,)
    given: EngineParams
    _coming: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """See the port. Raises FaultError on a bench without an engine, ServiceError on an engine that is not ours."""
        self._down: list[_Down] = []
        boxes = {d.client_id: docker_box(self, d) for d in self.ground.chosen(self.use.device)}
        engines = {str(box.own().places.folder): box.own() for box in boxes.values()}
        for engine in engines.values():
            self.ground.guard.path(engine.places.folder)
            mine = [pid for box in boxes.values() if box.own() is engine for pid in box.processes()]
            down = _Down(engine, mine, self.given.live_restore)
            self._down.append(down)
            await asyncio.to_thread(down.end, kill=self.given.kill)
        if self.use.for_ is None:  # It is in force already: its end is not waited for here.
            self._coming = asyncio.create_task(self._bring_back())

    async def heal(self) -> None:
        """See the port."""
        await (self._coming if self._coming is not None else self._bring_back())

    async def _bring_back(self) -> None:
        for down in getattr(self, "_down", []):
            await asyncio.to_thread(down.back)

    async def fired(self) -> str:
        """See the port."""
        said = [down.shown() for down in self._down]
        return "; ".join(said) if all(said) else ""


class _Down:
    """One engine that is away."""

    def __init__(self, engine: PrivateEngine, client: list[int], live_restore: bool) -> None:
        self._engine = engine
        self._client = {pid: started(pid) for pid in client}
        self._live_restore = live_restore
        self._before: bool | None = None
        self._pid: int | None = None
        self._new: int | None = None
        self._went_on = 0
        self._since = 0.0
        self._away_ms: float | None = None

    def end(self, *, kill: bool) -> None:
        if (pid := self._engine.pid) is None:
            return
        self._before = _live_restore(self._engine)
        _let_restore(self._engine, self._live_restore)
        self._since = time.monotonic()
        if kill:
            self._engine.kill()
        else:
            self._engine.halt()
        self._pid = pid
        self._count()

    def back(self) -> None:
        if self._before is None:
            return
        self._engine.resume()
        self._new = self._engine.pid
        self._count()
        self._away_ms = (time.monotonic() - self._since) * 1000
        _let_restore(self._engine, self._before)
        self._before = None

    def _count(self) -> None:
        self._went_on = sum(started(one) == began for one, began in self._client.items())

    def shown(self) -> str:
        if self._pid is None or self._new == self._pid:
            return ""
        again = (
            f"process {self._new} answers after {self._away_ms:.0f} ms" if self._new else "none answers yet"
        )
        went_on = f"{self._went_on} of {len(self._client)} processes of the client went on"
        return f"dockerd (process {self._pid}) ended, {again}; {went_on}"


def _live_restore(engine: PrivateEngine) -> bool:
    return bool(json.loads(engine.places.config.read_bytes()).get("live-restore"))


def _let_restore(engine: PrivateEngine, wanted: bool) -> None:
    """dockerd reads this one again at SIGHUP. Raises FaultError when it does not."""
    if _live_restore(engine) is wanted:
        return
    found = json.loads(engine.places.config.read_bytes())
    write_durably(engine.places.config, json.dumps({**found, "live-restore": wanted}, indent=1).encode())
    if (pid := engine.pid) is not None:
        os.kill(pid, signal.SIGHUP)
    _until(lambda: engine.pid is None or _told(engine) is wanted, engine)


def _told(engine: PrivateEngine) -> bool:
    client = engine.client()
    try:
        return bool(client.info()["LiveRestoreEnabled"])
    finally:
        client.close()


def _until(done: Callable[[], bool], engine: PrivateEngine) -> None:
    end = time.monotonic() + RELOAD_S
    while not done():
        if time.monotonic() > end:
            raise FaultError("dockerd did not take live-restore over", where=str(engine.places.log))
        time.sleep(0.02)
