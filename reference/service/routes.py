"""The routes. Who may use them is one table: `reference.service.auth.ROLES`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import Connection, text

from reference.core.errors import Reason, ServiceError
from reference.core.job import JobStatus
from reference.core.limits import ServiceLimits
from reference.core.model import Health, Image
from reference.protocol.envelope import SigningKey
from reference.service import orders, records
from reference.service.auth import KeySource, Principal, authenticate, authorize
from reference.service.conversation import Conversation
from reference.service.metrics import CONTENT_TYPE, Metrics
from reference.service.problems import MEDIA_TYPE, problem
from reference.service.store import Store
from reference.service.views import (
    Checks,
    ClientRequest,
    Clients,
    ClientView,
    JobCreated,
    Jobs,
    JobView,
    UpdateRequest,
    VersionRequest,
    Versions,
    VersionView,
)

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics"})
"""Without a token: for the machines that watch over the service. Everything else needs one."""
Limit = Annotated[int, Query(ge=1, le=1000)]
_PROBLEM: Mapping[str, object] = {"description": "A problem (RFC 9457)", "content": {MEDIA_TYPE: {}}}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: dict(_PROBLEM) for status in (401, 403, *statuses)}


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes work with."""

    store: Store
    conversation: Conversation
    metrics: Metrics
    keys: KeySource
    key: SigningKey
    limits: ServiceLimits
    health: Health
    now_ms: Callable[[], int]


