"""Routes of versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request, Response
from sqlalchemy import Connection

from reference.core.model import Health, Image, Policy
from reference.service import listing, orders
from reference.service.api import Api, Cursor, Key, Limit, link_next, made, make, problems, sorting
from reference.service.guard import caller
from reference.service.idempotency import Made
from reference.service.paging import Asked
from reference.service.views import HealthRequest, VersionRequest, Versions, VersionView


def add(app: FastAPI, api: Api) -> None:
    """Add them to the application."""

    @app.get("/api/v1/versions", responses=problems(422))
    async def list_versions(
        request: Request,
        response: Response,
        withdrawn: bool | None = None,
        sort: Annotated[str, sorting("version", "createdAt")] = "-createdAt",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Versions:
        """Versions, the newest first or in another order."""
        tenant, asked = caller(request).tenant, Asked(sort, limit, cursor, (withdrawn,))
        found = await api.store.read(lambda c: listing.list_versions(c, tenant, withdrawn, asked))
        link_next(request, response, found.cursor)
        return Versions(items=[VersionView.of(one) for one in found.items], next_cursor=found.cursor)

    @app.post(
        "/api/v1/versions",
        status_code=201,
        response_model=VersionView,
        responses={200: {"model": VersionView}, **problems(409, 422)},
    )
    async def register_version(request: Request, body: VersionRequest, key: Key = None) -> Response:
        """Make a version known. The same again is answered with 200; another meaning of it is a conflict."""
        who, now_ms = caller(request), api.now_ms()
        image, health = Image(body.repository, body.digest, body.version), _health(body.health, api.health)
        policy = body.policy.to_change().over(Policy())

        def work(connection: Connection) -> Made:
            record, new = orders.register_version(connection, who, image, health, now_ms, policy)
            return made(201 if new else 200, VersionView.of(record), f"/api/v1/versions/{body.version}")

        return await make(api, request, key, body, work)

    @app.get("/api/v1/versions/{version}", responses=problems(404))
    async def get_version(request: Request, version: str) -> VersionView:
        """One version."""
        tenant = caller(request).tenant
        return VersionView.of(await api.store.read(lambda c: orders.get_version(c, tenant, version)))

    async def withdraw(request: Request, version: str, *, withdrawn: bool) -> VersionView:
        who, now_ms = caller(request), api.now_ms()
        return VersionView.of(
            await api.store.write(
                lambda c: orders.withdraw_version(c, who, version, now_ms, withdrawn=withdrawn)
            )
        )

    @app.post("/api/v1/versions/{version}/withdraw", responses=problems(404))
    async def withdraw_version(request: Request, version: str) -> VersionView:
        """Let no update order it any more. Jobs that are open go on; a rollback may still bring it back."""
        return await withdraw(request, version, withdrawn=True)

    @app.post("/api/v1/versions/{version}/restore", responses=problems(404))
    async def restore_version(request: Request, version: str) -> VersionView:
        """Let updates order it again."""
        return await withdraw(request, version, withdrawn=False)


def _health(given: HealthRequest, usual: Health) -> Health:
    return Health(
        usual.probe if given.probe is None else given.probe,
        usual.start_period_ms if given.start_period_ms is None else given.start_period_ms,
        usual.window_ms if given.window_ms is None else given.window_ms,
        usual.stable_for_ms if given.stable_for_ms is None else given.stable_for_ms,
    )
