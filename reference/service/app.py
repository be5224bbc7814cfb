"""The service as an ASGI application: its parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

from reference.core.limits import DEFAULT_SERVICE_LIMITS, ServiceLimits
from reference.core.model import Health
from reference.protocol.envelope import SigningKey
from reference.service import problems, routes
from reference.service.auth import KeySource
from reference.service.conversation import Conversation, Timing, wall_ms
from reference.service.link import Link
from reference.service.metrics import Metrics
from reference.service.middleware import Edge
from reference.service.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of. The caller opens the store; the application closes it."""

    store: Store
    link: Link
    key: SigningKey
    """Signs commands and replies."""
    keys: KeySource
    """Check the callers' tokens."""
    limits: ServiceLimits = DEFAULT_SERVICE_LIMITS
    health: Health = field(default_factory=Health)
    """For versions that do not say how they prove that they are healthy."""
    timing: Timing = field(default_factory=Timing)
    now_ms: Callable[[], int] = wall_ms


def create_app(parts: Parts) -> FastAPI:
    """The application. Its lifespan runs the conversation with the devices."""
    metrics = Metrics()
    conversation = Conversation(
        parts.store, parts.link, parts.key, metrics, limits=parts.limits, timing=parts.timing, now_ms=parts.now_ms
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await conversation.start()
            yield
        finally:
            await conversation.stop()
            await parts.store.close()

    app = FastAPI(
        title="Blackstart Device Management Service",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        redirect_slashes=False,
    )
    problems.install(app)
    routes.install(
        app,
        routes.Api(
            parts.store,
            conversation,
            metrics,
            parts.keys,
            parts.key,
            parts.limits,
            parts.health,
            parts.now_ms,
        ),
    )
    app.add_middleware(Edge, metrics=metrics)
    return app