def _guarded(keys: KeySource) -> type[APIRoute]:
    """A kind of route that knows its caller before anything of the request is read."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                if self.path not in PUBLIC:
                    principal = authenticate(request.headers.get("authorization"), keys)
                    authorize(principal, request.method, self.path)
                    request.state.principal = principal
                return await handle(request)

            return guarded

    return GuardedRoute


def _caller(request: Request) -> Principal:
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return principal


def install(app: FastAPI, api: Api) -> None:
    """Add every route to the application."""
    app.router.route_class = _guarded(api.keys)
    _add_clients(app, api)
    _add_versions(app, api)
    _add_jobs(app, api)
    _add_watching(app, api)


def _add_clients(app: FastAPI, api: Api) -> None:
    desk = orders.Desk(api.key, api.limits)

    @app.get("/api/v1/clients", responses=_problems(422))
    async def list_clients(request: Request, after: str = "", limit: Limit = 100) -> Clients:
        """Clients in order of their ids."""
        tenant = _caller(request).tenant
        found = await api.store.read(lambda c: records.list_clients(c, tenant, after, limit + 1))
        items = [ClientView.of(record) for record in found[:limit]]
        return Clients(items=items, next_after=items[-1].client_id if len(found) > limit else None)

    @app.post("/api/v1/clients", status_code=201, responses=_problems(422))
    async def register_client(request: Request, response: Response, body: ClientRequest) -> ClientView:
        """Make a client known. One that is known already is answered with 200."""
        caller, now_ms = _caller(request), api.now_ms()
        record, new = await api.store.write(
            lambda c: orders.register_client(c, caller, body.client_id, now_ms)
        )
        response.status_code = 201 if new else 200
        response.headers["Location"] = f"/api/v1/clients/{record.id}"
        return ClientView.of(record)

    @app.get("/api/v1/clients/{client_id}", responses=_problems(404))
    async def get_client(request: Request, client_id: str) -> ClientView:
        """One client."""
        tenant = _caller(request).tenant
        return ClientView.of(await api.store.read(lambda c: orders.get_client(c, tenant, client_id)))

    @app.post("/api/v1/clients/{client_id}/update", status_code=202, responses=_problems(404, 409, 422, 503))
    async def update_client(
        request: Request, response: Response, client_id: str, body: UpdateRequest
    ) -> JobCreated:
        """Order an update. Once this is answered the order is kept, whatever fails afterwards."""
        caller, now_ms = _caller(request), api.now_ms()
        record = await api.store.write(
            lambda c: orders.order_update(c, desk, caller, client_id, body.target_version, now_ms)
        )
        api.metrics.jobs_created.inc()
        api.conversation.wake()
        response.headers["Location"] = f"/api/v1/jobs/{record.job.id}"
        return JobCreated(job_id=record.job.id)


def _add_versions(app: FastAPI, api: Api) -> None:
    @app.get("/api/v1/versions", responses=_problems(422))
    async def list_versions(request: Request, limit: Limit = 100) -> Versions:
        """Versions, the newest first."""
        tenant = _caller(request).tenant
        found = await api.store.read(lambda c: records.list_versions(c, tenant, limit))
        return Versions(items=[VersionView.of(record) for record in found])

    @app.post("/api/v1/versions", status_code=201, responses=_problems(409, 422))
    async def register_version(request: Request, response: Response, body: VersionRequest) -> VersionView:
        """Make a version known. The same again is answered with 200; another meaning of it is a conflict."""
        caller, now_ms = _caller(request), api.now_ms()
        image = Image(body.repository, body.digest, body.version)
        given, usual = body.health, api.health
        health = Health(
            usual.probe if given.probe is None else given.probe,
            usual.start_period_ms if given.start_period_ms is None else given.start_period_ms,
            usual.window_ms if given.window_ms is None else given.window_ms,
            usual.stable_for_ms if given.stable_for_ms is None else given.stable_for_ms,
        )
        record, new = await api.store.write(
            lambda c: orders.register_version(c, caller, image, health, now_ms)
        )
        response.status_code = 201 if new else 200
        return VersionView.of(record)


def _add_jobs(app: FastAPI, api: Api) -> None:
    desk = orders.Desk(api.key, api.limits)

    @app.get("/api/v1/jobs", responses=_problems(422))
    async def list_jobs(
        request: Request, client: str | None = None, status: JobStatus | None = None, limit: Limit = 100
    ) -> Jobs:
        """Jobs, the newest first."""
        tenant = _caller(request).tenant
        found = await api.store.read(lambda c: records.list_jobs(c, tenant, client, status, limit))
        return Jobs(items=[JobView.of(record) for record in found])

    @app.get("/api/v1/jobs/{job_id}", responses=_problems(404))
    async def get_job(request: Request, job_id: str) -> JobView:
        """One job."""
        tenant = _caller(request).tenant
        return JobView.of(await api.store.read(lambda c: orders.get_job(c, tenant, job_id)))

    @app.post("/api/v1/jobs/{job_id}/cancel", status_code=202, responses=_problems(404, 409, 503))
    async def cancel_job(request: Request, job_id: str) -> JobView:
        """Ask for the end of a job. A device that has begun to switch finishes and reports all the same."""
        caller, now_ms = _caller(request), api.now_ms()

        def cancel(connection: Connection) -> tuple[records.JobRecord, records.JobRecord]:
            before = orders.get_job(connection, caller.tenant, job_id)
            return before, orders.order_cancel(connection, desk, caller, job_id, now_ms)

        before, after = await api.store.write(cancel)
        api.conversation.count(before, after)
        api.conversation.wake()
        return JobView.of(after)


def _add_watching(app: FastAPI, api: Api) -> None:
    @app.get("/healthz")
    async def healthz() -> Checks:
        """The process answers."""
        return Checks(status="ok", checks={})

    @app.get("/readyz", response_model=Checks, responses={503: dict(_PROBLEM)})
    async def readyz() -> Checks | Response:
        """Whether orders can be taken and carried out."""
        checks = {"database": "ok", "broker": "ok" if api.conversation.connected else "not connected"}
        try:
            await api.store.read(lambda c: c.execute(text("SELECT 1")).scalar_one())
        except ServiceError as error:
            checks["database"] = error.what
        if set(checks.values()) == {"ok"}:
            return Checks(status="ready", checks=checks)
        detail = "; ".join(f"{name}: {state}" for name, state in checks.items())
        return problem(503, Reason.UNAVAILABLE, detail, "/readyz", {"checks": checks})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(api.metrics.text(), media_type=CONTENT_TYPE)
