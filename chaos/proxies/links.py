"""The ways of a bench that lead through Toxiproxy: for each a meter, and behind it a proxy that can be hurt.

Toxiproxy closes both ways of a connection when one ends: a client that half-closes, and then waits for its answer, gets
none through it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from chaos.proxies.fetch import toxiproxy_binary
from chaos.proxies.meter import Meter
from chaos.proxies.toxics import Stream, Toxic
from chaos.proxies.toxiproxy import ToxiproxyServer
from chaos.proxies.watch import Seen, Watch
from reference.core.errors import ServiceError


class Passage:
    """One way of one link."""

    def __init__(self, name: str, server: ToxiproxyServer) -> None:
        self.name = name
        self.meter = Meter(name, lambda: server.port_of(name))
        self._server = server
        self._numbers = itertools.count(1)
        self._toxics: dict[str, Toxic] = {}
        self._holding_down: set[str] = set()

    @property
    def port(self) -> int:
        """What the client is given."""
        return self.meter.port

    async def add(
        self, kind: str, stream: Stream = "downstream", toxicity: float = 1.0, **attributes: int
    ) -> str:
        """Put a toxic on it, with attributes in Toxiproxy's own units; its name. Raises ToxicsError.

        `reset_peer` works on connections that are opened from now on; `cut` ends the others.
        """
        toxic = Toxic(f"{kind}-{stream}-{next(self._numbers)}", kind, stream, toxicity, attributes)
        try:
            await self._server.add(self.name, toxic)
        except asyncio.CancelledError:
            # Nobody will know its name: it must not stay.
            await asyncio.shield(self._server.remove(self.name, toxic.name))
            raise
        self._toxics[toxic.name] = toxic
        return toxic.name

    async def update(self, toxic: str, **attributes: int) -> None:
        """Give a toxic other attributes; those that are not named stay. Raises ToxicsError."""
        if (found := self._toxics.get(toxic)) is None:
            raise ServiceError(f"there is no toxic {toxic!r} on {self.name}")
        changed = Toxic(
            found.name, found.kind, found.stream, found.toxicity, {**found.attributes, **attributes}
        )
        await self._server.update(self.name, changed)
        self._toxics[toxic] = changed

    async def remove(self, toxic: str) -> None:
        """Take it away; again is success. That of `timeout` ends the connections on which it was."""
        self._toxics.pop(toxic, None)
        await self._server.remove(self.name, toxic)

    async def down(self, by: str = "") -> None:
        """Cut every connection, and take no new one, until everyone who has said so (`by`) has said `up`."""
        self._holding_down.add(by)
        await self._server.down(self.name)

    async def up(self, by: str = "") -> None:
        """Open again, when nobody else wants it down; again is success."""
        self._holding_down.discard(by)
        if not self._holding_down:
            await self._server.up(self.name)

    def cut(self) -> int:
        """Reset every connection that is open, both ends of it; how many those were."""
        return self.meter.cut()

    def watch(self) -> Watch:
        """Look from now on at what the client lives through."""
        return self.meter.watch()

    def seen(self) -> Seen:
        """What its clients have lived through since it was opened."""
        return self.meter.snapshot()


class ToxicLinks:
    """A Toxiproxy of its own, and the ways through it. Everything of it ends with `stop`."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: of the run, where the server's log goes; without one nothing is left of it."""
        self.folder = folder
        self._own: TemporaryDirectory[str] | None = None
        self.server: ToxiproxyServer | None = None
        self.passages: dict[str, Passage] = {}

    async def start(self, say: Callable[[str], None]) -> None:
        """Get Toxiproxy, which takes a while the first time on a machine (`say`), and start it.

        Raises BuildError and ToxicsError.
        """
        program = await toxiproxy_binary(say)
        folder = self.folder
        if folder is None:
            self._own = TemporaryDirectory(prefix="toxiproxy-")
            folder = Path(self._own.name)
        self.server = ToxiproxyServer(program, folder / "toxiproxy.log")
        await self.server.start()

    async def passage(self, name: str, upstream_port: int) -> Passage:
        """A new way to a port of this machine. Raises ToxicsError, also for a name that is there."""
        if self.server is None:
            raise ServiceError("Toxiproxy was not started", where=name)
        await self.server.create(name, upstream_port)
        passage = Passage(name, self.server)
        await passage.meter.start()
        self.passages[name] = passage
        return passage

    async def stop(self) -> None:
        """Again is success."""
        await asyncio.gather(*(passage.meter.stop() for passage in self.passages.values()))
        self.passages.clear()
        server, self.server = self.server, None
        if server is not None:
            await server.stop()
        if self._own is not None:
            self._own.cleanup()
            self._own = None
