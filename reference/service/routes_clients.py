"""Routes of clients, and the orders that they are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from sqlalchemy import Connection

from reference.core.job import JobStatus
from reference.protocol.models import Version
from reference.service import correlation, listing, orders
from reference.service.api import (
    Api,
    Cursor,
    Key,
    Limit,
    Supersede,
    link_next,
    made,
    make,
    problems,
    sorting,
)
from reference.service.enrolment_records import add_token
from reference.service.guard import caller
from reference.service.idempotency import Made
from reference.service.listing import ClientFilter, Listed, Presence
from reference.service.orders import Ordered, Terms
from reference.service.paging import Asked
from reference.service.views import (
    ClientRequest,
    Clients,
    ClientView,
    JobCreated,
    RegisteredView,
    UpdateRequest,
)

Prefix = Annotated[
    str | None, Query(pattern="^[A-Za-z0-9_-]{1,36}$", description="How the client's id begins.")
]
Statuses = Annotated[list[JobStatus], Query(max_length=7)]


def add(app: FastAPI, api: Api) -> None:
    """Add them to the application."""
    _add_clients(app, api)
    _add_orders(app, api)


def _add_clients(app: FastAPI, api: Api) -> None:
    def view(found: Listed) -> ClientView:
        return ClientView.of(*found, api.now_ms(), api.limits.presence_ms)

    @app.get("/api/v1/clients", responses=problems(422))
    async def list_clients(
        request: Request,
        response: Response,
        presence: Presence | None = None,
        running_version: Annotated[Version | None, Query(alias="runningVersion")] = None,
        last_job_status: Annotated[Statuses, Query(alias="lastJobStatus")] = [],  # noqa: B006
        prefix: Prefix = None,
        sort: Annotated[str, sorting("clientId", "createdAt", "lastSeenAt")] = "clientId",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Clients:
        """Clients, in order of their ids or another."""
        tenant, since_ms = caller(request).tenant, api.now_ms() - api.limits.presence_ms
        wanted = ClientFilter(presence, since_ms, running_version, prefix, last_job_status)
        asked = Asked(sort, limit, cursor, (presence, running_version, prefix, *sorted(last_job_status)))
        found = await api.store.read(lambda c: listing.list_clients(c, tenant, wanted, asked))
        link_next(request, response, found.cursor)
        return Clients(items=[view(one) for one in found.items], next_cursor=found.cursor)

    @app.post(
        "/api/v1/clients",
        status_code=201,
        response_model=RegisteredView,
        responses={200: {"model": RegisteredView}, **problems(422)},
    )
    async def register_client(request: Request, body: ClientRequest, key: Key = None) -> Response:
        """Make a client known, and its registration token, shown this once. Known already: 200, and no token."""
        who, now_ms = caller(request), api.now_ms()

        def work(connection: Connection) -> Made:
            record, new = orders.register_client(connection, who, body.client_id, now_ms)
            found = orders.get_listed_client(connection, who.tenant, record.id)
            where, bare = f"/api/v1/clients/{record.id}", RegisteredView.shown(view(found), None)
            if not new:
                return made(200, bare, where)
            token = add_token(connection, who, record.id, now_ms, api.limits.registration_token_ms)
            return made(201, RegisteredView.shown(view(found), token), where, kept=bare)

        return await make(api, request, key, body, work)

    @app.get("/api/v1/clients/{client_id}", responses=problems(404))
    async def get_client(request: Request, client_id: str) -> ClientView:
        """One client."""
        tenant = caller(request).tenant
        return view(await api.store.read(lambda c: orders.get_listed_client(c, tenant, client_id)))


def _add_orders(app: FastAPI, api: Api) -> None:
    desk = orders.Desk(api.key, api.limits)

    async def order(
        request: Request,
        key: str | None,
        body: UpdateRequest | None,
        work: orders.Work,
    ) -> Response:
        done: list[Ordered] = []

        def keep(connection: Connection) -> Made:
            done[:] = [ordered := work(connection)]
            job_id = ordered.job.id
            return made(202, JobCreated(job_id=job_id), f"/api/v1/jobs/{job_id}")

        answer = await make(api, request, key, body, keep)
        if "Idempotent-Replayed" not in answer.headers:
            api.metrics.jobs_created.inc()
            for ordered in done:
                for before, after in ordered.changed:
                    api.conversation.count(before, after)
                if ordered.command is not None:
                    api.conversation.send(ordered.command)
                else:
                    api.conversation.wake()
        return answer

    @app.post(
        "/api/v1/clients/{client_id}/update",
        status_code=202,
        response_model=JobCreated,
        responses=problems(404, 409, 422),
    )
    async def update_client(
        request: Request,
        client_id: str,
        body: UpdateRequest,
        supersede: Supersede = False,
        key: Key = None,
    ) -> Response:
        """Order an update. Once this is answered the order is kept, whatever fails afterwards.

        One to the version that runs already ends as SUCCEEDED with the reason `already_running`, without a restart.
        """
        who, now_ms = caller(request), api.now_ms()
        terms = Terms(
            supersede, body.policy.to_change(), correlation.current(), api.conversation.sending_ms()
        )
        return await order(
            request,
            key,
            body,
            lambda c: orders.order_update(c, desk, who, client_id, body.target_version, now_ms, terms),
        )

    @app.post(
        "/api/v1/clients/{client_id}/rollback",
        status_code=202,
        response_model=JobCreated,
        responses=problems(404, 409, 422),
    )
    async def rollback_client(
        request: Request, client_id: str, supersede: Supersede = False, key: Key = None
    ) -> Response:
        """Order the version that the client ran before, a withdrawn one too."""
        who, now_ms = caller(request), api.now_ms()
        sending_ms = api.conversation.sending_ms()
        terms = Terms(supersede, correlation_id=correlation.current(), sending_ms=sending_ms)
        return await order(
            request, key, None, lambda c: orders.order_rollback(c, desk, who, client_id, now_ms, terms)
        )
