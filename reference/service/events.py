"""Those who wait for events: woken when something happened, over Server-Sent Events or one request at a time.

Each reader reads from the database behind the number that it has seen, so none has a queue that could overflow, and
one that comes back goes on where it was. What is done in another process on the same database is seen as well.
Source of the format: WHATWG HTML, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable

from sqlalchemy import Connection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reference.core.errors import BlackstartError, Reason, ServiceError
from reference.core.limits import ServiceLimits
from reference.service import eventlog, idempotency
from reference.service.auth import Authenticator
from reference.service.eventlog import Event
from reference.service.problems import problem
from reference.service.store import Store

log = logging.getLogger(__name__)
MEDIA_TYPE = "text/event-stream"
LOOK_S = 0.1
"""How often the database is asked while somebody waits."""
SWEEP_S = 60.0
RETRY_MS = 2_000
"""How long a reader waits before it comes back."""
PAGE = 200


class TooManyStreamsError(ServiceError):
    """The tenant's readers are as many as may wait at once."""

    default = Reason.TOO_MANY_STREAMS


class Hub:
    """`start` it, `read` and `wait` for events within `reading`, `stop` it. It also removes what has expired."""

    def __init__(
        self, store: Store, limits: ServiceLimits, now_ms: Callable[[], int], *, beat_s: float = 10.0
    ) -> None:
        self.limits = limits
        self.beat_s = beat_s
        """A quiet stream says that it is there this often, and looks whether its token still is good."""
        self._store = store
        self._now_ms = now_ms
        self._waiting: dict[str, dict[asyncio.Event, int]] = {}
        self._readers: dict[str, int] = {}
        self._busy = asyncio.Event()
        self._numbering = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look."""
        self._tasks = [
            asyncio.create_task(self._look(), name="events"),
            asyncio.create_task(self._sweep(), name="sweep"),
        ]

    async def stop(self) -> None:
        """Stop at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def reading(self, tenant: str) -> AsyncIterator[None]:
        """A place among the tenant's readers. Raises TooManyStreamsError."""
        taken = self._readers.get(tenant, 0)
        if taken >= self.limits.streams:
            raise TooManyStreamsError(
                f"{taken} readers wait for events already", todo="Close some of them, then try again."
            )
        self._readers[tenant] = taken + 1
        try:
            yield
        finally:
            self._readers[tenant] -= 1
            if not self._readers[tenant]:
                del self._readers[tenant]

    async def last(self, tenant: str) -> int:
        """The highest number there is. Raises ServiceError."""
        await self._number()
        return (await self._store.read(lambda c: eventlog.find_head(c, tenant))).last

    async def read(self, tenant: str, after: int, limit: int = PAGE) -> list[Event]:
        """What has happened since, without waiting. Raises ServiceError."""
        await self._number()
        return await self._store.read(lambda c: eventlog.list_after(c, tenant, after, limit))

    async def wait(self, tenant: str, after: int, seconds: float) -> bool:
        """Whether there is something to read, as soon as there is, or when the time is over."""
        news = asyncio.Event()
        self._waiting.setdefault(tenant, {})[news] = after
        self._busy.set()
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            return False
        finally:
            others = self._waiting[tenant]
            del others[news]
            if not others:
                del self._waiting[tenant]
        return True

    async def sweep(self) -> None:
        """Forget old events and expired keys. Raises ServiceError."""
        await self._number()
        now_ms, limits = self._now_ms(), self.limits
        await self._store.write(lambda c: eventlog.forget(c, limits.events_kept, now_ms - limits.events_ms))
        while await self._store.write(lambda c: idempotency.sweep(c, now_ms)) == idempotency.SWEPT:
            pass

    async def _number(self) -> None:
        if not await self._store.read(eventlog.any_unnumbered):
            return
        async with self._numbering:
            while await self._store.write(eventlog.number) == eventlog.BATCH:
                pass

    async def _look(self) -> None:
        while True:
            if not self._waiting:
                self._busy.clear()
                await self._busy.wait()
            try:
                await self._number()
                tenants = list(self._waiting)

                def lasts(connection: Connection, tenants: list[str] = tenants) -> dict[str, int]:
                    return eventlog.find_lasts(connection, tenants)

                self._wake(await self._store.read(lasts))
            except ServiceError as error:
                log.debug("events are held up", extra={"why": str(error)})
            except Exception:
                log.critical("a defect in the events", exc_info=True)
            await asyncio.sleep(LOOK_S)

    def _wake(self, lasts: dict[str, int]) -> None:
        for tenant, last in lasts.items():
            for news, after in self._waiting.get(tenant, {}).items():
                if last > after:
                    news.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except ServiceError as error:
                log.debug("nothing is swept", extra={"why": str(error)})
            except Exception:
                log.critical("a defect in the sweeping", exc_info=True)


class EventStream(Response):
    """Events until the reader goes, its token expires, or it takes nothing for too long."""

    media_type = MEDIA_TYPE

    def __init__(
        self, hub: Hub, authenticator: Authenticator, authorization: str | None, tenant: str, after: int
    ) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub = hub
        self._authenticator = authenticator
        self._authorization = authorization
        self._tenant = tenant
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            async with self._hub.reading(self._tenant):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                talking = asyncio.create_task(self._talk(send))
                leaving = asyncio.create_task(_left(receive))
                try:
                    await asyncio.wait({talking, leaving}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (talking, leaving):
                        task.cancel()
                    await asyncio.gather(talking, leaving, return_exceptions=True)
        except TooManyStreamsError as error:
            refusal = problem(429, error.reason, str(error), scope["path"])
            await refusal(scope, receive, send)

    async def _talk(self, send: Send) -> None:
        why = "the token is no longer good"
        try:
            await self._tell(send)
        except TimeoutError:
            log.warning("a reader of events takes nothing and is dropped", extra={"tenant": self._tenant})
            return
        except BlackstartError as error:
            why = error.what if error.reason is not Reason.UNAUTHENTICATED else why
        # The reader comes back by itself, with the number of what it has seen.
        with contextlib.suppress(TimeoutError):
            await self._send(send, f": {_line(why)}\n\n", more=False)

    async def _tell(self, send: Send) -> None:
        await self._send(send, f"retry: {RETRY_MS}\n\n")
        loop = asyncio.get_running_loop()
        checked_s = loop.time()
        while True:
            found = await self._hub.read(self._tenant, self._after)
            if found:
                await self._send(send, "".join(frame(event) for event in found))
                self._after = found[-1].id
            quiet = not found and not await self._hub.wait(self._tenant, self._after, self._hub.beat_s)
            if quiet or loop.time() - checked_s >= self._hub.beat_s:
                await self._authenticator.authenticate(self._authorization)
                checked_s = loop.time()
            if quiet:
                await self._send(send, ": still here\n\n")

    async def _send(self, send: Send, text: str, *, more: bool = True) -> None:
        async with asyncio.timeout(self._hub.limits.stream_stall_ms / 1000):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def frame(event: Event) -> str:
    """An event as it goes over the wire: its data never holds a line break, as it is compact JSON."""
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.data}\n\n"


def event_number(text: str | None) -> int | None:
    """A reader's `Last-Event-ID`. None for one that says nothing or is none of ours."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        return None
    return int(text)


def _line(text: str) -> str:
    return json.dumps(text)[1:-1]
