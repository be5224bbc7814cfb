"""Around every request: a bound on its size, a count, and an answer even where there is a defect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reference.core.errors import Reason
from reference.service.metrics import Metrics
from reference.service.problems import problem

MAX_BODY_BYTES = 64 * 1024
DRAIN_BYTES = 16 * 1024 * 1024
"""How much of a body that is too large is taken in and thrown away, so that its sender gets to read the answer: a
connection closed over unread bytes is reset (RFC 9112, section 9.6)."""
DRAIN_S = 5.0
"""How long that may take."""
log = logging.getLogger(__name__)


class Edge:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; the lifespan passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            body = await _read(scope, receive)
            if body is None:
                detail = f"The body is larger than {MAX_BODY_BYTES} bytes."
                response = problem(
                    413, Reason.INVALID_INPUT, detail, scope["path"], headers={"Connection": "close"}
                )
                await response(scope, receive, counted)
            else:
                await self._app(scope, _replay(body, receive), counted)
        except Exception:
            log.exception(
                "a defect in a request", extra={"method": scope["method"], "path": scope["path"][:200]}
            )
            if status == 0:
                detail = "The service has a defect here; its log says more."
                await problem(500, Reason.UNAVAILABLE, detail, scope["path"])(scope, receive, counted)
        finally:
            # The template of the route, not the path: one series for all clients.
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - began)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body, None when it is too large: nothing of it is kept then."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > MAX_BODY_BYTES:
            await _drain(scope, receive)
            return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            if more:
                await _drain(scope, receive)
            return None
        if not more:
            return bytes(body)


async def _drain(scope: Scope, receive: Receive) -> None:
    """Discard what is left of a body, within bounds. A sender that waits to be asked for it is not asked."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        return
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
