"""What a client of a link lives through, seen where it happens: a forwarder that stands between it and Toxiproxy.

    client -> meter -> Toxiproxy -> the far end

It changes nothing: bytes go on as they come, an end goes on as an end (the other way stays open), a reset as a reset.
One thing it cannot pass on: that a connection is refused. To see who comes it has to accept, so a client that would
have been refused is accepted and reset at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

from chaos.proxies.toxics import HOST
from chaos.proxies.watch import Connection, Seen, Watch
from reference.core.errors import ServiceError

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER, no time: close() sends a reset

Target = Callable[[], int | None]
"""The port to go on to at this moment; None: whoever comes is refused."""


class _End(asyncio.Protocol):
    """One of the two ends of a connection: the client's (near), or the one to Toxiproxy (far)."""

    def __init__(self, pair: _Pair, *, near: bool) -> None:
        self.pair = pair
        self.near = near
        self.transport: asyncio.Transport | None = None
        self.ended = False
        """Nothing comes from there any more."""
        self._early = bytearray()
        """What came for it before it was there: to pause in connection_made does not hold everywhere (Python 3.11.2)."""
        self._early_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.pair.over:
            transport.abort()
        elif self.near:
            transport.pause_reading()
            self.pair.begin()
        else:
            self._catch_up()

    def _catch_up(self) -> None:
        if self._early:
            self.write(bytes(self._early))
            self._early.clear()
        if self._early_end:
            self.end()

    def data_received(self, data: bytes) -> None:
        self.pair.passed(self, data)

    def eof_received(self) -> bool:
        self.pair.end_of(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.pair.lost(self, exc)

    def pause_writing(self) -> None:
        self.pair.other(self).hold(True)

    def resume_writing(self) -> None:
        self.pair.other(self).hold(False)

    def hold(self, still: bool) -> None:
        """Read no more from there, or again."""
        if self.transport is not None and not self.transport.is_closing():
            if still:
                self.transport.pause_reading()
            elif not self.ended:  # or its end would come again, where Python lets it (3.11.2)
                self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is None:
            self._early += data
        elif not self.transport.is_closing():
            self.transport.write(data)

    def end(self) -> None:
        """Let it know that nothing more comes."""
        if self.transport is None:
            self._early_end = True
        elif not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        """Once everything is written."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """At once; what was not sent is lost."""
        if self.transport is not None and not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


class _Pair:
    """One connection through the meter."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.near = _End(self, near=True)
        self.far = _End(self, near=False)
        self.seen = Connection()
        self.over = False
        self._dialling: asyncio.Task[None] | None = None

    def other(self, end: _End) -> _End:
        return self.far if end.near else self.near

    def begin(self) -> None:
        self.meter.pairs.add(self)
        self.meter.tell(lambda watch: watch.opened(self.seen))
        self._dialling = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        port = self.meter.target()
        try:
            if port is None:
                raise ConnectionRefusedError
            await asyncio.get_running_loop().create_connection(lambda: self.far, HOST, port)
        except OSError:
            self.meter.tell(lambda watch: watch.was_refused())
            self.finish(reset=True)
        else:
            self.near.hold(False)

    def passed(self, end: _End, data: bytes) -> None:
        now, size = self.meter.now(), len(data)
        if end.near:
            self.seen.sent(now)
            self.meter.tell(lambda watch: watch.sent(self.seen, size))
        else:
            wait_s = self.seen.received(now, size)
            self.meter.tell(lambda watch: watch.received(self.seen, size, wait_s))
        self.other(end).write(data)

    def end_of(self, end: _End) -> None:
        if end.ended:
            return
        end.ended = True
        now = self.meter.now()
        if end.near:
            self.seen.client_ended = now
            self.meter.tell(lambda watch: watch.client_ended())
        else:
            self.meter.tell(lambda watch: watch.far_ended(self.seen, now))
        self.other(end).end()
        if self.other(end).ended:
            self.finish(reset=False)

    def lost(self, end: _End, error: Exception | None) -> None:
        if self.over:
            return
        if error is not None and end.near:
            self.meter.tell(lambda watch: watch.client_reset())
        elif error is not None:
            self.meter.tell(lambda watch: watch.far_reset())
        self.finish(reset=error is not None)

    def finish(self, *, reset: bool) -> None:
        """Both ends are gone after this."""
        if self.over:
            return
        self.over = True
        for end in (self.near, self.far):
            end.reset() if reset else end.close()
        self.meter.pairs.discard(self)
        self.meter.tell(lambda watch: watch.over(self.seen))

    async def stop(self) -> None:
        self.finish(reset=True)
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)


class Meter:
    """One listener on loopback, run in this process."""

    def __init__(self, name: str, target: Target) -> None:
        self.name = name
        self.target = target
        self.port = 0
        """What the client is given; known once it was started."""
        self.pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._watches: set[Watch] = set()
        self._life: Watch | None = None

    async def start(self) -> None:
        """Listen. Raises ServiceError."""
        loop = asyncio.get_running_loop()
        self._life = self.watch()
        try:
            self._server = await loop.create_server(lambda: _Pair(self).near, HOST, 0, backlog=512)
        except OSError as error:
            raise ServiceError(f"the meter of {self.name} cannot listen: {error}", where=HOST) from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Reset everything; again is success."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await asyncio.gather(*(pair.stop() for pair in list(self.pairs)))

    def watch(self) -> Watch:
        """Look from now on; `close` it."""
        watch = Watch(self.now, [pair.seen for pair in self.pairs], self._watches.discard)
        self._watches.add(watch)
        return watch

    def snapshot(self) -> Seen:
        """What was seen since it was started."""
        assert self._life is not None, "the meter was not started"
        return self._life.seen()

    @property
    def open(self) -> int:
        """Connections that there are at this moment."""
        return len(self.pairs)

    def cut(self) -> int:
        """Reset every connection there is, both ends of it; how many those were."""
        pairs = list(self.pairs)
        for pair in pairs:
            self.tell(lambda watch: watch.was_cut())
            pair.finish(reset=True)
        return len(pairs)

    def tell(self, say: Callable[[Watch], None]) -> None:
        """Let every watch know."""
        for watch in self._watches:
            say(watch)

    def now(self) -> float:
        """Seconds, of the clock that all times here are of: `time.monotonic`."""
        return asyncio.get_running_loop().time()
