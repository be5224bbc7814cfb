"""The front itself: one listener on loopback, in this process, between the devices and a registry.

What is not to fail passes through unchanged. Each connection carries one request; the Host stays as the client said
it, so that what the registry says of itself leads back here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable

from chaos.proxies.registry.acts import Answered
from chaos.proxies.registry.exchange import Exchange
from chaos.proxies.registry.heads import MAX_HEAD_BYTES, MessageError
from chaos.proxies.registry.pulls import Gate, Pulls
from chaos.proxies.registry.rules import Asked, Handle, Request, Rule
from reference.pki.authority import CertificateFiles
from reference.stack.folder import HOST

log = logging.getLogger("blackstart.chaos")

Listener = Callable[[Request], None]
_TLS_BEGINS = b"\x16"
_NO_TLS = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class RegistryFront:
    """Start it, let devices pull through `host`, and add rules that make it fail."""

    def __init__(self, *, seed: int = 0) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._server: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._usual: CertificateFiles | None = None
        self._upstream = ("", 0)
        self._handles: list[Handle] = []
        self._listeners: list[Listener] = []
        self._manifest_gates: list[Gate] = []
        self._running: set[asyncio.Task[None]] = set()
        self.pulls = Pulls()
        self.handshakes_broken: list[str] = []
        """Of TLS: why each that failed did, in the words of OpenSSL."""
        self.port = 0

    # ---- as a part of a bench

    async def start(self, upstream: str, *, tls: CertificateFiles | None = None) -> None:
        """Listen, and pass on to `upstream` (`host:port`, plain HTTP); with `tls` clients have to speak TLS."""
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._usual, self._tls = tls, None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # A session that goes on would not look at the certificate again.
            self._tls.options |= ssl.OP_NO_TICKET
            self._tls.num_tickets = 0
            self.present(tls)
        self._server = await asyncio.start_server(self._serve, HOST, 0, limit=MAX_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def host(self) -> str:
        """`host:port`, as in a reference."""
        return f"{HOST}:{self.port}"

    @property
    def upstream(self) -> str:
        """`host:port` of the registry behind it."""
        return f"{self._upstream[0]}:{self._upstream[1]}"

    async def stop(self) -> None:
        """Close everything, also what stands still; again is nothing."""
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for gate in self._manifest_gates:
            gate.release()
        self.pulls.release_all()
        for handle in list(self._handles):
            self.remove(handle)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called for each request as it ends; answers what ends that."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    # ---- standing still

    async def hold_at(self, fraction: float, repository: str | None = None) -> Gate:
        """A gate in the pull of that repository, or of any: layers stand still once that part of them has passed."""
        return self.pulls.hold(fraction, repository)

    async def hold_manifest(self, repository: str | None = None) -> Gate:
        """A gate before it: the next request for a manifest stands still, and is not passed on until then."""
        self._manifest_gates.append(gate := Gate(0.0, repository))
        return gate

    # ---- failing

    def add(self, rule: Rule) -> Handle:
        """Put a rule in force, for requests that come from now on."""
        self._handles.append(handle := Handle(rule, rule.chance or self._chance))
        return handle

    def remove(self, handle: Handle) -> None:
        """End a rule: what stands still because of it goes on. Again is nothing; the handle keeps its numbers."""
        handle.ended.set()
        if handle in self._handles:
            self._handles.remove(handle)

    @property
    def certificate(self) -> CertificateFiles | None:
        """The one that it was started with; None: it does not speak TLS."""
        return self._usual

    def present(self, files: CertificateFiles) -> None:
        """Show this certificate on connections that come from now on. It has to speak TLS already."""
        assert self._tls is not None, "started without TLS"
        self._tls.load_cert_chain(files.cert, files.key)

    # ---- for an exchange

    def instead(self, asked: Asked) -> Handle | None:
        """The rule that answers this request, if one does."""
        mine = (h for h in self._handles if isinstance(h.rule.act, Answered))
        return next((handle for handle in mine if handle.takes(asked)), None)

    def on_the_way(self, asked: Asked) -> list[Handle]:
        """The rules that do something to the answer to this request."""
        return [h for h in self._handles if not isinstance(h.rule.act, Answered) and h.takes(asked)]

    async def stand(self, asked: Asked) -> None:
        """Let a request for a manifest wait while a gate is closed."""
        self._manifest_gates = [gate for gate in self._manifest_gates if not gate.released]
        if asked.kind != "manifest" or asked.method not in ("GET", "HEAD"):
            return
        for gate in self._manifest_gates:
            if gate.repository in (None, asked.repository):
                await gate.stand(0, 0)

    def tell(self, request: Request) -> None:
        """A request has ended."""
        for listener in tuple(self._listeners):
            listener(request)

    # ---- connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            if await self._secured(writer):
                async with _closing(writer):
                    await self._connected(reader, writer)
        except asyncio.CancelledError:
            pass  # The front stops.
        except (OSError, MessageError) as error:
            log.debug("a connection to the registry's front has ended: %s", error)
        finally:
            self._running.discard(task)

    async def _secured(self, writer: asyncio.StreamWriter) -> bool:
        """Whether it goes on: with TLS, where the client has taken the certificate."""
        if self._tls is None:
            return True
        raw = writer.transport
        try:
            await writer.start_tls(self._tls)
        except OSError as error:  # That of TLS is one, too.
            self.handshakes_broken.append(getattr(error, "reason", None) or "the client hung up")
            return False
        finally:
            if writer.transport is raw:
                raw.abort()  # Nobody hears of its end any more: there is nothing to wait for.
        return True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = await reader.read(1)
        if begun == _TLS_BEGINS:  # An engine tries TLS before it tries without.
            writer.write(_NO_TLS)
            await writer.drain()
        elif begun:
            await Exchange(self, reader, writer, self._upstream, secure=self._tls is not None).run(begun)


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close it, whatever happens: what was written still goes out, unless the front stops."""
    try:
        yield
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
