"""The service as an ASGI application: its parts, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

from reference.core.limits import DEFAULT_SERVICE_LIMITS, ServiceLimits
from reference.core.model import Health
from reference.protocol.envelope import SigningKey
from reference.service import enrolment_routes, openapi, problems, routes
from reference.service.auth import Authenticator, KeySource, TokenRules
from reference.service.conversation import Conversation, Timing, wall_ms
from reference.service.enrolment import Enrolment
from reference.service.events import Hub
from reference.service.guard import check_table
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
    rules: TokenRules = field(default_factory=TokenRules)
    """What those have to say."""
    limits: ServiceLimits = DEFAULT_SERVICE_LIMITS
    health: Health = field(default_factory=Health)
    """For versions that do not say how they prove that they are healthy."""
    timing: Timing = field(default_factory=Timing)
    now_ms: Callable[[], int] = wall_ms
    enrolment: Enrolment = field(default_factory=Enrolment)
    """Without an issuer no device can enrol here."""


def create_app(parts: Parts) -> FastAPI:
    """The application. Its lifespan runs the conversation with the devices."""
    metrics = Metrics()
    conversation = Conversation(
        parts.store, parts.link, parts.key, metrics, limits=parts.limits, timing=parts.timing, now_ms=parts.now_ms
    )  # fmt: skip
    hub = Hub(parts.store, parts.limits, parts.now_ms)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await conversation.start()
            hub.start()
            async with enrolment_routes.publishing(registry):
                yield
        finally:
            await hub.stop()
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
        generate_unique_id_function=openapi.operation_id,
    )
    app.state.hub = hub
    openapi.install(app)
    problems.install(app)
    routes.install(
        app,
        routes.Api(
            parts.store,
            conversation,
            hub,
            metrics,
            Authenticator(parts.keys, parts.rules),
            parts.key,
            parts.limits,
            parts.health,
            parts.now_ms,
        ),
    )
    registry = enrolment_routes.install(
        app, parts.store, parts.enrolment, parts.now_ms, parts.limits.registration_token_ms
    )
    check_table(app.routes)
    app.add_middleware(Edge, metrics=metrics, routes=app.routes)
    return app
