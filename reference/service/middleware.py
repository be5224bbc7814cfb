"""Around every request: bounds on its size and its time, an id to follow it by, a count, and an answer even where
there is a defect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reference.core.errors import Reason
from reference.service import correlation
from reference.service.metrics import Metrics
from reference.service.problems import problem
from reference.support.logging import correlated

MAX_BODY_BYTES = 64 * 1024
MAX_URL_BYTES = 8 * 1024
MAX_HEADER_BYTES = 16 * 1024
"""All of them together, names and values."""
MAX_HEADERS = 100
BODY_S = 10.0
"""How long a body may take to arrive."""
DRAIN_BYTES = 256 * 1024 * 1024
"""How much of a body that is too large is taken in and thrown away, so that its sender gets to read the answer: a
connection closed over unread bytes is reset (RFC 9112, section 9.6)."""
DRAIN_S = 5.0
"""How long that may take."""
_COUNTED = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_WATCHED = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines: logged for those who look closely only."""
log = logging.getLogger(__name__)


class Edge:
    """The outermost layer of the application. `routes`: what OPTIONS and the Allow header are told from."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Sequence[BaseRoute] = ()) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; the lifespan passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with correlated(correlation.of_headers(scope["headers"])):
            await self._one(scope, receive, send)

    async def _one(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, answer = time.perf_counter(), _Answer(scope, send, self._routes)
        # HEAD is GET without the body of the answer (RFC 9110, section 9.3.2).
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            if not await self._refused(scope, receive, answer):
                body = await _body_of(scope, receive, answer)
                if body is not None:
                    await self._app(inner, answer.receiving(_replay(body, receive)), answer.send)
        except Exception:
            log.exception(
                "a defect in a request", extra={"method": scope["method"], "path": scope["path"][:200]}
            )
            if answer.status == 0:
                detail = "The service has a defect here; its log says more."
                await problem(500, Reason.UNAVAILABLE, detail, scope["path"])(scope, receive, answer.send)
        finally:
            self._count(scope, inner, answer.status, time.perf_counter() - began)

    def _count(self, scope: Scope, inner: Scope, status: int, seconds: float) -> None:
        # The template of the route, not the path: one series for all clients.
        route = getattr(inner.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _COUNTED else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        log.log(
            logging.DEBUG if route in _WATCHED else logging.INFO,
            "request",
            extra={
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 1),
            },
        )

    async def _refused(self, scope: Scope, receive: Receive, answer: _Answer) -> bool:
        """Whether the request was answered here: one that is too large to look at, or OPTIONS."""
        response: Response | None = None
        headers = scope["headers"]
        path = scope.get("raw_path") or scope["path"].encode(errors="replace")
        if len(path) + len(scope["query_string"]) > MAX_URL_BYTES:
            detail = f"The address is longer than {MAX_URL_BYTES} bytes."
            response = _closing(414, detail, scope["path"][:200])
        elif (
            len(headers) > MAX_HEADERS
            or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES
        ):
            detail = (
                f"The headers are more than {MAX_HEADERS}, or longer than {MAX_HEADER_BYTES} bytes together."
            )
            response = _closing(431, detail, scope["path"][:200])
        elif {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
            # Where such a request ends is a matter of opinion: another one could hide in it from a gateway (RFC 9112,
            # section 6.1).
            detail = "Content-Length and Transfer-Encoding exclude each other."
            response = _closing(400, detail, scope["path"][:200])
        elif scope["method"] == "OPTIONS" and (allowed := allowed_methods(self._routes, scope)):
            response = Response(status_code=204, headers={"Allow": ", ".join(allowed)})
        if response is None:
            return False
        await response(scope, receive, answer.send)
        return True


class _Answer:
    """What goes back: the status noted, the headers that every answer has, and no body for HEAD."""

    def __init__(self, scope: Scope, send: Send, routes: Sequence[BaseRoute]) -> None:
        self.status = 0
        self._scope = scope
        self._send = send
        self._routes = routes
        self._head = scope["method"] == "HEAD"
        self._ended = asyncio.Event() if self._head else None

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._headers(list(message.get("headers", ())))}
        elif self._ended is not None and message["type"] == "http.response.body":
            if self._ended.is_set():
                return
            self._ended.set()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def receiving(self, receive: Receive) -> Receive:
        """For HEAD: a stream of events would never end, so it hears that its reader is gone."""
        ended = self._ended
        if ended is None:
            return receive
        given = False

        async def once() -> Message:
            nonlocal given
            if not given:
                given = True
                return await receive()
            await ended.wait()
            return {"type": "http.disconnect"}

        return once

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if self.status == 405 and (allowed := allowed_methods(self._routes, self._scope)):
            # The framework names the methods of one route only, where a path may have several.
            headers = [pair for pair in headers if pair[0].lower() != b"allow"]
            headers.append((b"allow", ", ".join(allowed).encode()))
        present = {name.lower() for name, _ in headers}
        for name, value in (
            (correlation.HEADER.lower(), correlation.current() or ""),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
        ):
            if name.encode() not in present:
                headers.append((name.encode(), value.encode()))
        return headers


def allowed_methods(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """What may be done with a path, in order; nothing when there is no such path."""
    found: set[str] = set()
    for route in routes:
        if route.matches(scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    if "GET" in found:
        found.add("HEAD")
    return sorted(found | {"OPTIONS"}) if found else []


def _closing(status: int, detail: str, instance: str) -> Response:
    return problem(status, Reason.INVALID_INPUT, detail, instance, headers={"Connection": "close"})


async def _body_of(scope: Scope, receive: Receive, answer: _Answer) -> bytes | None:
    """The whole body. None when the request is answered already: its body was too large, or too slow."""
    try:
        async with asyncio.timeout(BODY_S):
            body, more = await _read(scope, receive)
    except TimeoutError:
        detail = f"The body did not arrive within {BODY_S:g} s."
        await _closing(408, detail, scope["path"])(scope, receive, answer.send)
        return None
    if body is None:
        await _refuse_body(scope, receive, answer, more=more)
    return body


async def _read(scope: Scope, receive: Receive) -> tuple[bytes | None, bool]:
    """The body, None when it is too large: nothing of it is kept then; and whether more of it is to come."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > MAX_BODY_BYTES:
            return None, True
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body), False
        body += message.get("body", b"")
        more = bool(message.get("more_body", False))
        if len(body) > MAX_BODY_BYTES:
            return None, more
        if not more:
            return bytes(body), False


async def _refuse_body(scope: Scope, receive: Receive, answer: _Answer, *, more: bool) -> None:
    """Answer first, so that a sender that listens can stop; then take in what it still sends, and close."""
    response = _closing(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", scope["path"])
    start = {"type": "http.response.start", "status": 413, "headers": response.raw_headers}
    await answer.send(start)
    await answer.send({"type": "http.response.body", "body": response.body, "more_body": True})
    # A sender that waits to be asked for the body (RFC 9110, section 10.1.1) is not asked.
    if more and not any(name == b"expect" for name, _ in scope["headers"]):
        await _drain(receive)
    await answer.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    left = DRAIN_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
