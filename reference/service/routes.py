"""The routes, put together. Who may use them is one table: `reference.service.auth.ROLES`."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Response
from sqlalchemy import text

from reference.core.errors import Reason, ServiceError
from reference.service import routes_clients, routes_events, routes_jobs, routes_versions
from reference.service.api import PROBLEM, Api, known_query
from reference.service.guard import guarded
from reference.service.metrics import CONTENT_TYPE
from reference.service.problems import problem
from reference.service.readiness import DATABASE
from reference.service.views import Checks

__all__ = ["Api", "install"]


def install(app: FastAPI, api: Api) -> None:
    """Add every route to the application."""
    app.router.route_class = guarded(api.authenticator)
    app.router.dependencies.append(Depends(known_query))
    for part in (routes_clients, routes_versions, routes_jobs, routes_events):
        part.add(app, api)
    _add_watching(app, api)


def _add_watching(app: FastAPI, api: Api) -> None:
    @app.get("/healthz")
    async def healthz() -> Checks:
        """The process answers."""
        return Checks(status="ok", checks={})

    @app.get("/readyz", response_model=Checks, responses={503: dict(PROBLEM)})
    async def readyz() -> Checks | Response:
        """Whether orders can be taken and carried out."""
        database = api.conversation.readiness.part(DATABASE)
        checks = {
            "database": database.detail,
            "broker": "ok" if api.conversation.connected else "not connected",
        }
        # A database that is known to be down is not waited for, and being read does not prove that it can be written.
        if database.ok:
            try:
                await api.store.read(lambda c: c.execute(text("SELECT 1")).scalar_one())
            except ServiceError as error:
                checks["database"] = error.what
        if set(checks.values()) == {"ok"}:
            return Checks(status="ready", checks=checks)
        detail = "; ".join(f"{name}: {state}" for name, state in checks.items())
        # In ms since 1970: since when each part is as it is.
        since = {part.name: part.since_ms for part in api.conversation.readiness.parts()}
        return problem(503, Reason.UNAVAILABLE, detail, "/readyz", {"checks": checks, "sinceMs": since})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(api.metrics.text(), media_type=CONTENT_TYPE)
