"""The service's database is gone for a while."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from urllib.parse import quote

import httpx

from chaos.faults.base import Family, Fault, FaultError, register
from chaos.postgres import Postgres

ASK_EVERY_S = 0.05
ASK_S = 5.0
LOCK_S = 5.0


@register
class DatabaseDown(Fault):
    """PostgreSQL is killed and started again; SQLite is kept from being written, as another program would."""

    name = "database-down"
    family = Family.PARTS
    about = "PostgreSQL gets SIGKILL, and is started again after `for`; SQLite is locked by another writer for so long."
    shown_by = "the service's /readyz says 503 for its database"
    _task: asyncio.Task[None] | None = None
    _lock: sqlite3.Connection | None = None
    _server: Postgres | None = None
    _what: str = ""
    _noticed_ms: float | None = None

    async def begin(self) -> None:
        """See the port."""
        self._since = time.monotonic()
        if self.ground.stack.database is None:
            await asyncio.to_thread(self._take)
        else:
            await self._kill()
        self._task = asyncio.create_task(self._watch())

    def _take(self) -> None:
        path = next((self.ground.stack.data / "service").glob("*.db"))
        self._lock = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, check_same_thread=False,
            timeout=LOCK_S,
        )  # fmt: skip
        try:
            self._lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise FaultError(f"the database could not be locked: {error}", where=str(path)) from error
        self._what = f"another writer locked {path.name}"

    async def _kill(self) -> None:
        server = self.ground.postgres()
        if not isinstance(server, Postgres) or server.pid is None:
            raise FaultError("the database is not one that this run has started, or it is down already")
        pid, self._server = self.ground.guard.process(server.pid), server
        await asyncio.to_thread(server.kill)
        self._what = f"PostgreSQL (process {pid}) ended by SIGKILL"

    async def _watch(self) -> None:
        """Ask the service until it has noticed."""
        url = f"{self.ground.stack.url}/readyz"
        async with httpx.AsyncClient(timeout=ASK_S, trust_env=False) as client:
            while self._noticed_ms is None:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get(url)
                    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and blames(answer):
                        self._noticed_ms = (time.monotonic() - self._since) * 1000
                        return
                await asyncio.sleep(ASK_EVERY_S)

    async def heal(self) -> None:
        """See the port."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._lock is not None:
            self._lock.close()  # Rolls back.
            self._lock = None
        if self._server is not None:
            await asyncio.to_thread(self._server.start)
            self._server = None

    async def fired(self) -> str:
        """See the port."""
        if self._noticed_ms is None:
            return ""
        return f"{self._what}, and /readyz said 503 for the database after {self._noticed_ms:.0f} ms"


def blames(answer: httpx.Response) -> bool:
    """Whether it is the database that is not well: the broker, too, can make the service say 503."""
    try:
        checks = answer.json()["checks"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(checks, dict) and checks.get("database") not in (None, "ok")
